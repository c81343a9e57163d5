"""The folder of one run: finished stages are kept until the run ends, so that an interrupted run resumes.

OUT/.work/<key>/features/...     a finished stage; the key covers settings, data and versions
OUT/.work/<key>/features.part/   a stage in progress; swept away by the next run
OUT/report.html, ...             outputs, each published by one rename
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from cryptoml.errors import ConfigError

__all__ = ["RunFolder", "publish_file"]


class RunFolder:
    """Stages and outputs of one run; a `with` block holds the folder against other runs.

    Args:
        out: Folder of the outputs; made if absent.
        key: Text that changes whenever an earlier stage's result may not be used again.

    Raises:
        ConfigError: The folder cannot be written, or another run holds it.
    """

    def __init__(self, out: str | Path, key: str) -> None:
        self.out = Path(out).absolute()
        self._work = self.out / ".work" / key[:16]
        self._lock = FileLock(self.out / ".work" / ".lock")
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            with self:
                self._sweep()
        except OSError as error:
            raise ConfigError(f"out folder {out} cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"out folder {self.out} is in use by another run") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def stage(self, name: str, build: Callable[[Path], None]) -> Path:
        """Return the folder of a stage, running `build(folder)` only if no earlier run finished it."""
        finished, partial = self._work / name, self._work / f"{name}.part"
        if not finished.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            build(partial)
            os.replace(partial, finished)
        return finished

    def scratch(self, name: str) -> Path:
        """Return a folder that survives interruptions but is never taken for finished, such as for checkpoints."""
        folder = self._work / f"{name}.scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self) -> None:
        """Remove all stages: the outputs are complete."""
        shutil.rmtree(self.out / ".work", ignore_errors=True)

    def _sweep(self) -> None:
        for partial in self._work.glob("*.part"):
            shutil.rmtree(partial)
        for other in self._work.parent.iterdir():
            if other.is_dir() and other != self._work:
                shutil.rmtree(other, ignore_errors=True)


@contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` only when the block ends without an error."""
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
