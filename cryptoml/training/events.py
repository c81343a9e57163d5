"""The curves of a run as TensorBoard events."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptoml.errors import DataError

__all__ = ["EventLog"]


class EventLog:
    """Scalars per epoch; without a folder it does nothing.

    Args:
        folder: Where to write; None writes nothing.
        epoch: Epochs finished before; later ones that an earlier run left in the folder are hidden.

    Raises:
        DataError: The folder cannot be written, here or later.
    """

    def __init__(self, folder: str | Path | None, epoch: int = 0) -> None:
        self.folder, self.writer = folder, None
        if folder is not None:
            with self._named():
                self.writer = _open(folder, epoch)

    def add(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write one epoch's figures."""
        if self.writer is not None:
            with self._named():
                for name, value in row.items():
                    self.writer.add_scalar(name, value, epoch)
                self.writer.flush()

    def close(self) -> None:
        """Finish the file; what cannot be written any more is given up."""
        if self.writer is not None:
            with self._named():
                self.writer.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.writer = None
            raise DataError(f"training curves cannot be written to log_dir {self.folder}: {error}") from error


def _open(folder: str | Path, epoch: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epoch + 1)
