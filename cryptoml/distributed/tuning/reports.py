"""What a trial says to the driver: after each epoch a loss, in the end its outcome. Importing this costs no torch."""

import json
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any

from cryptoml.training.trial import Outcome

__all__ = ["ARRAYS", "FACTS", "LOSS", "OUTCOME", "STEP", "epoch_report", "facts_since", "outcome_report", "use_threads"]

STEP, LOSS, FACTS, OUTCOME, ARRAYS = "step", "loss", "facts", "outcome", "arrays"
"""Keys of the reports; facts and outcome are JSON."""


def epoch_report(step: int, loss: float, started: float) -> dict[str, Any]:
    """Return what a trial reports after an epoch.

    Args:
        step: Epochs so far.
        loss: So far.
        started: When the trial began, seconds since 1970.
    """
    return {STEP: step, LOSS: loss, FACTS: json.dumps(facts_since(started))}


def outcome_report(outcome: Outcome) -> dict[str, Any]:
    """Return a trial's last report: its outcome, and each value as a metric for whoever logs them."""
    told = json.dumps(asdict(replace(outcome, arrays={})))
    return {OUTCOME: told, ARRAYS: outcome.arrays} | {f"objective_{name}": value for name, value in outcome.values.items()}


def facts_since(started: float) -> dict[str, Any]:
    """Return where a trial runs and for how long it has."""
    return {"started": started, "seconds": time.time() - started, "host": os.uname().nodename, "pid": os.getpid()}


def use_threads(count: int) -> None:
    """Let torch, where the objective has loaded it, use so many threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
