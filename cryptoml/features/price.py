"""Price features: returns, distances from averages and levels, all as ratios."""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    delay,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_wma,
    safe_ratio,
    span_ema,
    span_window,
    zscore,
)
from cryptoml.features.trace import elementwise
from cryptoml.features.volatility import close_volatility

__all__: list[str] = []

FloatArray = NDArray[np.float64]
HLC = ("high", "low", "close")
OHLC = ("open", "high", "low", "close")
TEXTBOOK = "Murphy 1999, Technical Analysis of the Financial Markets"
HORIZONS = (hours(1), hours(5), hours(15), hours(30), days(1))


@feature("price", lookback=lambda n: n + 1, params=HORIZONS, source="definition", name="return")
def simple_return(bars: Bars, n: int) -> FloatArray:
    """close_t / close_{t-n} - 1"""
    return np.expm1(bars.log_close - delay(bars.log_close, n))


@feature("price", lookback=lambda n: n + 1, params=(*HORIZONS, days(3), days(7), days(30)), source="definition")
def log_return(bars: Bars, n: int) -> FloatArray:
    """ln(close_t / close_{t-n})"""
    return bars.log_close - delay(bars.log_close, n)


@feature(
    "price", lookback=lambda n, m: m + 1, params=((1, days(5)), (hours(4), days(5)), (days(1), days(20))), source="definition"
)
def scaled_return(bars: Bars, n: int, m: int) -> FloatArray:
    """ln(close_t / close_{t-n}) / (sigma_m sqrt(n)), sigma_m the standard deviation of the last m log returns"""
    return safe_ratio(bars.log_close - delay(bars.log_close, n), close_volatility(bars, m) * np.sqrt(n), 0.0)


@feature("price", lookback=lambda n: n, params=(7, 25, 99, 200), source=TEXTBOOK)
def sma_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / SMA_n)"""
    return np.log(bars.close / bars.rolled(rolling_mean, "close", n))


@feature("price", lookback=span_window, params=(7, 25, 99, 200), source=TEXTBOOK)
def ema_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / EMA_n)"""
    return np.log(bars.close / bars.rolled(span_ema, "close", n))


@feature("price", lookback=lambda n: n, params=(25,), source=TEXTBOOK)
def wma_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / WMA_n), weights falling linearly from n to 1"""
    return np.log(bars.close / rolling_wma(bars.close, n))


@feature("price", lookback=lambda n, m: m, params=((7, 25), (25, 99), (99, 200)), source=TEXTBOOK)
def sma_cross(bars: Bars, n: int, m: int) -> FloatArray:
    """ln(SMA_n / SMA_m)"""
    return np.log(bars.rolled(rolling_mean, "close", n) / bars.rolled(rolling_mean, "close", m))


@feature("price", lookback=lambda n: 2 * n, params=(25, 99), source=TEXTBOOK)
def sma_slope(bars: Bars, n: int) -> FloatArray:
    """ln(SMA_n(t) / SMA_n(t - n)) / n"""
    average = np.log(bars.rolled(rolling_mean, "close", n))
    return (average - delay(average, n)) / n


@feature("price", lookback=lambda n: n, params=(20, 50, 200), source="DeMark 1994")
def zscore_close(bars: Bars, n: int) -> FloatArray:
    """(ln close - mean_n) / std_n; 0 where the price stood still"""
    return bars.rolled(zscore, "log_close", n)


@feature("price", lookback=lambda n: n, params=(20, 50, 200), inputs=("low", "close"), source=TEXTBOOK)
def support_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / lowest low of n bars)"""
    return np.log(bars.close / bars.rolled(rolling_min, "low", n))


@feature("price", lookback=lambda n: n, params=(20, 50, 200), inputs=("high", "close"), source=TEXTBOOK)
def resistance_distance(bars: Bars, n: int) -> FloatArray:
    """ln(highest high of n bars / close)"""
    return np.log(bars.rolled(rolling_max, "high", n) / bars.close)


def _fibonacci_position(bars: Bars, n: int) -> FloatArray:
    def compute() -> FloatArray:
        low, high = bars.rolled(rolling_min, "low", n), bars.rolled(rolling_max, "high", n)
        return safe_ratio(bars.close - low, high - low, 0.5)

    return bars.memo(("range_position", n), compute)


@feature("price", lookback=lambda n: n, params=(100,), inputs=HLC, source=TEXTBOOK)
def range_position(bars: Bars, n: int) -> FloatArray:
    """(close - low_n) / (high_n - low_n); 0.5 where the range is empty"""
    return _fibonacci_position(bars, n)


@feature("price", lookback=lambda n: n, params=(100,), inputs=HLC, source=TEXTBOOK)
def fibonacci_nearest(bars: Bars, n: int) -> FloatArray:
    """Signed distance to the nearest retracement level (0, .236, .382, .5, .618, .786, 1) of the n-bar range, in ranges"""
    return _nearest_gap(_fibonacci_position(bars, n))


@elementwise
def _nearest_gap(position: FloatArray) -> FloatArray:
    gaps = position - np.array([0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0])[:, None]
    return np.take_along_axis(gaps, np.abs(gaps).argmin(axis=0)[None], axis=0)[0]


@feature("price", lookback=lambda n, level: n, params=((100, 0.382), (100, 0.618)), inputs=HLC, source=TEXTBOOK)
def fibonacci_distance(bars: Bars, n: int, level: float) -> FloatArray:
    """ln(close / (low_n + level (high_n - low_n)))"""
    low, high = bars.rolled(rolling_min, "low", n), bars.rolled(rolling_max, "high", n)
    return np.log(bars.close / (low + level * (high - low)))


@feature("price", lookback=lambda n: n, params=(days(7), days(30)), source="Magdon-Ismail & Atiya 2004")
def drawdown(bars: Bars, n: int) -> FloatArray:
    """ln(close / highest close of n bars)"""
    return bars.log_close - bars.rolled(rolling_max, "log_close", n)


@feature("price", lookback=lambda n: n, params=(9, 26, 52), inputs=HLC, source="Hosoda 1969, Ichimoku lines")
def midpoint_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / ((high_n + low_n) / 2))"""
    return np.log(2.0 * bars.close / (bars.rolled(rolling_max, "high", n) + bars.rolled(rolling_min, "low", n)))


@feature("price", lookback=2, inputs=("open", "close"), source="definition")
def open_gap(bars: Bars) -> FloatArray:
    """ln(open_t / close_{t-1})"""
    return np.log(bars.open) - delay(bars.log_close, 1)


@feature("price", lookback=1, inputs=("open", "close"), source="definition")
def body_return(bars: Bars) -> FloatArray:
    """ln(close / open)"""
    return bars.log_body


@feature("price", lookback=1, inputs=("high", "low"), source="definition")
def log_range(bars: Bars) -> FloatArray:
    """ln(high / low)"""
    return bars.log_range


@feature("price", lookback=1, inputs=HLC, source="Chaikin, close location value")
def close_location(bars: Bars) -> FloatArray:
    """(2 close - high - low) / (high - low); 0 for an empty range"""
    return safe_ratio((bars.close - bars.low) - (bars.high - bars.close), bars.high - bars.low, 0.0)
