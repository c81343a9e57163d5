"""Candles in, report out: the whole flow on Ray.

Runs on a private Ray cluster on this machine, or on the one that RAY_ADDRESS names.
"""

import sys
from dataclasses import dataclass
from typing import Any

from cryptoml.evaluation.report import summary_table
from cryptoml.pipeline import Outcome, Pipeline
from jobs.command_line import run
from jobs.experiment import ExperimentArguments, run_stage, say

__all__ = ["PipelineArguments", "main", "show"]


@dataclass(frozen=True)
class PipelineArguments(ExperimentArguments):
    """Turn candles into features, an ensemble, a walk-forward evaluation, signals and a report.

    Writes OUT/report.html, OUT/report.json, OUT/predictions.parquet, OUT/bundle/ and OUT/result.json. An interrupted run
    goes on when the same command is given again; a finished one is not repeated.
    """


def main(arguments: PipelineArguments) -> int:
    """Run the job; return its exit code."""
    run_stage(arguments, "run_pipeline", evaluate, ["features", "sweep", "fold_"])
    return 0


def evaluate(pipeline: Pipeline) -> dict[str, Any]:
    """Run all stages and show what came out."""
    outcome = pipeline.evaluate()
    show(outcome)
    say(f"report: {pipeline.run.address}/report.html")
    pipeline.run.finish()
    return {"complete": True, "outputs": ["bundle", "predictions.parquet", "report.html", "report.json"]}


def show(outcome: Outcome) -> None:
    """Write the table of the report and the checks beside it."""
    extras = outcome.report.extras
    say(summary_table(outcome.report))
    control = extras.get("Control on shuffled labels")
    if control is not None:
        say("shuffled labels: accuracy {accuracy:.3f}, by chance {low:.3f} to {high:.3f}".format(**control))
    if "Built-in market" in extras:
        say("built-in market: " + ", ".join(f"{label} {value:.3f}" for label, value in extras["Built-in market"].items()))


if __name__ == "__main__":
    sys.exit(run(main, PipelineArguments))
