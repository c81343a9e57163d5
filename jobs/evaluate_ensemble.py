"""Judge the ensemble by a walk-forward that refits per fold, against its baselines and after costs.

The last stage of `jobs.run_pipeline`, under a name of its own: it uses the features, the sweep and the fits that earlier
jobs on the same OUT left, and what is missing is computed first.
"""

import sys
from functools import partial

from jobs.command_line import run
from jobs.run_pipeline import PipelineArguments, main

__all__ = ["evaluate_ensemble"]

evaluate_ensemble = partial(main, job="evaluate_ensemble", stages=())


if __name__ == "__main__":
    sys.exit(run(evaluate_ensemble, PipelineArguments))
