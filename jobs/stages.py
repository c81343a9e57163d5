"""What the jobs on one experiment share: stages over one run folder, on Ray or in one process.

Each job goes as far as its own stage and leaves it in the run folder, where the next one finds it: tune, train, evaluate.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cryptoml.data.storage import open_storage
from cryptoml.training.worker_config import WorkerConfig
from jobs.command_line import begin_result, outcome, say
from jobs.experiment import ExperimentArguments

if TYPE_CHECKING:
    from cryptoml.config import ExperimentConfig
    from cryptoml.pipeline import Market, Pipeline, Stages

__all__ = ["clear_storage", "open_stages", "read_data", "run_stage"]

NOISE = "worker processes have been started"
"""Ray's remark that side-by-side training runs need several processes; Ray reads the setting when it is imported."""


def run_stage(
    arguments: ExperimentArguments, job: str, work: "Callable[[Pipeline], dict[str, Any]]", stages: Sequence[str] = ()
) -> bool:
    """Do a job's work on the experiment inside its run folder; False where an earlier run has already finished it all.

    Args:
        arguments: The command line.
        job: Name of the job, for the result file.
        work: The stages to run; returns what the result file shall say.
        stages: How the names of the job's own stages begin, which `--again` computes anew.
    """
    from cryptoml.pipeline import Pipeline, plan_folds

    started = time.monotonic()
    with ExitStack() as held:
        named = held.enter_context(_named_cluster(arguments))
        config = arguments.experiment()
        engine = held.enter_context(open_stages(arguments)) if named else None
        market = read_data(arguments, config)
        plan_folds(config, market.panel, arguments.train_end)  # a span that does not fit is told before a cluster starts
        engine = engine or held.enter_context(open_stages(arguments))
        pipeline = Pipeline.open(config, market, arguments.out, train_end=arguments.train_end, stages=engine)
        run = held.enter_context(pipeline.run)
        if arguments.again:
            run.discard(*stages)
            clear_storage(arguments, pipeline)
            pipeline = replace(pipeline, fresh="sweep" in stages)
        elif (done := run.result()) is not None:
            run.record(**done)
            say(f"{run.address} is complete for this data and these settings; --again computes it anew")
            return False
        begin_result(arguments.out, job)
        result = work(pipeline)
        run.record(job=job, **outcome(0), seconds=round(time.monotonic() - started, 1), **result)
        if result.get("complete"):
            clear_storage(arguments, pipeline)
    return True


def clear_storage(arguments: ExperimentArguments, pipeline: "Pipeline") -> None:
    """Remove what a finished run left in a storage of its own: features and fits, which are in OUT now or needed no more."""
    if arguments.storage is not None and not pipeline.config.workers.keep_checkpoints:
        open_storage(arguments.storage).remove_folder(pipeline.run.name)


def read_data(arguments: ExperimentArguments, config: "ExperimentConfig") -> "Market":
    """Open the data and show what validation found."""
    from cryptoml.pipeline import open_market

    market = open_market(arguments.data, config, arguments.symbols)
    if market.synthetic is None:
        say(market.health.to_text())
    return market


@contextmanager
def _named_cluster(arguments: ExperimentArguments) -> Iterator[bool]:
    """Hold a connection to the cluster that RAY_ADDRESS names, and say whether it names one.

    What such a cluster refuses is told before the data is read.
    """
    if arguments.engine == "local" or not os.environ.get("RAY_ADDRESS"):
        yield False
        return
    _load_ray()
    from cryptoml.distributed.cluster import cluster
    from cryptoml.distributed.nodes import require_able_nodes
    from cryptoml.distributed.resources import slots_for

    with cluster():
        if arguments.config is None:  # which may say more of the workers
            slots_for(WorkerConfig(**arguments.workers()), 1)
        require_able_nodes()
        yield True


@contextmanager
def open_stages(arguments: ExperimentArguments) -> "Iterator[Stages]":
    """Give the pipeline's stages for the length of a `with` block: plain ones, or those of a Ray cluster."""
    from cryptoml.pipeline import Stages

    if arguments.engine == "local":
        yield Stages()
        return
    _load_ray()
    from cryptoml.distributed.claim import claim
    from cryptoml.distributed.cluster import cluster
    from cryptoml.distributed.stages import ray_stages

    workers, place = arguments.experiment().workers, open_storage(arguments.out)
    shared = bool(os.environ.get("RAY_ADDRESS")) and not place.is_local  # where no lock of files keeps other drivers out
    with cluster(dashboard=workers.num_workers > 1), claim(place.address) if shared else nullcontext():
        yield ray_stages(arguments.storage, workers, arguments.parallel_folds)


def _load_ray() -> None:
    """Import all that uses Ray, before anything connects.

    A cluster may unpack a job's code anew while its driver connects, and a module that is looked for then is not found.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", NOISE)
    for name in ("claim", "cluster", "nodes", "resources", "stages"):
        import_module(f"cryptoml.distributed.{name}")
