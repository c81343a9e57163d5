"""Candles in, report out: the whole flow on Ray.

Runs on a private Ray cluster on this machine, or on the one that RAY_ADDRESS names.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptoml.config import ExperimentConfig, Preset, load_config, preset
from cryptoml.evaluation.report import summary_table
from cryptoml.pipeline import Market, Outcome, open_market, plan_folds, run_pipeline
from jobs.command_line import run

__all__ = ["PipelineArguments", "main"]

NOISE = "worker processes have been started"
"""Ray's remark that side-by-side training runs need several processes; Ray reads the setting when it is imported."""


@dataclass(frozen=True)
class PipelineArguments:
    """Turn candles into features, an ensemble, a walk-forward evaluation, signals and a report.

    Writes OUT/report.html, OUT/report.json, OUT/predictions.parquet and OUT/bundle/. An interrupted run goes on when the
    same command is given again.
    """

    data: str
    """A folder of candle files, a lake (local or s3://), or 'synthetic' for the built-in market."""
    out: Path
    """Folder of the outputs."""
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
    engine: Literal["ray", "local"] = "ray"
    """ray: features, sweep and members side by side on Ray; local: everything in this process."""
    storage: str | None = None
    """Folder for training checkpoints that all nodes of a cluster reach; OUT by default."""


def main(arguments: PipelineArguments) -> int:
    """Run the job; return its exit code."""
    config = _config(arguments)
    market = open_market(arguments.data, config, arguments.symbols)
    if market.synthetic is None:
        _say(market.health.to_text())
    plan_folds(config, market.panel, arguments.train_end)  # a span that does not fit is told before a cluster starts
    outcome = _run(arguments, config, market)
    _say(summary_table(outcome.report))
    control = outcome.report.extras.get("Control on shuffled labels")
    if control is not None:
        _say("shuffled labels: accuracy {accuracy:.3f}, by chance {low:.3f} to {high:.3f}".format(**control))
    if market.synthetic is not None:
        found = outcome.report.extras["Built-in market"]
        _say("built-in market: " + ", ".join(f"{label} {value:.3f}" for label, value in found.items()))
    _say(f"report: {outcome.folder / 'report.html'}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _config(arguments: PipelineArguments) -> ExperimentConfig:
    config = preset(arguments.preset)
    if arguments.config is not None:
        config = load_config(arguments.config, config)
    if arguments.timeframe is not None:
        config = config.updated(timeframe=arguments.timeframe)
    if arguments.seed is not None:
        own = {"seed": arguments.seed}
        config = config.updated(**own, market=own, baselines=own, bootstrap=own)
    return config


def _run(arguments: PipelineArguments, config: ExperimentConfig, market: Market) -> Outcome:
    if arguments.engine == "local":
        return run_pipeline(config, market, arguments.out, train_end=arguments.train_end)
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", NOISE)
    from cryptoml.distributed.cluster import cluster
    from cryptoml.distributed.stages import ray_stages

    with cluster():
        stages = ray_stages(arguments.storage)
        return run_pipeline(config, market, arguments.out, train_end=arguments.train_end, stages=stages)


if __name__ == "__main__":
    sys.exit(run(main, PipelineArguments))
