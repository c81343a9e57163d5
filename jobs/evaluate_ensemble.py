"""Judge the ensemble by a walk-forward that refits per fold, against its baselines and after costs.

The last stage of `jobs.run_pipeline`, under a name of its own: it uses the features, the sweep and the fits that earlier
jobs on the same OUT left, and what is missing is computed first.
"""

import sys

from jobs.command_line import run
from jobs.run_pipeline import PipelineArguments, main

__all__ = ["evaluate_ensemble"]


def evaluate_ensemble(arguments: PipelineArguments) -> int:
    """Run the job; return its exit code."""
    return main(arguments, job="evaluate_ensemble", stages=())


if __name__ == "__main__":
    sys.exit(run(evaluate_ensemble, PipelineArguments))
