"""Volatility features: estimators annualised by the square root of bars per year (365 days), and their ratios."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cryptoml.data.schema import bars_per_year
from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    decay_of_halflife,
    delay,
    ema,
    ema_window,
    rolling_comoment,
    rolling_mean,
    rolling_moments,
    rolling_std,
    rolling_sum,
    safe_ratio,
    wilder,
    wilder_window,
)

__all__ = ["close_volatility", "lagged_comoment"]

FloatArray = NDArray[np.float64]
HLC = ("high", "low", "close")
OHLC = ("open", "high", "low", "close")
RANGE_WINDOWS = (hours(24, at_least=2), days(10, at_least=2))


def lagged_comoment(bars: Bars, n: int) -> FloatArray:
    """Sum of products of deviations of the last n log returns and those of the bar before (n + 2 rows)."""
    return bars.memo(("lagged", n), lambda: rolling_comoment(bars.log_return, delay(bars.log_return, 1), n))


_bars_per_year = lru_cache(bars_per_year)


def _annualised(bars: Bars, variance: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(variance, 0.0) * _bars_per_year(bars.timeframe))


def close_volatility(bars: Bars, n: int) -> FloatArray:
    """Standard deviation per bar of the last n log returns (n + 1 rows)."""
    return bars.memo(("close_volatility", n), lambda: np.sqrt(bars.rolled(rolling_moments, "log_return", n)[1] / max(n - 1, 1)))


@feature(
    "volatility",
    lookback=lambda n: n + 1,
    params=(*(hours(count, at_least=2) for count in (6, 24)), *(days(count, at_least=2) for count in (5, 10, 20, 50))),
    source="definition",
)
def historical(bars: Bars, n: int) -> FloatArray:
    """std_n(log return) sqrt(bars per year)"""
    return close_volatility(bars, n) * np.sqrt(_bars_per_year(bars.timeframe))


@feature("volatility", lookback=lambda n: n, params=RANGE_WINDOWS, inputs=("high", "low"), source="Parkinson 1980")
def parkinson(bars: Bars, n: int) -> FloatArray:
    """sqrt(mean_n(ln(high / low)^2) / (4 ln 2)), annualised"""
    return _annualised(bars, rolling_mean(bars.log_range**2, n) / (4.0 * np.log(2.0)))


@feature("volatility", lookback=lambda n: n, params=RANGE_WINDOWS, inputs=OHLC, source="Garman & Klass 1980")
def garman_klass(bars: Bars, n: int) -> FloatArray:
    """sqrt(mean_n(ln(high / low)^2 / 2 - (2 ln 2 - 1) ln(close / open)^2)), annualised"""
    terms = 0.5 * bars.log_range**2 - (2.0 * np.log(2.0) - 1.0) * bars.log_body**2
    return _annualised(bars, rolling_mean(terms, n))


def _drift_free_variance(bars: Bars, n: int) -> FloatArray:
    def terms() -> FloatArray:
        up, down = np.log(bars.high / bars.open), np.log(bars.low / bars.open)
        return up * (up - bars.log_body) + down * (down - bars.log_body)

    return bars.memo(("drift_free", n), lambda: rolling_mean(bars.memo("drift_free", terms), n))


@feature("volatility", lookback=lambda n: n, params=RANGE_WINDOWS, inputs=OHLC, source="Rogers & Satchell 1991")
def rogers_satchell(bars: Bars, n: int) -> FloatArray:
    """sqrt(mean_n(u (u - c) + d (d - c))), u, d, c the logs of high, low, close over open; annualised"""
    return _annualised(bars, _drift_free_variance(bars, n))


@feature("volatility", lookback=lambda n: n + 1, params=RANGE_WINDOWS, inputs=OHLC, source="Yang & Zhang 2000, eq. 7 and 10")
def yang_zhang(bars: Bars, n: int) -> FloatArray:
    """sqrt(var_n(opening gap) + k var_n(body) + (1 - k) Rogers-Satchell), k = 0.34 / (1.34 + (n + 1) / (n - 1)); annualised"""
    gap = np.log(bars.open) - delay(bars.log_close, 1)
    k = 0.34 / (1.34 + (n + 1) / max(n - 1, 1))
    opening, body = rolling_std(gap, n) ** 2, rolling_std(bars.log_body, n) ** 2
    return _annualised(bars, opening + k * body + (1.0 - k) * _drift_free_variance(bars, n))


@feature("volatility", lookback=lambda n: wilder_window(n) + 1, params=(7, 14, 28), inputs=HLC, source="Wilder 1978")
def atr(bars: Bars, n: int) -> FloatArray:
    """Wilder average of the true range over n bars / close"""
    return bars.rolled(wilder, "true_range", n) / bars.close


@feature("volatility", lookback=lambda n, m: m + 1, params=((7, 50),), inputs=HLC, source="Wilder 1978")
def true_range_ratio(bars: Bars, n: int, m: int) -> FloatArray:
    """ln(SMA_n / SMA_m) of the true range"""
    short, long = bars.rolled(rolling_mean, "true_range", n), bars.rolled(rolling_mean, "true_range", m)
    return np.log(safe_ratio(short, long))


@feature(
    "volatility",
    lookback=lambda h: ema_window(decay_of_halflife(h)) + 1,
    params=(hours(12), hours(48)),
    source="RiskMetrics 1996",
)
def ewma(bars: Bars, halflife: int) -> FloatArray:
    """sqrt of the exponential mean of squared log returns with the given half-life, annualised"""
    return _annualised(bars, ema(bars.squared_return, decay_of_halflife(halflife)))


@feature(
    "volatility",
    lookback=lambda n, m: max(n, m) + 1,
    params=(
        (hours(6, at_least=2), days(1, at_least=2)),
        (days(1, at_least=2), days(5, at_least=2)),
        (days(5, at_least=2), days(20)),
        (days(10), days(50)),
    ),
    source="definition",
    name="ratio",
)
def volatility_ratio(bars: Bars, n: int, m: int) -> FloatArray:
    """ln(std_n / std_m) of log returns"""
    return np.log(safe_ratio(close_volatility(bars, n), close_volatility(bars, m)))


@feature(
    "volatility",
    lookback=lambda n, m: n + m,
    params=((days(1, at_least=2), days(10)), (days(5, at_least=2), days(30))),
    source="definition",
)
def of_volatility(bars: Bars, n: int, m: int) -> FloatArray:
    """std_m / mean_m of the n-bar volatility"""
    mean, squares = rolling_moments(close_volatility(bars, n), m)
    return safe_ratio(np.sqrt(squares / max(m - 1, 1)), mean)


@feature(
    "volatility",
    lookback=lambda n: n + 1,
    params=(days(1, at_least=2), days(5, at_least=2), days(20)),
    source="Barndorff-Nielsen et al. 2010",
)
def downside_share(bars: Bars, n: int) -> FloatArray:
    """sum_n(r^2 where r < 0) / sum_n(r^2); 0.5 where nothing moved"""
    losses = np.minimum(bars.log_return, 0.0)
    return safe_ratio(rolling_sum(losses**2, n), bars.rolled(rolling_sum, "squared_return", n), 0.5)


@feature("volatility", lookback=lambda n: n, params=(20, 50), source="Bollinger 2001")
def bollinger_width(bars: Bars, n: int) -> FloatArray:
    """4 std_n(close) / SMA_n(close)"""
    return 4.0 * rolling_std(bars.close, n) / bars.rolled(rolling_mean, "close", n)


@feature("volatility", lookback=lambda n: n, params=(20,), inputs=("high", "low"), source="definition")
def range_ratio(bars: Bars, n: int) -> FloatArray:
    """ln(high / low) / mean_n(ln(high / low)); 1 where the ranges are empty"""
    return safe_ratio(bars.log_range, rolling_mean(bars.log_range, n), 1.0)


@feature(
    "volatility",
    lookback=lambda n: n + 2,
    params=(days(1, at_least=2), days(5, at_least=2)),
    source="Barndorff-Nielsen & Shephard 2004, eq. 5",
)
def jump_share(bars: Bars, n: int) -> FloatArray:
    """1 - (pi / 2) sum_n(|r_t| |r_{t-1}|) / sum_n(r_t^2); 0 where nothing moved"""
    pairs = bars.memo("return_pairs", lambda: bars.absolute_return * delay(bars.absolute_return, 1))
    smooth = rolling_sum(pairs, n) * (np.pi / 2.0)
    total = bars.rolled(rolling_sum, "squared_return", n)
    return safe_ratio(total - smooth, total, 0.0)
