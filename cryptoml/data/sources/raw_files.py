"""Files as frames, whatever their format: the one door between the disk and the tables."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cryptoml.data.sources.columnar import read_feather, read_parquet
from cryptoml.data.sources.delimited import read_delimited
from cryptoml.data.sources.file_names import SUFFIXES
from cryptoml.data.sources.json_rows import read_json_rows
from cryptoml.errors import DataError

__all__ = ["BATCH_ROWS", "read_raw"]

BATCH_ROWS = 131_072

_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, pa.ArrowException, zipfile.BadZipFile, zlib.error, pd.errors.ParserError)


def read_raw(path: str | Path, *, layouts: Mapping[int, Sequence[str]], batch_rows: int = BATCH_ROWS) -> Iterator[pd.DataFrame]:
    """Yield the file's rows in frames of at most `batch_rows`, with the file's own column names.

    The index holds the row numbers of the file: lines from 1 in delimited text, positions from 0 in the other formats.

    Args:
        path: A file whose name ends in one of `SUFFIXES`.
        layouts: Column names by number of columns, for formats without names.
        batch_rows: Rows per frame; bounds the memory.

    Raises:
        DataError: The file is of another format, damaged, or has no rows.
    """
    path = Path(path)
    found = False
    try:
        for frame in _open(path, batch_rows, layouts):
            found = found or len(frame) > 0
            if len(frame):
                yield frame
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from error
    if not found:
        raise DataError(f"{path}: file has no rows")


def _open(path: Path, batch_rows: int, layouts: Mapping[int, Sequence[str]]) -> Iterator[pd.DataFrame]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_parquet(path, batch_rows)
    if name.endswith(".feather"):
        return read_feather(path, batch_rows)
    if name.endswith((".json", ".json.gz")):
        return read_json_rows(path, batch_rows, layouts)
    if name.endswith((".csv", ".csv.gz", ".zip")):
        return read_delimited(path, batch_rows, layouts)
    raise DataError(f"{path}: file name must end in one of {', '.join(SUFFIXES)}")
