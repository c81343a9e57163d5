"""Instants as data files write them, read as timezone-aware UTC in microseconds."""

import numpy as np
import pandas as pd

from cryptoml.errors import ConfigError, DataError

__all__ = ["UTC_STAMP", "infer_timeframe", "stamp_column", "timeframe_of", "to_instant", "to_utc"]

UTC_STAMP = "datetime64[us, UTC]"

_EARLIEST_EPOCH = 1e8  # seconds: 1973. A smaller number is a row counter or a date such as 20210101, not an epoch.
_EPOCH_UNITS = ((1e11, 1_000_000), (1e14, 1_000), (1e17, 1))  # below the bound: microseconds in one unit
_NANOSECOND_LIMIT = 9.2e18
_AWARE_TEXT = r"(?:Z|[+-]\d{2}(?::?\d{2})?)$"
_UNITS = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def to_utc(values: pd.Series, *, source: str, column: str = "timestamp", assume_timezone: str | None = None) -> pd.Series:
    """Return the instants as `datetime64[us, UTC]`, NaT where a value is no instant.

    Epoch numbers, also as text, are UTC; their unit (s, ms, us or ns) follows from the magnitude of each value. Text is ISO 8601.

    Args:
        values: Timestamps of any dtype.
        source: Name of the file or frame, for the message.
        column: Name of the column, for the message.
        assume_timezone: Zone of instants that carry none; local times that do not exist or exist twice become NaT.

    Raises:
        DataError: An instant carries no timezone and `assume_timezone` is None.
        ConfigError: `assume_timezone` is no zone.
    """
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return values.dt.tz_convert("UTC").dt.as_unit("us")
    if pd.api.types.is_datetime64_dtype(values.dtype):
        return _localise(values, source, column, assume_timezone)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return _epochs(values)
    return _texts(values, source, column, assume_timezone)


def to_instant(value: object, name: str, assume_timezone: str | None = None) -> pd.Timestamp:
    """Return one instant in UTC, read as `to_utc` reads a column.

    Raises:
        DataError: It is no instant, or carries no timezone and `assume_timezone` is None; the message has its name.
    """
    try:
        found = to_utc(pd.Series([value]), source=name, assume_timezone=assume_timezone).iloc[0]
    except DataError:
        raise DataError(f"{name} must carry a timezone, as 2024-01-31T12:00:00Z does, was {value}") from None
    if pd.isna(found):
        raise DataError(f"{name} must be an instant such as 2024-01-31T12:00:00Z, was {value!r}")
    return pd.Timestamp(found)


def stamp_column(values: pd.Series, *, source: str, column: str = "timestamp", assume_timezone: str | None = None) -> pd.Series:
    """Return `to_utc(values)`; where a value is no instant its text stays, so that validation can show it."""
    stamps = to_utc(values, source=source, column=column, assume_timezone=assume_timezone)
    unread = stamps.isna().to_numpy()
    if not unread.any():
        return stamps
    zone = f" [{assume_timezone}]" if assume_timezone else ""
    mixed = stamps.astype(object).to_numpy(copy=True)
    mixed[unread] = [f"{value}{zone}" for value in values.to_numpy(dtype=object)[unread]]
    return pd.Series(mixed, index=values.index, dtype=object)


def infer_timeframe(timestamps: pd.Series) -> str | None:
    """Return the median spacing of the distinct instants as a timeframe such as "1h", or None for fewer than two of them."""
    micros = np.unique(timestamps.dropna().dt.as_unit("us").astype("int64").to_numpy())
    if len(micros) < 2:
        return None
    return timeframe_of(float(np.median(np.diff(micros))) / 1e6)


def timeframe_of(seconds: float) -> str:
    """Return a spacing, rounded to whole seconds and at least one, as a timeframe such as "1h"."""
    whole = max(1, round(seconds))
    unit, size = next((unit, size) for unit, size in _UNITS if whole % size == 0)
    return f"{whole // size}{unit}"


def _localise(values: pd.Series, source: str, column: str, assume_timezone: str | None) -> pd.Series:
    if assume_timezone is None:
        if not values.notna().any():
            return pd.Series(pd.NaT, index=values.index, dtype=UTC_STAMP)
        example = values[values.notna()].iloc[0]
        raise DataError(
            f"{source}: column {column!r} is timezone-naive (first value {example}); "
            'declare its zone, for instance assume_timezone="UTC"'
        )
    try:
        local = values.dt.tz_localize(assume_timezone, ambiguous="NaT", nonexistent="NaT")
    except (KeyError, ValueError) as error:
        raise ConfigError(f"assume_timezone must be a zone such as 'UTC' or 'Asia/Tokyo', was {assume_timezone!r}") from error
    return local.dt.tz_convert("UTC").dt.as_unit("us")


def _epochs(values: pd.Series) -> pd.Series:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    usable = (numbers >= _EARLIEST_EPOCH) & (numbers < _NANOSECOND_LIMIT)
    micros = np.zeros(len(numbers), dtype=np.int64)
    whole = values.to_numpy() if isinstance(values.dtype, np.dtype) and values.dtype.kind == "i" else None
    lower = 0.0
    for bound, scale in _EPOCH_UNITS:
        rows = usable & (numbers >= lower) & (numbers < bound)
        micros[rows] = whole[rows] * scale if whole is not None else np.round(numbers[rows] * scale).astype(np.int64)
        lower = bound
    rows = usable & (numbers >= lower)
    micros[rows] = (whole[rows] if whole is not None else numbers[rows].astype(np.int64)) // 1_000
    stamps = pd.Series(micros.view("datetime64[us]"), index=values.index).dt.tz_localize("UTC")
    return stamps.where(usable)


def _texts(values: pd.Series, source: str, column: str, assume_timezone: str | None) -> pd.Series:
    """Read text, dates and mixed objects: epochs first, then ISO 8601 with a zone, then without."""
    text = values.map(_as_text, na_action="ignore").astype("str").str.strip().str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    numbers = pd.to_numeric(text, errors="coerce")
    stamps = _epochs(numbers)
    aware = numbers.isna() & text.str.contains(_AWARE_TEXT, regex=True, na=False) & text.str.contains(":", na=False)
    if aware.any():
        parsed = pd.to_datetime(text[aware], format="ISO8601", utc=True, errors="coerce")
        stamps[aware] = parsed.dt.as_unit("us")
    rest = numbers.isna() & ~aware & text.notna()
    if rest.any():
        naive = pd.to_datetime(text[rest], format="ISO8601", errors="coerce")
        stamps[rest] = _localise(naive, source, column, assume_timezone)
    return stamps


def _as_text(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
