"""Fit the ensemble's members side by side on Ray Train and publish them as a bundle.

Uses the features and the sweep that earlier jobs on the same OUT left; what is missing is computed first.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.command_line import run, say
from jobs.experiment import ExperimentArguments
from jobs.stages import run_stage

if TYPE_CHECKING:
    from cryptoml.pipeline import Pipeline

__all__ = ["TrainArguments", "main"]


@dataclass(frozen=True)
class TrainArguments(ExperimentArguments):
    """Fit and calibrate the ensemble of every fold; OUT/bundle/ is the newest one.

    The fits stay in OUT for `jobs.evaluate_ensemble`. An interrupted run goes on when the same command is given again.
    """


def main(arguments: TrainArguments) -> int:
    """Run the job; return its exit code."""
    run_stage(arguments, "train_ensemble", train, ["fold_"])
    return 0


def train(pipeline: "Pipeline") -> dict[str, Any]:
    """Fit, publish, and show the members."""
    trained = pipeline.train()
    ensemble = trained.ensembles[0]
    rows = list(zip(trained.fitted, ensemble.weights, strict=True))
    for member, weight in rows:
        say(f"{member.name:24s} validation loss {member.validation_loss:8.4f}   weight {weight:.3f}   {member.seconds:7.1f} s")
    say(f"bundle: {pipeline.run.address}/bundle")
    members = {member.name: {"validation_loss": member.validation_loss, "weight": float(weight)} for member, weight in rows}
    return {"outputs": ["bundle"], "members": members}


if __name__ == "__main__":
    sys.exit(run(main, TrainArguments))
