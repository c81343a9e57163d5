"""Read columns of what a caller hands over, refusing what is wrong by column and first offending row, counted from zero."""

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.errors import DataError

__all__ = ["check_number", "numbers_of", "refuse_disorder", "refuse_future", "refuse_rows", "stamps_of"]

FloatArray = NDArray[np.float64]


def refuse_rows(wrong: NDArray[np.bool_], values: Any, rule: str) -> None:
    """Raise a DataError that states a rule and the first row that breaks it, where one does."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{rule}, row {row} was {values[row]}")


def refuse_disorder(stamps: pd.DatetimeIndex, source: str) -> None:
    """Raise a DataError where an instant does not lie after the one before it."""
    gaps = np.diff(stamps.asi8)
    for wrong, what in ((gaps < 0, "ascending"), (gaps == 0, "free of duplicates")):
        if wrong.any():
            row = int(np.argmax(wrong)) + 1
            raise DataError(f"{source} timestamp must be {what}, row {row} was {stamps[row]} after {stamps[row - 1]}")


def refuse_future(stamps: pd.DatetimeIndex, now: pd.Timestamp, source: str) -> None:
    """Raise a DataError where an instant lies after the close of the last bar."""
    refuse_rows(stamps > now, stamps, f"{source} available_at must not lie after the last bar's close {now}")


def check_number(value: Any, what: str) -> float:
    """Return a number as float; `what` names it in the error.

    Raises:
        DataError: The value is no number.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise DataError(f"{what} must be a number, was {value!r}")
    return float(value)


def numbers_of(frame: pd.DataFrame, column: str, source: str, *, finite: bool = False) -> FloatArray:
    """Return a column as float64, NaN where it is empty.

    Args:
        frame: What the caller handed over.
        column: Its column.
        source: What to call the frame in an error.
        finite: Whether to refuse infinity.

    Raises:
        DataError: The column is absent, there twice, or not of numbers.
    """
    if column not in frame:
        raise DataError(f"{source} must have column {column}, columns were {list(frame.columns)}")
    values = _single(frame, column, source)
    kind = pd.api.types
    if not kind.is_numeric_dtype(values.dtype) or kind.is_bool_dtype(values.dtype) or kind.is_complex_dtype(values.dtype):
        raise DataError(f"{source} {column} must be numeric, dtype was {values.dtype}{_first_of_another_kind(values)}")
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if finite:
        refuse_rows(np.isinf(numbers), numbers, f"{source} {column} must be finite")
    return numbers


def _first_of_another_kind(values: pd.Series) -> str:
    wrong = (row for row, value in enumerate(values) if isinstance(value, bool) or not isinstance(value, Real))
    row = next(wrong, 0)
    return f", row {row} was {values.iloc[row]!r}" if len(values) else ""


def _single(frame: pd.DataFrame, column: str, source: str) -> pd.Series:
    values = frame[column]
    if isinstance(values, pd.DataFrame):
        raise DataError(f"{source} must have column {column} once, it had {values.shape[1]}")
    return values


def stamps_of(frame: pd.DataFrame, source: str, column: str = "timestamp") -> pd.DatetimeIndex:
    """Return a frame's instants in microseconds UTC, from a column or, for `timestamp`, else from its index.

    Raises:
        DataError: There are none, they know no time zone, or one is missing.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{source} must be a DataFrame, was {type(frame).__name__}")
    if column not in frame and not (column == "timestamp" and isinstance(frame.index, pd.DatetimeIndex)):
        raise DataError(f"{source} must have the column {column}, columns were {list(frame.columns)}")
    values = _single(frame, column, source) if column in frame else pd.Series(frame.index)
    if getattr(getattr(values.dtype, "pyarrow_dtype", values.dtype), "tz", None) is None:
        first = f", row 0 was {values.iloc[0]}" if len(values) else ""
        raise DataError(f"{source} {column} must be timezone-aware UTC, dtype was {values.dtype}{first}")
    stamps = pd.DatetimeIndex(values.astype("datetime64[us, UTC]"))
    refuse_rows(np.asarray(stamps.isna()), stamps, f"{source} {column} must be filled")
    return stamps
