"""Rows that cannot be used, each with the place it stands at and the reason."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from cryptoml.data.validation.timestamps import UTC_STAMP

__all__ = ["QUARANTINE_COLUMNS", "REASONS", "Fault", "empty_quarantine", "first_faults", "quarantine_rows", "to_numbers"]

REASONS: dict[str, str] = {
    "unreadable_timestamp": "the timestamp is no instant",
    "not_a_number": "text stands where a number belongs",
    "not_finite": "the value is missing or infinite",
    "not_whole": "a count has a fraction",
    "non_positive_price": "a price is zero or below",
    "negative_volume": "a volume or count is below zero",
    "high_below_low": "high is below low",
    "open_outside_range": "open is outside [low, high]",
    "close_outside_range": "close is outside [low, high]",
    "misaligned": "the timestamp is not on the grid of the timeframe",
    "future_leap": "the bar lies after the present, and bars before it are absent",
    "duplicate": "an earlier row has this key and other values",
    "unknown_side": "the side of a trade is neither buy nor sell",
    "unordered_book": "levels are not ordered from the best price outwards",
    "crossed_book": "the best bid is not below the best ask",
}

_DTYPES = {
    "source": "str",
    "row": "int64",
    "symbol": "str",
    "timestamp": UTC_STAMP,
    "column": "str",
    "value": "str",
    "reason": "str",
}
QUARANTINE_COLUMNS = tuple(_DTYPES)
_BLANK = ("", "nan", "null", "none", "<na>")


class Fault(NamedTuple):
    """One rule and the rows that break it: `broken` is bool [row]."""

    reason: str
    column: str
    broken: np.ndarray


def empty_quarantine() -> pd.DataFrame:
    """Return a quarantine table without rows."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in _DTYPES.items()})


def first_faults(faults: Sequence[Fault], num_rows: int) -> np.ndarray:
    """Return the position in `faults` of the first rule that each row breaks, -1 for none: int64 [row]."""
    found = np.full(num_rows, -1, dtype=np.int64)
    for position, fault in enumerate(faults):
        found[(found < 0) & fault.broken] = position
    return found


def quarantine_rows(
    frame: pd.DataFrame,
    faults: Sequence[Fault],
    *,
    rows: np.ndarray,
    stamps: pd.Series,
    symbol: str,
    source: str,
) -> pd.DataFrame:
    """Return one quarantine row, with the first fault, for each row of `frame` that breaks a rule.

    Args:
        frame: The rows as they were read; the shown value is taken from the fault's column.
        faults: Rules in order of priority.
        rows: Row numbers in the source: int64 [row].
        stamps: UTC instants of the rows, NaT where unreadable.
        symbol: Market of the rows.
        source: File or frame the rows came from.
    """
    found = first_faults(faults, len(frame))
    parts = [
        pd.DataFrame(
            {
                "source": source,
                "row": rows[hit],
                "symbol": symbol,
                "timestamp": stamps.to_numpy()[hit] if stamps.dtype == object else stamps.array[hit],
                "column": fault.column,
                "value": [str(value) for value in frame[fault.column].to_numpy(dtype=object)[hit]],
                "reason": fault.reason,
            }
        ).astype(_DTYPES)
        for position, fault in enumerate(faults)
        if (hit := found == position).any()
    ]
    if not parts:
        return empty_quarantine()
    return pd.concat(parts, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)


def to_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the values as float64 [row], NaN where there is none, and bool [row]: true where text is no number."""
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(values), dtype=bool)
    text = values.map(str, na_action="ignore")
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    blank = text.isna() | text.astype("str").str.strip().str.lower().isin(_BLANK)
    return numbers, np.isnan(numbers) & ~blank.to_numpy(dtype=bool)
