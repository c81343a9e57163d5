"""Judge the ensemble by a walk-forward that refits per fold, against its baselines and after costs.

Uses the features, the sweep and the fits that earlier jobs on the same OUT left; what is missing is computed first.
"""

import sys
from dataclasses import dataclass

from jobs.command_line import run
from jobs.experiment import ExperimentArguments, run_stage
from jobs.run_pipeline import evaluate

__all__ = ["EvaluateArguments", "main"]


@dataclass(frozen=True)
class EvaluateArguments(ExperimentArguments):
    """Refit per fold, forecast out of sample, and report every figure with its baseline, its interval and its costs.

    Writes OUT/report.html, OUT/report.json, OUT/predictions.parquet, OUT/bundle/ and OUT/result.json. An interrupted run
    goes on when the same command is given again; a finished one is not repeated.
    """


def main(arguments: EvaluateArguments) -> int:
    """Run the job; return its exit code."""
    run_stage(arguments, "evaluate_ensemble", evaluate)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, EvaluateArguments))
