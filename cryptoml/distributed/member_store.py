"""Where a training run keeps its files, on storage that all nodes reach.

FOLDER/tft-3f2a.../last.safetensors     newest resumable checkpoint, replaced in one atomic step
FOLDER/tft-3f2a.../epochs.json          figures of each epoch so far, for those who watch
FOLDER/tft-3f2a.../fitted.safetensors   the fitted member, there once the run is finished

A full disk or a lost connection thus leaves the checkpoint before; Ray Train's own index of checkpoints is rewritten in
place, read before every start, and behind by what its controller has not yet polled.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from cryptoml.data.storage import Storage, open_storage
from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import CHECKPOINT_NAME
from cryptoml.training.member import FittedMember, pack_fitted, unpack_fitted

__all__ = ["MemberStore", "require_writable"]

_T = TypeVar("_T")

FITTED_NAME = "fitted.safetensors"
EPOCHS_NAME = "epochs.json"
MARKER_NAME = "run.txt"
REMOTE_WAITS = (2.0, 4.0, 8.0, 16.0)
"""Seconds between tries where a remote storage fails, on top of what its client waits (about 15 s)."""


def require_writable(folder: str) -> None:
    """Write and remove a file.

    Raises:
        ConfigError: That is not possible; the message names the storage.
    """
    storage, name = open_storage(folder), f"probe-{uuid.uuid4().hex}"
    try:
        storage.publish(name, b"cryptoml")
        storage.remove(name)
    except DataError as error:
        raise ConfigError(f"storage must be a folder that can be written, was {storage.address}: {error}") from error


class MemberStore:
    """Files of one run, which never touch the disk of the machine that writes or reads them: a full one stops no fit.

    Args:
        folder: Storage of all runs, local or `s3://`.
        name: Of the run; another one wherever anything differs that is fitted.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._storage: Storage = open_storage(folder)
        self.name, self.address = name, f"{self._storage.address}/{name}"

    def announce(self) -> None:
        """Leave a file, unless it is there, by which workers know that they see the same storage as the driver."""
        if not self._storage.exists(f"{self.name}/{MARKER_NAME}"):
            self._storage.publish(f"{self.name}/{MARKER_NAME}", f"{self.name}\n".encode())

    def require_visible(self) -> None:
        """Check, on a worker, that the driver's storage is this one.

        Raises:
            ConfigError: It is not.
        """
        if not self._storage.exists(f"{self.name}/{MARKER_NAME}"):
            raise ConfigError(f"storage must be reached by all nodes, as s3:// or a shared folder is; {self.address} is not here")

    def checkpoint(self) -> bytes | None:
        """Return the content of the newest checkpoint, or None where there is none."""
        relative = f"{self.name}/{CHECKPOINT_NAME}"
        if not self._patiently(lambda: self._storage.exists(relative)):
            return None
        return self._patiently(lambda: self._storage.read(relative))

    def publish_checkpoint(self, content: bytes) -> None:
        """Replace the newest checkpoint.

        Raises:
            DataError: The storage cannot be written; the checkpoint before is untouched.
        """
        self._patiently(lambda: self._storage.publish(f"{self.name}/{CHECKPOINT_NAME}", content))

    def remove_checkpoint(self) -> None:
        """Delete what only a run that goes on needs."""
        for name in (CHECKPOINT_NAME, EPOCHS_NAME):
            self._storage.remove(f"{self.name}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether it costs nothing to look."""
        return self._storage.is_local

    def publish_epochs(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Tell the figures of epochs, counted from 1; where the storage fails nobody hears, for they are not worth a fit."""
        with suppress(DataError):
            self._storage.publish(f"{self.name}/{EPOCHS_NAME}", json.dumps({str(epoch): rows[epoch] for epoch in rows}).encode())

    def epochs(self) -> dict[int, dict[str, float]]:
        """Return the figures of the epochs so far; none where none is known or the storage fails."""
        with suppress(DataError):
            if self._storage.exists(f"{self.name}/{EPOCHS_NAME}"):
                return {int(epoch): row for epoch, row in json.loads(self._storage.read(f"{self.name}/{EPOCHS_NAME}")).items()}
        return {}

    def publish_fitted(self, fitted: FittedMember) -> None:
        """Store what the run has fitted.

        Raises:
            DataError: The storage cannot be written.
        """
        content = pack_fitted(fitted)
        self._patiently(lambda: self._storage.publish(f"{self.name}/{FITTED_NAME}", content))

    def fitted(self) -> FittedMember | None:
        """Return what the run has fitted, or None where it is not finished.

        Raises:
            DataError: The file is damaged.
        """
        relative = f"{self.name}/{FITTED_NAME}"
        if not self._storage.exists(relative):
            return None
        return unpack_fitted(self._storage.read(relative), f"{self._storage.address}/{relative}")

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Try again for half a minute where the storage is remote; a local one does not heal by itself."""
        for wait in () if self._storage.is_local else REMOTE_WAITS:
            try:
                return action()
            except DataError:
                time.sleep(wait)
        return action()
