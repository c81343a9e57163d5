"""The trials of a search as TensorBoard runs: a curve each, and its parameters beside what it reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptoml.errors import CryptomlError
from cryptoml.training.trial import SweepTrial

__all__ = ["TrialCurves"]


class TrialCurves:
    """Event files of a search, one folder per trial.

    Args:
        folder: Where to write; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._writers: dict[int, Any] = {}

    def add(self, number: int, step: int, value: float) -> None:
        """Write the loss of a trial after a step."""
        if self.folder is not None:
            with self._named():
                self._writer(number).add_scalar("loss", value, step)

    def end(self, trial: SweepTrial) -> None:
        """Write what a trial reached, by its parameters, and close its file."""
        if self.folder is None:
            return
        with self._named():
            writer = self._writer(trial.number)
            metrics = {f"objective/{name}": value for name, value in trial.values.items()}
            if metrics:
                writer.add_hparams(trial.parameters, metrics, run_name=".")
            writer.close()
        del self._writers[trial.number]

    def _writer(self, number: int) -> Any:
        if number not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # not at import: it costs seconds

            self._writers[number] = SummaryWriter(str(self.folder / f"trial_{number:05d}"))  # type: ignore[operator]
        return self._writers[number]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CryptomlError(f"training curves cannot be written to {self.folder}: {error}") from error
