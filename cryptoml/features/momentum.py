"""Momentum features: oscillators in their usual units, and price differences as a share of the price."""

import numpy as np
import talib
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    delay,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_sum,
    safe_ratio,
    span_ema,
    span_window,
    wilder,
    wilder_window,
)
from cryptoml.features.volatility import close_volatility

__all__: list[str] = []

FloatArray = NDArray[np.float64]
HLC = ("high", "low", "close")
HL = ("high", "low")
STILL = 1e-12
"""Mean deviation of typical prices, as a share of them, that is but their rounding."""


def _gains_losses(bars: Bars) -> tuple[FloatArray, FloatArray]:
    def split() -> tuple[FloatArray, FloatArray]:
        change = bars.close - delay(bars.close, 1)
        return np.maximum(change, 0.0), np.maximum(-change, 0.0)

    return bars.memo("gains_losses", split)


def _rsi(bars: Bars, n: int) -> FloatArray:
    def compute() -> FloatArray:
        up, down = (wilder(moves, n) for moves in _gains_losses(bars))
        return 100.0 * safe_ratio(up, up + down, 0.5)

    return bars.memo(("rsi", n), compute)


@feature("momentum", lookback=lambda n: wilder_window(n) + 1, params=(7, 14, 28), source="Wilder 1978")
def rsi(bars: Bars, n: int) -> FloatArray:
    """100 U / (U + D), Wilder averages of gains and losses over n bars; 50 where nothing moved"""
    return _rsi(bars, n)


@feature("momentum", lookback=lambda n: wilder_window(n) + n, params=(14,), source="Chande & Kroll 1994")
def stochastic_rsi(bars: Bars, n: int) -> FloatArray:
    """(RSI - lowest RSI of n) / (highest RSI of n - lowest); 0.5 where it stood still"""
    value = _rsi(bars, n)
    low, high = rolling_min(value, n), rolling_max(value, n)
    return safe_ratio(value - low, high - low, 0.5)


@feature("momentum", lookback=lambda n: n + 1, params=(14,), source="Chande & Kroll 1994")
def cmo(bars: Bars, n: int) -> FloatArray:
    """100 (sum_n gains - sum_n losses) / (sum_n gains + sum_n losses); 0 where nothing moved"""
    gains, losses = _gains_losses(bars)
    up, down = rolling_sum(gains, n), rolling_sum(losses, n)
    return 100.0 * safe_ratio(up - down, up + down, 0.0)


MACD = ((12, 26, 9), (5, 35, 5), (24, 52, 18))


def _macd(bars: Bars, fast: int, slow: int) -> FloatArray:
    def compute() -> FloatArray:
        return bars.rolled(span_ema, "close", fast) - bars.rolled(span_ema, "close", slow)

    return bars.memo(("macd", fast, slow), compute)


def _macd_signal(bars: Bars, fast: int, slow: int, signal: int) -> FloatArray:
    return bars.memo(("macd", fast, slow, signal), lambda: span_ema(_macd(bars, fast, slow), signal))


@feature("momentum", lookback=lambda f, s, n: span_window(s), params=MACD, source="Appel 1979")
def macd(bars: Bars, fast: int, slow: int, signal: int) -> FloatArray:
    """(EMA_fast - EMA_slow) / close"""
    return _macd(bars, fast, slow) / bars.close


@feature("momentum", lookback=lambda f, s, n: span_window(s) + span_window(n) - 1, params=MACD, source="Appel 1979")
def macd_signal(bars: Bars, fast: int, slow: int, signal: int) -> FloatArray:
    """EMA_signal(EMA_fast - EMA_slow) / close"""
    return _macd_signal(bars, fast, slow, signal) / bars.close


@feature("momentum", lookback=lambda f, s, n: span_window(s) + span_window(n) - 1, params=MACD, source="Appel 1979")
def macd_histogram(bars: Bars, fast: int, slow: int, signal: int) -> FloatArray:
    """(MACD - EMA_signal(MACD)) / close"""
    return (_macd(bars, fast, slow) - _macd_signal(bars, fast, slow, signal)) / bars.close


def _stochastic(bars: Bars, n: int) -> FloatArray:
    def compute() -> FloatArray:
        low, high = bars.rolled(rolling_min, "low", n), bars.rolled(rolling_max, "high", n)
        return 100.0 * safe_ratio(bars.close - low, high - low, 0.5)

    return bars.memo(("stochastic", n), compute)


@feature("momentum", lookback=lambda n: n, params=(5, 14, 28), inputs=HLC, source="Lane 1984")
def stochastic_k(bars: Bars, n: int) -> FloatArray:
    """100 (close - low_n) / (high_n - low_n); 50 for an empty range"""
    return _stochastic(bars, n)


@feature("momentum", lookback=lambda n, m: n + m - 1, params=((14, 3), (28, 5)), inputs=HLC, source="Lane 1984")
def stochastic_d(bars: Bars, n: int, m: int) -> FloatArray:
    """SMA_m of stochastic %K over n bars"""
    return rolling_mean(_stochastic(bars, n), m)


@feature("momentum", lookback=lambda n: n, params=(42,), inputs=HLC, source="Williams 1979")
def williams_r(bars: Bars, n: int) -> FloatArray:
    """-100 (high_n - close) / (high_n - low_n); -50 for an empty range"""
    return _stochastic(bars, n) - 100.0


@feature("momentum", lookback=lambda n: n + 1, params=(3, 6, 10, 20, 50), source="Murphy 1999")
def roc(bars: Bars, n: int) -> FloatArray:
    """100 (close_t / close_{t-n} - 1)"""
    return 100.0 * np.expm1(bars.log_close - delay(bars.log_close, n))


@feature("momentum", lookback=lambda n: n, params=(14, 20), inputs=HLC, source="Lambert 1980")
def cci(bars: Bars, n: int) -> FloatArray:
    """(TP - SMA_n(TP)) / (0.015 mean_n |TP - SMA_n(TP)|), TP the typical price; 0 where it stood still"""
    price = bars.typical_price
    mean = bars.rolled(rolling_mean, "typical_price", n)
    deviation = np.abs(price - mean)
    for age in range(1, n):
        deviation += np.abs(delay(price, age) - mean)
    moved = deviation > n * STILL * mean
    return safe_ratio(np.where(moved, price - mean, 0.0), deviation * (0.015 / n), 0.0)


@feature("momentum", lookback=lambda n, m: m, params=((5, 34),), inputs=HLC, source="Williams 1995")
def awesome_oscillator(bars: Bars, n: int, m: int) -> FloatArray:
    """(SMA_n - SMA_m)((high + low) / 2) / close"""
    middle = (bars.high + bars.low) / 2.0
    return (rolling_mean(middle, n) - rolling_mean(middle, m)) / bars.close


@feature("momentum", lookback=lambda a, b, c: c + 1, params=((7, 14, 28),), inputs=HLC, source="Williams 1985")
def ultimate_oscillator(bars: Bars, a: int, b: int, c: int) -> FloatArray:
    """100 (4 A_a + 2 A_b + A_c) / 7, A_n = sum_n(close - true low) / sum_n(true range); 50 for empty ranges"""
    pressure = bars.close - np.minimum(bars.low, delay(bars.close, 1))
    shares = [safe_ratio(rolling_sum(pressure, n), bars.rolled(rolling_sum, "true_range", n), 0.5) for n in (a, b, c)]
    return 100.0 * (4.0 * shares[0] + 2.0 * shares[1] + shares[2]) / 7.0


@feature("momentum", lookback=lambda n, m: span_window(n) + span_window(m), params=((25, 13),), source="Blau 1991")
def tsi(bars: Bars, n: int, m: int) -> FloatArray:
    """100 EMA_m(EMA_n(d)) / EMA_m(EMA_n(|d|)), d the close's change; 0 where nothing moved"""
    change = bars.close - delay(bars.close, 1)
    return 100.0 * safe_ratio(span_ema(span_ema(change, n), m), span_ema(span_ema(np.abs(change), n), m), 0.0)


@feature("momentum", lookback=lambda n: 3 * span_window(n) - 1, params=(15,), source="Hutson 1983")
def trix(bars: Bars, n: int) -> FloatArray:
    """100 x one-bar change of ln EMA_n(EMA_n(EMA_n(close)))"""
    smooth = np.log(span_ema(span_ema(bars.rolled(span_ema, "close", n), n), n))
    return 100.0 * (smooth - delay(smooth, 1))


@feature("momentum", lookback=lambda n: n + 1, params=(25,), inputs=HL, source="Chande 1995")
def aroon(bars: Bars, n: int) -> FloatArray:
    """100 (bars since the lowest low - bars since the highest high) / n, of the last n + 1 bars"""
    return talib.AROONOSC(bars.high, bars.low, timeperiod=n)


@feature("momentum", lookback=lambda n: n + 1, params=(14,), inputs=HLC, source="Botes & Siepman 2010")
def vortex(bars: Bars, n: int) -> FloatArray:
    """(sum_n |high_t - low_{t-1}| - sum_n |low_t - high_{t-1}|) / sum_n(true range); 0 for empty ranges"""
    rise, fall = np.abs(bars.high - delay(bars.low, 1)), np.abs(bars.low - delay(bars.high, 1))
    return safe_ratio(rolling_sum(rise - fall, n), bars.rolled(rolling_sum, "true_range", n), 0.0)


@feature("momentum", lookback=span_window, params=(13,), inputs=("high", "close"), source="Elder 1993")
def bull_power(bars: Bars, n: int) -> FloatArray:
    """(high - EMA_n(close)) / close"""
    return (bars.high - bars.rolled(span_ema, "close", n)) / bars.close


@feature("momentum", lookback=span_window, params=(13,), inputs=("low", "close"), source="Elder 1993")
def bear_power(bars: Bars, n: int) -> FloatArray:
    """(low - EMA_n(close)) / close"""
    return (bars.low - bars.rolled(span_ema, "close", n)) / bars.close


@feature("momentum", lookback=lambda n: 2 * n + 1, params=(hours(4), hours(24)), source="definition")
def acceleration(bars: Bars, n: int) -> FloatArray:
    """ln(close_t / close_{t-n}) - ln(close_{t-n} / close_{t-2n})"""
    step = bars.log_close - delay(bars.log_close, n)
    return step - delay(step, n)


@feature(
    "momentum", lookback=lambda n: n + 1, params=(days(1), days(3), days(7), days(20)), source="Moskowitz, Ooi & Pedersen 2012"
)
def t_statistic(bars: Bars, n: int) -> FloatArray:
    """ln(close_t / close_{t-n}) / (std_n(log return) sqrt(n)); 0 where nothing moved"""
    return safe_ratio(bars.log_close - delay(bars.log_close, n), close_volatility(bars, n) * np.sqrt(n), 0.0)
