"""The folder of one run: finished stages are kept until the run ends, so that an interrupted run resumes.

OUT/.work/<key>/features/...     a finished stage; the key covers settings, data and versions
OUT/.work/<key>/features.part/   a stage in progress; swept away by the next run
OUT/report.html, ...             outputs, each published by one rename
OUT/result.json                  what a finished job left, for programs

OUT is a local folder or an `s3://` address. Of a remote one this machine holds a copy: a stage is uploaded file by file and
counts as finished when its list of files, `features.json`, is there; another machine that resumes the run fetches it.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from cryptoml.data.storage import Storage, folder_below, open_storage
from cryptoml.errors import ConfigError, DataError

__all__ = ["RESULT", "FolderInUseError", "RunFolder", "publish_file", "read_result"]

RESULT = "result.json"
logger = logging.getLogger(__name__)

KEY_LENGTH = 16
BACK_UP_SECONDS = 30.0


class FolderInUseError(ConfigError):
    """Another run of this machine works in the folder."""


class RunFolder:
    """Stages and outputs of one run; a `with` block holds the folder against other runs of this machine.

    Args:
        out: Folder of the outputs, local or `s3://`; made if absent.
        key: Text that changes whenever an earlier stage's result may not be used again.

    Attributes:
        out: Where outputs are written on this machine.
        address: The folder as messages show it, without credentials.

    Raises:
        ConfigError: The folder cannot be written, or another run holds it.
    """

    def __init__(self, out: str | Path, key: str) -> None:
        self._given, self._key = os.fspath(out), key
        storage = open_storage(out)
        storage.require_bucket()
        self._remote: Storage | None = None if storage.is_local else storage
        self.address = storage.address
        self.out = _copy_of(storage.address) if self._remote else Path(storage.base)
        self._folder = f".work/{self.name}"
        self._work = self.out / self._folder
        self._lock: FileLock | None = None
        self._sent: dict[Path, int] = {}
        self._backed_up = -math.inf
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            with self:
                self._sweep()
        except OSError as error:
            raise ConfigError(f"out folder {out} cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        lock = FileLock(self.out / ".work" / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderInUseError(f"out folder {self.address} is in use by another run") from error
        self._lock = lock
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a worker without the lock, which the driver keeps."""
        return self.__dict__ | {"_lock": None}

    @property
    def name(self) -> str:
        """Name of the folder of this run's stages and checkpoints, in OUT/.work and in a storage of its own alike."""
        return self._key[:KEY_LENGTH]

    @property
    def is_local(self) -> bool:
        """Whether OUT is a folder of this machine."""
        return self._remote is None

    def stage(self, name: str, build: Callable[[Path], None]) -> Path:
        """Return the local folder of a stage, running `build(folder)` only if no earlier run finished it."""
        finished, partial = self._work / name, self._work / f"{name}.part"
        if not finished.is_dir() and not self._fetch(name, finished, partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            build(partial)
            self._push(name, partial)
            os.replace(partial, finished)
        return finished

    def scratch(self, name: str) -> str:
        """Return a place, local or remote as OUT is, that survives interruptions but is never taken for finished.

        It holds checkpoints, say. A local one exists; a remote address carries the query of OUT, if it had one.
        """
        relative = f"{self._folder}/{name}.scratch"
        if self._remote is None:
            (self.out / relative).mkdir(parents=True, exist_ok=True)
            return str(self.out / relative)
        return folder_below(self._given, relative)

    def upload(self, *names: str) -> None:
        """Copy outputs, files or folders, to a remote OUT where they have changed since; nothing to do for a local one."""
        if self._remote is None:
            return
        for name in names:
            path = self.out / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and self._sent.get(file) != (changed := file.stat().st_mtime_ns):
                    self._remote.upload(file, file.relative_to(self.out).as_posix())
                    self._sent[file] = changed

    def back_up(self, name: str) -> None:
        """Upload an output that is being made, twice a minute at most; where that fails, the next time counts."""
        if self._remote is None or time.monotonic() < self._backed_up + BACK_UP_SECONDS:
            return
        try:
            self.upload(name)
        except DataError as error:
            logger.warning("%s is not backed up for now: %s", name, error)
        self._backed_up = time.monotonic()

    def bring(self, name: str) -> None:
        """Copy an output folder of a remote OUT here, file by file, where this machine's copy is absent or older."""
        for relative in self._remote.list_files(name, recursive=True) if self._remote is not None else ():
            assert self._remote is not None
            file = self.out / relative
            if not file.is_file() or file.stat().st_mtime < self._remote.modified(relative):
                file.parent.mkdir(parents=True, exist_ok=True)
                with publish_file(file) as partial:
                    self._remote.download(relative, partial)

    def discard(self, *names: str) -> None:
        """Forget the stages whose names begin so, finished or not, with what they keep in scratch."""
        for path in [path for name in names for path in self._work.glob(f"{name}*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._remote is None:
            return
        for relative in self._remote.list_files(self._folder, recursive=True):
            if relative.removeprefix(f"{self._folder}/").startswith(names):
                self._remote.remove(relative)

    def result(self) -> dict[str, Any] | None:
        """Return the record of the complete run with this key, or None where there is none; later failures do not undo it."""
        document = read_result(open_storage(self._given))
        document = document.get("earlier", document)
        return document if document.get("key") == self._key and document.get("complete") else None

    def record(self, **result: Any) -> None:
        """Write OUT/result.json; with `complete=True` it says that nothing is left to do for this key."""
        with publish_file(self.out / RESULT) as path:
            path.write_text(json.dumps({"key": self._key, **result}, indent=2, default=str) + "\n")
        self.upload(RESULT)

    def finish(self) -> None:
        """Remove all stages: the outputs are complete."""
        shutil.rmtree(self.out / ".work", ignore_errors=True)
        if self._remote is not None:
            self._remote.remove_folder(".work")

    def _sweep(self) -> None:
        for partial in self._work.glob("*.part"):
            shutil.rmtree(partial)
        for other in self._work.parent.iterdir():
            if other.is_dir() and other != self._work:
                shutil.rmtree(other, ignore_errors=True)

    def _fetch(self, name: str, finished: Path, partial: Path) -> bool:
        """Copy a stage that another machine finished; False where there is none."""
        if self._remote is None or not self._remote.exists(f"{self._folder}/{name}.json"):
            return False
        shutil.rmtree(partial, ignore_errors=True)
        for file in json.loads(self._remote.read(f"{self._folder}/{name}.json"))["files"]:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            self._remote.download(f"{self._folder}/{name}/{file}", partial / file)
        os.replace(partial, finished)
        return True

    def _push(self, name: str, built: Path) -> None:
        if self._remote is None:
            return
        files = [file.relative_to(built).as_posix() for file in sorted(built.rglob("*")) if file.is_file()]
        for file in files:
            self._remote.upload(built / file, f"{self._folder}/{name}/{file}")
        self._remote.publish(f"{self._folder}/{name}.json", json.dumps({"files": files}).encode())


def read_result(storage: Storage) -> dict[str, Any]:
    """Return what the result file of a folder says; nothing where there is none, or none of ours."""
    try:
        document = json.loads(storage.read(RESULT)) if storage.exists(RESULT) else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _copy_of(address: str) -> Path:
    """Return where this machine keeps its copy of a remote folder."""
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cryptoml-{os.getuid()}" / "runs" / name


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` only when the block ends without an error."""
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
