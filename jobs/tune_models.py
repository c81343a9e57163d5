"""Tune the first member of the ensemble on Ray Tune; the jobs that follow on the same OUT train with what it found.

Uses the features that earlier jobs on the same OUT left; what is missing is computed first.
"""

import os
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptoml.errors import ConfigError
from jobs.command_line import run, say
from jobs.experiment import ExperimentArguments
from jobs.stages import run_stage

if TYPE_CHECKING:
    from cryptoml.pipeline import Pipeline

__all__ = ["TuneArguments", "main"]


@dataclass(frozen=True)
class TuneArguments(ExperimentArguments):
    """Search hyperparameters; how many trials and where is the section `sweep` of the settings.

    OUT/sweep/ holds the study (study.db, for optuna-dashboard), trials.parquet, sweep.html and TensorBoard curves. An
    interrupted search goes on when the same command is given again: no finished trial is run twice.
    """

    resume: bool = False
    """Insist that OUT or STUDY holds a search to go on with."""
    study: str | None = None
    """Storage URL of the study, such as postgresql://host/db; OUT/sweep/study.db by default."""
    mlflow: bool = False
    """Log to MLflow as well: to MLFLOW_TRACKING_URI, or OUT/sweep/mlflow.db without it. Needs Ray and the extra mlflow."""


def main(arguments: TuneArguments) -> int:
    """Run the job; return its exit code."""

    def tune(pipeline: "Pipeline") -> dict[str, Any]:
        if not pipeline.config.sweep.num_trials:
            raise ConfigError("sweep.num_trials must be at least 1, was 0")
        if arguments.resume and arguments.study is None:
            _require_study(pipeline)
        return _tune(_on_engine(arguments, pipeline))

    if arguments.resume and arguments.again:
        raise ConfigError("resume must not be given with again, which discards the earlier search")
    run_stage(arguments, "tune_models", tune, ["sweep"])
    return 0


def _require_study(pipeline: "Pipeline") -> None:
    pipeline.run.bring("sweep")
    if not (pipeline.run.out / "sweep" / "study.db").exists():
        raise ConfigError(f"resume needs an earlier search, found none at {pipeline.run.address}/sweep/study.db")


def _tune(pipeline: "Pipeline") -> dict[str, Any]:
    """Search, and show what came of it."""
    from cryptoml.training.sweep import best_parameters

    trials = pipeline.trials
    counts = Counter(trial.state for trial in trials)
    best = min(trials, key=lambda trial: (trial.cost, trial.number))
    say(", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items())))
    say(f"best: trial {best.number}, {', '.join(f'{name} {value:.5g}' for name, value in best.values.items())}")
    for name, value in best.parameters.items():
        say(f"  {name:16s} {value:.5g}" if isinstance(value, float) else f"  {name:16s} {value}")
    say(f"sweep: {pipeline.run.address}/sweep/sweep.html")
    return {"outputs": ["sweep"], "trials": dict(counts), "best": best_parameters(trials), "values": best.values}


def _on_engine(arguments: TuneArguments, pipeline: "Pipeline") -> "Pipeline":
    """Return the pipeline with the study's place and the tracking store."""
    pipeline = replace(pipeline, study=arguments.study)
    if not arguments.mlflow:
        return pipeline
    if arguments.engine != "ray":
        raise ConfigError(f"mlflow needs engine 'ray', was {arguments.engine!r}")
    from cryptoml.distributed.tuning.engine import RayEngine

    place = pipeline.run.out / "sweep" / "mlflow.db"
    tracking = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place}"
    engine = RayEngine(pipeline.config.workers, arguments.storage, tracking)
    return replace(pipeline, stages=replace(pipeline.stages, sweep=engine))


if __name__ == "__main__":
    sys.exit(run(main, TuneArguments))
