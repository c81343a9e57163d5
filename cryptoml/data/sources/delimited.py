"""Delimited text, plain, gzipped or zipped, in batches; the index of a batch is the line number in the file."""

import gzip
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pandas as pd

from cryptoml.errors import DataError

__all__ = ["read_delimited"]

_SEPARATORS = (",", ";", "\t", "|")


def read_delimited(path: Path, batch_rows: int, layouts: Mapping[int, Sequence[str]]) -> Iterator[pd.DataFrame]:
    """Yield frames of at most `batch_rows` rows, indexed by line number (the first line is 1).

    A column in which every value of the batch is a number arrives as numbers, exact to the last bit; any other as text.
    Wholly empty lines are left out.

    Args:
        path: `.csv`, `.csv.gz`, or a `.zip` that holds one delimited file.
        batch_rows: Rows per frame.
        layouts: Column names by number of columns, for files that start with data instead of a header.

    Raises:
        DataError: The zip does not hold exactly one file, or a line has more fields than the first one.
    """
    with ExitStack() as stack:
        stream, skipped, first = _open_at_table(path, stack)
        separator = max(_SEPARATORS, key=first.count)
        fields = [field.strip() for field in first.rstrip("\r\n").split(separator)]
        names = _layout(path, fields, layouts) if _is_number(fields[0]) else None
        start = skipped + (1 if names else 2)
        options: dict[str, Any] = {"header": None, "names": names} if names else {}
        batches = pd.read_csv(
            stream,
            sep=separator,
            chunksize=batch_rows,
            index_col=False,
            low_memory=False,
            skip_blank_lines=False,
            **options,
        )
        for batch in _until_damaged(batches, path, skipped):
            batch.index = pd.RangeIndex(start, start + len(batch))
            start += len(batch)
            yield batch[batch.notna().any(axis=1)]


def _open_at_table(path: Path, stack: ExitStack) -> tuple[IO[str], int, str]:
    """Return the text stream at the table's first line, the lines skipped before it, and that line.

    Some publishers put their address on a line of its own above the header; it is skipped.
    """
    binary = stack.enter_context(_open_binary(path, stack))
    stream = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    first = stream.readline()
    if not first.strip():
        raise DataError(f"{path}: file is empty; a header line or rows of numbers must come first")
    skipped = 0
    if first.lower().startswith(("http://", "https://")):
        first, skipped = stream.readline(), 1
    return _Prefixed(first, stream), skipped, first  # type: ignore[return-value]


def _open_binary(path: Path, stack: ExitStack) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if not path.name.lower().endswith(".zip"):
        return path.open("rb")
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [name for name in archive.namelist() if name.lower().endswith((".csv", ".txt"))]
    if len(members) != 1:
        raise DataError(f"{path}: zip must hold exactly one .csv file, holds {archive.namelist()}")
    return archive.open(members[0])


class _Prefixed(io.TextIOBase):
    """A text stream with one line put back in front."""

    def __init__(self, line: str, stream: IO[str]) -> None:
        self._line, self._stream = line, stream

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        line, self._line = self._line, ""
        return line or self._stream.read(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        line, self._line = self._line, ""
        return line or self._stream.readline()

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.readline, "")


def _layout(path: Path, fields: Sequence[str], layouts: Mapping[int, Sequence[str]]) -> list[str]:
    if len(fields) not in layouts:
        known = ", ".join(map(str, sorted(layouts)))
        raise DataError(f"{path}: row 1 has {len(fields)} fields and no header line; without one there must be {known}")
    return list(layouts[len(fields)])


def _until_damaged(batches: Iterator[pd.DataFrame], path: Path, skipped: int) -> Iterator[pd.DataFrame]:
    try:
        while (batch := _next_batch(batches)) is not None:
            yield batch
    except pd.errors.ParserWarning as warning:
        raise DataError(f"{path}: rows have more fields than the header line has names") from warning
    except pd.errors.ParserError as error:
        shift = f" (counted from line {skipped + 1})" if skipped else ""
        raise DataError(f"{path}: {' '.join(str(error).split())}{shift}") from error


def _next_batch(batches: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas only warns where it drops a surplus column
        return next(batches, None)


def _is_number(text: str) -> bool:
    try:
        float(text.strip('"'))
    except ValueError:
        return False
    return True
