"""Arrays that trials leave beside their study, such as the returns per bar of trading on them: one file per trial."""

import io
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cryptoml.errors import CryptomlError

__all__ = ["TrialArrays"]


class TrialArrays:
    """Arrays by name of each trial of a study.

    Args:
        folder: Where the files lie; None keeps the arrays in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def keep(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what a trial left.

        Raises:
            CryptomlError: The folder cannot be written.
        """
        if self.folder is None:
            self._kept[number] = dict(arrays)
            return
        path, content = self._path(number), io.BytesIO()
        np.savez(content, **dict(arrays))  # type: ignore[arg-type]
        partial = path.with_name(f".{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content.getvalue())
            partial.replace(path)
        except OSError as error:
            raise CryptomlError(f"arrays of trial {number} cannot be written to {self.folder}: {error}") from error

    def of(self, number: int) -> dict[str, np.ndarray]:
        """Return what a trial left; nothing where it left nothing, or its file is gone or damaged."""
        if self.folder is None:
            return self._kept.get(number, {})
        try:
            with np.load(io.BytesIO(self._path(number).read_bytes()), allow_pickle=False) as file:
                return dict(file)
        except (OSError, BadZipFile, ValueError, EOFError):
            return {}

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"trial_{number:05d}.npz"
