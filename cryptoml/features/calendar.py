"""Time features of the bar's open, UTC; periodic ones as sine and cosine."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, feature

__all__: list[str] = []

FloatArray = NDArray[np.float64]
CYCLIC = "periodic encoding"


def _part(bars: Bars, name: str) -> FloatArray:
    return bars.memo("calendar", lambda: _calendar(bars.timestamps))[name]


def _hour(bars: Bars) -> FloatArray:
    """Hours since midnight, with minutes as a fraction."""
    return _part(bars, "hour")


def _calendar(timestamps: pd.DatetimeIndex) -> dict[str, FloatArray]:
    """Return the clock and the date of each stamp."""
    stamps = timestamps.as_unit("us").asi8.view("datetime64[us]")
    days, months = stamps.astype("datetime64[D]"), stamps.astype("datetime64[M]")
    first_day, next_month = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]")
    parts = {
        "hour": (stamps - days) // np.timedelta64(1, "m") / 60.0,
        "day_of_week": (days.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        "day": (days - first_day).astype(np.int64) + 1,
        "days_in_month": (next_month - first_day).astype(np.int64),
        "month": months.astype(np.int64) % 12 + 1,
        "quarter": months.astype(np.int64) % 12 // 3 + 1,
    }
    return {name: values.astype(np.float64) for name, values in parts.items()}


def _sine(phase: FloatArray) -> FloatArray:
    return np.sin(2.0 * np.pi * phase)


def _cosine(phase: FloatArray) -> FloatArray:
    return np.cos(2.0 * np.pi * phase)


def _week_phase(bars: Bars) -> FloatArray:
    return (_part(bars, "day_of_week") + _hour(bars) / 24.0) / 7.0


def _month_phase(bars: Bars) -> FloatArray:
    return (_part(bars, "day") - 1.0) / _part(bars, "days_in_month")


@feature("time", lookback=1, source=CYCLIC)
def hour_sin(bars: Bars) -> FloatArray:
    """sin(2 pi hour / 24)"""
    return _sine(_hour(bars) / 24.0)


@feature("time", lookback=1, source=CYCLIC)
def hour_cos(bars: Bars) -> FloatArray:
    """cos(2 pi hour / 24)"""
    return _cosine(_hour(bars) / 24.0)


@feature("time", lookback=1, source=CYCLIC)
def day_of_week_sin(bars: Bars) -> FloatArray:
    """sin(2 pi (weekday + hour / 24) / 7), Monday 0"""
    return _sine(_week_phase(bars))


@feature("time", lookback=1, source=CYCLIC)
def day_of_week_cos(bars: Bars) -> FloatArray:
    """cos(2 pi (weekday + hour / 24) / 7), Monday 0"""
    return _cosine(_week_phase(bars))


@feature("time", lookback=1, source=CYCLIC)
def day_of_month_sin(bars: Bars) -> FloatArray:
    """sin(2 pi (day - 1) / days in the month)"""
    return _sine(_month_phase(bars))


@feature("time", lookback=1, source=CYCLIC)
def day_of_month_cos(bars: Bars) -> FloatArray:
    """cos(2 pi (day - 1) / days in the month)"""
    return _cosine(_month_phase(bars))


@feature("time", lookback=1, source=CYCLIC)
def month_sin(bars: Bars) -> FloatArray:
    """sin(2 pi (month - 1) / 12)"""
    return _sine((_part(bars, "month") - 1.0) / 12.0)


@feature("time", lookback=1, source=CYCLIC)
def month_cos(bars: Bars) -> FloatArray:
    """cos(2 pi (month - 1) / 12)"""
    return _cosine((_part(bars, "month") - 1.0) / 12.0)


@feature("time", lookback=1, source=CYCLIC)
def quarter_sin(bars: Bars) -> FloatArray:
    """sin(2 pi (quarter - 1) / 4)"""
    return _sine((_part(bars, "quarter") - 1.0) / 4.0)


@feature("time", lookback=1, source=CYCLIC)
def quarter_cos(bars: Bars) -> FloatArray:
    """cos(2 pi (quarter - 1) / 4)"""
    return _cosine((_part(bars, "quarter") - 1.0) / 4.0)


@feature("time", lookback=1, source="definition")
def is_weekend(bars: Bars) -> FloatArray:
    """1 on Saturday and Sunday"""
    return (_part(bars, "day_of_week") >= 5).astype(np.float64)


@feature("time", lookback=1, source="definition")
def us_session(bars: Bars) -> FloatArray:
    """1 from 13:30 to 20:00 UTC on weekdays, the hours of US exchanges in summer time"""
    open_now = (_hour(bars) >= 13.5) & (_hour(bars) < 20.0)
    return (open_now & (_part(bars, "day_of_week") < 5)).astype(np.float64)


@feature("time", lookback=1, source="perpetual contracts pay funding at 00:00, 08:00 and 16:00 UTC")
def funding_cycle(bars: Bars) -> FloatArray:
    """Share of the 8 hours since the last funding stamp"""
    return (_hour(bars) % 8.0) / 8.0
