"""A finished stage of a run, read back or, where it is damaged, made again."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

from cryptoml.data.run_folder import RunFolder
from cryptoml.errors import DataError

__all__ = ["read_stage"]

logger = logging.getLogger(__name__)

_DAMAGE = (DataError, OSError, EOFError, KeyError, ValueError, BadZipFile)
"""What reading a truncated or lacking file of a stage raises."""

_Result = TypeVar("_Result")


def read_stage(run: RunFolder, name: str, build: Callable[[Path], None], read: Callable[[Path], _Result]) -> _Result:
    """Return what a finished stage holds, made first where it is not there and made again where it cannot be read.

    Raises:
        DataError: What was made anew cannot be read either.
    """
    folder = run.stage(name, build)
    try:
        return read(folder)
    except _DAMAGE as error:
        logger.warning("%s is damaged and made again: %s", folder, error)
    shutil.rmtree(folder)
    folder = run.stage(name, build)
    try:
        return read(folder)
    except _DAMAGE as error:
        raise DataError(f"{folder} cannot be read: {error}; remove it and run again") from error
