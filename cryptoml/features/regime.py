"""Regime features: how strong a trend is, how loud the market is, and which way it leans."""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    delay,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_moments,
    rolling_slope,
    rolling_std,
    rolling_sum,
    safe_ratio,
    wilder,
    wilder_window,
    zscore,
)
from cryptoml.features.volatility import close_volatility, lagged_comoment

__all__: list[str] = []

FloatArray = NDArray[np.float64]
HLC = ("high", "low", "close")


def _directional_indicators(bars: Bars, n: int) -> tuple[FloatArray, FloatArray]:
    """Wilder's +DI and -DI as fractions; zero where the true range is."""

    def compute() -> tuple[FloatArray, FloatArray]:
        up, down = bars.high - delay(bars.high, 1), delay(bars.low, 1) - bars.low
        plus = np.where((up > down) & (up > 0), up, 0.0 * up)
        minus = np.where((down > up) & (down > 0), down, 0.0 * down)
        scale = bars.rolled(wilder, "true_range", n)
        return safe_ratio(wilder(plus, n), scale, 0.0), safe_ratio(wilder(minus, n), scale, 0.0)

    return bars.memo(("directional", n), compute)


@feature("regime", lookback=lambda n: 2 * wilder_window(n), params=(14, 28), inputs=HLC, source="Wilder 1978")
def adx(bars: Bars, n: int) -> FloatArray:
    """100 x Wilder average over n bars of |+DI - -DI| / (+DI + -DI); 0 where nothing moved"""
    plus, minus = _directional_indicators(bars, n)
    return 100.0 * wilder(safe_ratio(np.abs(plus - minus), plus + minus, 0.0), n)


@feature("regime", lookback=lambda n: wilder_window(n) + 1, params=(14, 28), inputs=HLC, source="Wilder 1978")
def directional_index(bars: Bars, n: int) -> FloatArray:
    """100 (+DI - -DI) over n bars"""
    plus, minus = _directional_indicators(bars, n)
    return 100.0 * (plus - minus)


@feature("regime", lookback=lambda n: n + 1, params=(10, days(1, at_least=2), days(5)), source="Kaufman 1995")
def efficiency_ratio(bars: Bars, n: int) -> FloatArray:
    """(ln close_t - ln close_{t-n}) / sum_n |log return|, signed; 0 where nothing moved"""
    return _efficiency(bars, n)


def _efficiency(bars: Bars, n: int) -> FloatArray:
    def compute() -> FloatArray:
        path = bars.rolled(rolling_sum, "absolute_return", n)
        return safe_ratio(bars.log_close - delay(bars.log_close, n), path, 0.0)

    return bars.memo(("efficiency", n), compute)


@feature("regime", lookback=lambda n: n, params=(days(1, at_least=2), days(5)), source="ordinary least squares")
def trend_r2(bars: Bars, n: int) -> FloatArray:
    """R squared of a line through ln(close) over n bars, with the sign of its slope"""
    slope, r_squared = rolling_slope(bars.log_close, n)
    return np.sign(slope) * r_squared


@feature("regime", lookback=lambda n: n + 1, params=(14, 50), inputs=HLC, source="Dreiss 1993")
def choppiness(bars: Bars, n: int) -> FloatArray:
    """100 ln(sum_n(true range) / (high_n - low_n)) / ln n, range including the close before"""
    previous = delay(bars.close, 1)
    high, low = rolling_max(np.maximum(bars.high, previous), n), rolling_min(np.minimum(bars.low, previous), n)
    return 100.0 * np.log(safe_ratio(bars.rolled(rolling_sum, "true_range", n), high - low)) / np.log(n)


@feature("regime", lookback=lambda n: n + 2, params=(days(1, at_least=2), days(5)), source="Lo & MacKinlay 1988")
def autocorrelation(bars: Bars, n: int) -> FloatArray:
    """Correlation of log returns with those of the bar before, over n bars; 0 where nothing moved"""
    spread = np.sqrt(bars.rolled(rolling_moments, "log_return", n)[1])
    return safe_ratio(lagged_comoment(bars, n), spread * delay(spread, 1), 0.0)


@feature(
    "regime",
    lookback=lambda q, n: n + q,
    params=((hours(4), days(5)), (hours(12), days(20))),
    source="Lo & MacKinlay 1988, eq. 12",
)
def variance_ratio(bars: Bars, q: int, n: int) -> FloatArray:
    """ln(var_n(q-bar log returns) / (q var_n(log return))): above 0 trending, below 0 reverting"""
    stepped = rolling_std(bars.log_close - delay(bars.log_close, q), n)
    return 2.0 * np.log(safe_ratio(stepped, close_volatility(bars, n))) - np.log(q)


@feature("regime", lookback=lambda n, m: n + m, params=((days(1, at_least=2), days(30)),), source="definition")
def volatility_position(bars: Bars, n: int, m: int) -> FloatArray:
    """Place of the n-bar volatility between its lowest and highest of m bars; 0.5 where it stood still"""
    volatility = close_volatility(bars, n)
    low, high = rolling_min(volatility, m), rolling_max(volatility, m)
    return safe_ratio(volatility - low, high - low, 0.5)


@feature("regime", lookback=lambda n, m: n + m, params=((days(1, at_least=2), days(30)),), source="definition")
def volatility_zscore(bars: Bars, n: int, m: int) -> FloatArray:
    """z-score over m bars of ln of the n-bar volatility"""
    return _log_volatility_zscore(bars, n, m)


@feature("regime", lookback=lambda n, m: n + m, params=((days(1, at_least=2), days(30)),), source="definition")
def volatility_class(bars: Bars, n: int, m: int) -> FloatArray:
    """-1 quiet, 0 usual, +1 loud: the z-score of ln volatility below -1, between, above 1"""
    score = _log_volatility_zscore(bars, n, m)
    return np.where(np.isnan(score), np.nan, (score > 1.0).astype(np.float64) - (score < -1.0))


def _log_volatility_zscore(bars: Bars, n: int, m: int) -> FloatArray:
    return bars.memo(("log_volatility_zscore", n, m), lambda: zscore(np.log(close_volatility(bars, n)), m))


@feature("regime", lookback=lambda n, m: m, params=((50, 200), (days(5), days(20))), source="Murphy 1999")
def bull_bear(bars: Bars, n: int, m: int) -> FloatArray:
    """Mean of the signs of close - SMA_n, close - SMA_m and SMA_n - SMA_m: 1 bull, -1 bear"""
    short, long = bars.rolled(rolling_mean, "close", n), bars.rolled(rolling_mean, "close", m)
    return (np.sign(bars.close - short) + np.sign(bars.close - long) + np.sign(short - long)) / 3.0


@feature("regime", lookback=lambda n: 2 * n - 1, params=(50,), source="definition")
def trend_persistence(bars: Bars, n: int) -> FloatArray:
    """Mean over n bars of the sign of close - SMA_n"""
    return rolling_mean(np.sign(bars.close - bars.rolled(rolling_mean, "close", n)), n)


@feature("regime", lookback=lambda n: n + 1, params=(days(1, at_least=2), days(5)), inputs=HLC, source="definition")
def ranging(bars: Bars, n: int) -> FloatArray:
    """1 - |efficiency ratio| over n bars: 1 ranging, 0 a straight trend"""
    return 1.0 - np.abs(_efficiency(bars, n))
