"""What the jobs on one experiment share: the same flags over the same run folder, on Ray or in one process.

Each job goes as far as its own stage and leaves it in the run folder, where the next one finds it: tune, train, evaluate.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cryptoml.config import ExperimentConfig, Preset, load_config, preset
from cryptoml.data.storage import open_storage
from cryptoml.pipeline import Market, Pipeline, Stages, open_market, plan_folds

__all__ = ["ExperimentArguments", "clear_storage", "open_stages", "read_data", "run_stage", "say"]

NOISE = "worker processes have been started"
"""Ray's remark that side-by-side training runs need several processes; Ray reads the setting when it is imported."""


@dataclass(frozen=True)
class ExperimentArguments:
    """The experiment and where it runs."""

    data: str
    """A folder of candle files, a lake (local or s3://), or 'synthetic' for the built-in market."""
    out: str
    """Folder of the outputs, local or s3://; the jobs on one experiment share it."""
    train_end: str | None = None
    """Last day that the first model may learn from, such as 2023-12-31 (UTC); by default the last quarter is the test."""
    preset: Preset = "baseline"
    """debug: about a minute; baseline: a laptop; production: a cluster."""
    config: Path | None = None
    """YAML file with changes to the preset."""
    symbols: tuple[str, ...] = ()
    """Markets to use, such as BTC/USDT ETH/USDT; all by default."""
    timeframe: str | None = None
    """Length of a bar; needed where the data holds several."""
    seed: int | None = None
    """Seed of every random choice, that of the built-in market included."""
    folds: int | None = None
    """Refits over the test span."""
    seeds: int | None = None
    """Fits of the whole ensemble with different seeds, all reported."""
    engine: Literal["ray", "local"] = "ray"
    """ray: features, sweep and members side by side on Ray; local: everything in this process."""
    storage: str | None = None
    """Folder for training checkpoints that all nodes of a cluster reach; OUT by default."""
    parallel_folds: int = 1
    """Refits that run side by side on Ray."""
    num_workers: int | None = None
    """Data-parallel workers of each member; 1 unless the experiment says otherwise."""
    cpus: float | None = None
    """CPUs of each worker; 1 unless the experiment says otherwise."""
    gpus: float | None = None
    """GPUs of each worker; a fraction lets several members share one."""
    max_concurrent: int | None = None
    """Members fitted at once; by default as many as the cluster holds."""
    cluster_can_grow: bool = False
    """Wait for nodes that an autoscaler adds, instead of refusing what the cluster cannot hold now."""
    again: bool = False
    """Compute anew what this job has finished here for the same data and settings."""

    def experiment(self) -> ExperimentConfig:
        """Return the preset with the changes that file and flags state.

        Raises:
            ConfigError: A setting is unknown or impossible.
        """
        config = preset(self.preset)
        if self.config is not None:
            config = load_config(self.config, config)
        if self.timeframe is not None:
            config = config.updated(timeframe=self.timeframe)
        if self.seed is not None:
            own = {"seed": self.seed}
            config = config.updated(**own, market=own, baselines=own, bootstrap=own)
        if self.folds is not None:
            config = config.updated(walk_forward={"num_folds": self.folds})
        if self.seeds is not None:
            config = config.updated(num_seeds=self.seeds)
        asked = {name: getattr(self, name) for name in ("num_workers", "cpus", "gpus", "max_concurrent")}
        asked["cluster_can_grow"] = self.cluster_can_grow or None
        return config.updated(workers={name: value for name, value in asked.items() if value is not None})


def run_stage(
    arguments: ExperimentArguments, job: str, work: Callable[[Pipeline], dict[str, Any]], stages: Sequence[str] = ()
) -> bool:
    """Do a job's work on the experiment inside its run folder; False where an earlier run has already finished it all.

    Args:
        arguments: The command line.
        job: Name of the job, for the result file.
        work: The stages to run; returns what the result file shall say.
        stages: How the names of the job's own stages begin, which `--again` computes anew.
    """
    config = arguments.experiment()
    market = read_data(arguments, config)
    plan_folds(config, market.panel, arguments.train_end)  # a span that does not fit is told before a cluster starts
    started = time.monotonic()
    with open_stages(arguments) as engine:
        pipeline = _open(arguments, config, market, engine)
        with pipeline.run as run:
            if arguments.again:
                run.discard(*stages)
                clear_storage(arguments, pipeline)
                pipeline = replace(pipeline, fresh="sweep" in stages)
            elif run.result() is not None:
                say(f"{run.address} is complete for this data and these settings; --again computes it anew")
                return False
            result = work(pipeline)
            run.record(job=job, seconds=round(time.monotonic() - started, 1), **result)
        if result.get("complete"):
            clear_storage(arguments, pipeline)
    return True


def clear_storage(arguments: ExperimentArguments, pipeline: Pipeline) -> None:
    """Remove what a finished run left in a storage of its own: features and fits, which are in OUT now or needed no more."""
    if arguments.storage is not None and not pipeline.config.workers.keep_checkpoints:
        open_storage(arguments.storage).remove_folder(pipeline.run.name)


def read_data(arguments: ExperimentArguments, config: ExperimentConfig) -> Market:
    """Open the data and show what validation found."""
    market = open_market(arguments.data, config, arguments.symbols)
    if market.synthetic is None:
        say(market.health.to_text())
    return market


def say(text: str) -> None:
    """Write a line of the job's own output."""
    sys.stdout.write(f"{text}\n")


def _open(arguments: ExperimentArguments, config: ExperimentConfig, market: Market, stages: Stages) -> Pipeline:
    return Pipeline.open(config, market, arguments.out, train_end=arguments.train_end, stages=stages)


@contextmanager
def open_stages(arguments: ExperimentArguments) -> Iterator[Stages]:
    """Give the pipeline's stages for the length of a `with` block: plain ones, or those of a Ray cluster."""
    if arguments.engine == "local":
        yield Stages()
        return
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", NOISE)
    from cryptoml.distributed.cluster import cluster
    from cryptoml.distributed.stages import ray_stages

    with cluster(dashboard=arguments.experiment().workers.num_workers > 1):
        yield ray_stages(arguments.storage, arguments.experiment().workers, arguments.parallel_folds)
