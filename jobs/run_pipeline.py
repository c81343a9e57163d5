"""Candles in, report out: the whole flow on Ray.

Runs on a private Ray cluster on this machine, or on the one that RAY_ADDRESS names.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.command_line import run, say
from jobs.experiment import ExperimentArguments
from jobs.stages import run_stage

if TYPE_CHECKING:
    from cryptoml.pipeline import Outcome, Pipeline

__all__ = ["PipelineArguments", "main", "show"]


@dataclass(frozen=True)
class PipelineArguments(ExperimentArguments):
    """Turn candles into features, an ensemble, a walk-forward evaluation, signals and a report.

    Writes OUT/report.html, OUT/report.json, OUT/predictions.parquet, OUT/bundle/ and OUT/result.json. An interrupted run
    goes on when the same command is given again; a finished one is not repeated.
    """


def main(arguments: PipelineArguments, job: str = "run_pipeline", stages: Sequence[str] = ("features", "sweep", "fold_")) -> int:
    """Run the job; return its exit code. `job` and `stages` are those of `run_stage`."""
    run_stage(arguments, job, evaluate, stages)
    return 0


def evaluate(pipeline: "Pipeline") -> dict[str, Any]:
    """Run all stages and show what came out."""
    outcome = pipeline.evaluate()
    show(outcome)
    say(f"report: {pipeline.run.address}/report.html")
    pipeline.run.finish()
    return {"complete": True, "outputs": ["bundle", "predictions.parquet", "report.html", "report.json"]}


def show(outcome: "Outcome") -> None:
    """Write the table of the report and the checks beside it."""
    from cryptoml.evaluation.report import summary_table

    extras = outcome.report.extras
    say(summary_table(outcome.report))
    control = extras.get("Control on shuffled labels")
    if control is not None:
        say("shuffled labels: accuracy {accuracy:.3f}, by chance {low:.3f} to {high:.3f}".format(**control))
    if "Built-in market" in extras:
        say("planted in the built-in market and found:")
        for label, value in extras["Built-in market"].items():
            say(f"  {label:50s} {value:.3f}")


if __name__ == "__main__":
    sys.exit(run(main, PipelineArguments))
