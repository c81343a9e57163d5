"""A JSON list of flat rows, `[[...], ...]` or `[{...}, ...]`, in batches; the index of a batch is the row's position, from 0."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pandas as pd

from cryptoml.errors import DataError

__all__ = ["read_json_rows"]

_BLOCK_CHARACTERS = 1 << 20
_CLOSING = {"[": "]", "{": "}"}


def read_json_rows(path: Path, batch_rows: int, layouts: Mapping[int, Sequence[str]]) -> Iterator[pd.DataFrame]:
    """Yield frames of at most `batch_rows` rows, indexed by position in the list; the file is never wholly in memory.

    Args:
        path: `.json` or `.json.gz`.
        batch_rows: Rows per frame.
        layouts: Column names by number of values, for rows that are lists.

    Raises:
        DataError: The file is no list of rows, is cut off, or a row has an unknown number of values.
    """
    start, rows = 0, []
    with gzip.open(path, "rt", encoding="utf-8") if path.name.lower().endswith(".gz") else path.open(encoding="utf-8") as stream:
        for block in _row_blocks(stream, path):
            rows += block
            while len(rows) >= batch_rows:
                yield _frame(rows[:batch_rows], start, layouts, path)
                start, rows = start + batch_rows, rows[batch_rows:]
    if rows:
        yield _frame(rows, start, layouts, path)


def _row_blocks(stream: IO[str], path: Path) -> Iterator[list]:
    """Yield lists of rows: the text is cut behind the last row that is complete."""
    text = stream.read(_BLOCK_CHARACTERS).lstrip()
    if not text.startswith("["):
        raise DataError(f"{path}: JSON must be a list of rows, starts with {text[:20]!r}")
    text = text[1:].lstrip()
    closing = _CLOSING.get(text[:1])
    if closing is None and not text.startswith("]"):
        raise DataError(f"{path}: a JSON row must be a list or an object, starts with {text[:20]!r}")
    while closing and (more := stream.read(_BLOCK_CHARACTERS)):
        cut = text.rfind(closing + ",") + 1
        if cut:
            yield _parse(text[:cut], path)
        text = (text[cut + 1 :] if cut else text) + more
    text = text.rstrip()
    if not text.endswith("]"):
        raise DataError(f"{path}: JSON is cut off, ends with {text[-20:]!r}")
    yield _parse(text[:-1], path)


def _parse(rows: str, path: Path) -> list:
    try:
        return json.loads(f"[{rows}]")
    except json.JSONDecodeError as error:
        near = rows[max(0, error.pos - 21) : error.pos + 20]
        raise DataError(f"{path}: JSON is damaged ({error.msg}) near {near!r}") from error


def _frame(rows: list, start: int, layouts: Mapping[int, Sequence[str]], path: Path) -> pd.DataFrame:
    index = pd.RangeIndex(start, start + len(rows))
    if isinstance(rows[0], dict):
        return pd.DataFrame.from_records(rows, index=index)
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(widths) != 1 or next(iter(widths)) not in layouts:
        known = " or ".join(map(str, sorted(layouts)))
        raise DataError(f"{path}: rows {start} to {index[-1]} must all have {known} values, have {sorted(widths)}")
    return pd.DataFrame.from_records(rows, columns=list(layouts[widths.pop()]), index=index)
