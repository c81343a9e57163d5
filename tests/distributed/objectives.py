"""Trials that misbehave in every way a cluster knows, without a model: what the searches on Ray are tried with."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptoml.training.trial import Report, Worker

__all__ = ["Scripted", "suggest"]


def suggest(trial: Any) -> dict[str, Any]:
    """Draw a number."""
    return {"x": trial.suggest_float("x", 0.0, 1.0)}


@dataclass(frozen=True)
class Scripted:
    """A trial that counts its calls in a folder and does what its script says at that call.

    Attributes:
        folder: Where calls are counted, by every process.
        script: Number of the call, from 1 -> `kill`, `memory`, `nan`, `bug` or `hang`.
        epochs: Steps to report.
        seconds: Per step.
        together: Trials that wait for each other before the first step, some minutes at most.
    """

    folder: Path
    script: Mapping[int, str] = field(default_factory=dict)
    epochs: int = 1
    seconds: float = 0.0
    together: int = 1

    def __call__(self, parameters: Mapping[str, Any], report: Report, worker: Worker) -> dict[str, float]:
        """Report `x` plus a part that shrinks, and return `x`."""
        action = self.script.get(self._count(), "")
        deadline = time.monotonic() + 240
        while self.calls < self.together and time.monotonic() < deadline:
            time.sleep(0.05)
        for step in range(1, self.epochs + 1):
            time.sleep(self.seconds)
            report(step, parameters["x"] + 1 / step)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        if action == "memory":
            raise MemoryError
        if action == "bug":
            raise TypeError("no such argument")
        if action == "hang":
            time.sleep(600)
        return {"loss": float("nan") if action == "nan" else parameters["x"]}

    @property
    def calls(self) -> int:
        """Trials begun so far."""
        return len(list(self.folder.glob("call_*")))

    def _count(self) -> int:
        number = 1
        while True:
            try:
                (self.folder / f"call_{number}").touch(exist_ok=False)
                return number
            except FileExistsError:
                number += 1
