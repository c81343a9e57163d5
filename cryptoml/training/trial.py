"""One trial of a search: tried on any engine, recorded in one form.

Importing this costs no torch: a search whose objective needs none has light workers.
"""

import gc
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from cryptoml.errors import CryptomlError
from cryptoml.training.search_config import OBJECTIVES, ObjectiveName

if TYPE_CHECKING:
    import torch

__all__ = ["Objective", "Outcome", "Report", "SweepTrial", "Worker", "attempt"]

logger = logging.getLogger(__name__)

Report = Callable[[int, float], None]
"""Hears (step, loss so far) after each epoch; raises `optuna.TrialPruned` where the trial should end.

Trials are compared by it, so the loss is that by which they are judged in the end, as far as it is known.
"""


@dataclass(frozen=True)
class Worker:
    """Where a trial runs: one of `world_size` data-parallel workers; alone by default.

    Attributes:
        device: None is the CPU.
    """

    device: "torch.device | str | None" = None
    rank: int = 0
    world_size: int = 1


class Objective(Protocol):
    """What a trial does: fit a configuration, report after each epoch, and return its values by name."""

    def __call__(self, parameters: Mapping[str, Any], report: Report, worker: Worker) -> Mapping[str, float | np.ndarray]:
        """Return at least one value for each objective of the search; arrays among them are kept beside the study."""
        raise NotImplementedError


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: By objective; empty unless COMPLETE.
        facts: `started` (seconds since 1970), `seconds`, `host`, `pid` and `resources`, as in `SweepTrial`.
        reason: Why it failed.
        arrays: What else it left, by name; empty unless COMPLETE.
    """

    state: str
    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepTrial:
    """One tried configuration.

    Attributes:
        values: By objective; empty unless COMPLETE.
        state: COMPLETE, PRUNED or FAIL.
        seconds: Wall time where it ran.
        started: Seconds since 1970.
        steps: Epochs reported, over all inner folds.
        last_value: The last reported loss.
        resources: What it held, such as `{"CPU": 1.0, "GPU": 0.5}`.
        reason: Why it failed.
        searcher_seconds: Spent on proposing and recording it.
    """

    number: int
    parameters: dict[str, Any]
    values: dict[ObjectiveName, float]
    state: str = "COMPLETE"
    seconds: float = 0.0
    started: float = 0.0
    steps: int = 0
    last_value: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    reason: str = ""
    searcher_seconds: float = 0.0

    @property
    def cost(self) -> float:
        """The first objective's value, with its sign changed where more is better; infinite unless COMPLETE."""
        if not self.values:
            return math.inf
        name, value = next(iter(self.values.items()))
        return -value if OBJECTIVES[name] == "maximize" else value

    @classmethod
    def of(cls, trial: FrozenTrial, objectives: Sequence[ObjectiveName]) -> "SweepTrial":
        """Read a finished trial of a study."""
        complete = trial.state == optuna.trial.TrialState.COMPLETE
        values = dict(zip(objectives, trial.values or (), strict=True)) if complete else {}
        reported = trial.intermediate_values
        return cls(
            number=trial.number,
            parameters=trial.user_attrs.get("parameters", dict(trial.params)),
            values=values,
            state=trial.state.name,
            steps=max(reported, default=0),
            last_value=reported[max(reported)] if reported else None,
            reason=trial.user_attrs.get("reason", ""),
            **trial.user_attrs.get("run", {}),
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "SweepTrial":
        """Undo `row`."""
        return cls(**{name: value for name, value in row.items() if name != "loss"})

    def row(self) -> dict[str, Any]:
        """Return plain values for JSON, and the first objective's as `loss`."""
        return asdict(self) | {"loss": next(iter(self.values.values()), None)}


def attempt(
    objective: Objective,
    parameters: Mapping[str, Any],
    report: Report,
    worker: Worker | None = None,
    resources: Mapping[str, float] | None = None,
    catch: type[Exception] = Exception,
) -> Outcome:
    """Try one configuration; values that are not finite, and errors down to a want of memory, make it a failed trial.

    Args:
        objective: What to try.
        parameters: The configuration.
        report: Hears each epoch.
        worker: Where the trial runs.
        resources: What it holds, for the record.
        catch: Errors that fail the trial; others reach the caller.
    """
    started, clock = time.time(), time.perf_counter()
    state, values, reason = "COMPLETE", dict[str, float](), ""
    arrays = dict[str, np.ndarray]()
    try:
        found = objective(parameters, report, worker or Worker())
        arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray) and value.ndim}
        values = {name: float(value) for name, value in found.items() if name not in arrays}
        state, reason = _judged(values)
    except optuna.TrialPruned:
        state = "PRUNED"
    except catch as error:
        state, reason = "FAIL", _one_line(error)
        logger.debug("a trial failed", exc_info=error)
        _free_memory()
    facts = {"started": started, "seconds": time.perf_counter() - clock, "host": platform.node(), "pid": os.getpid()}
    facts["resources"] = dict(resources or {"CPU": 1.0})
    return Outcome(state, values, facts, reason, arrays) if state == "COMPLETE" else Outcome(state, {}, facts, reason)


def _judged(values: Mapping[str, float]) -> tuple[str, str]:
    broken = [f"{name} must be finite, was {value}" for name, value in values.items() if not math.isfinite(value)]
    return ("FAIL", broken[0]) if broken else ("COMPLETE", "")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CryptomlError) else f"{type(error).__name__}: {text}"


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
