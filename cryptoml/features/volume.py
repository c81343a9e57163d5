"""Volume features: activity against its own history, and money flow over declared windows."""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    delay,
    rolling_comoment,
    rolling_max,
    rolling_mean,
    rolling_moments,
    rolling_sum,
    safe_ratio,
    span_ema,
    span_window,
    zscore,
)

__all__: list[str] = []

FloatArray = NDArray[np.float64]
VOLUME = ("volume",)
CLOSE_VOLUME = ("close", "volume")
HLCV = ("high", "low", "close", "volume")


@feature("volume", lookback=lambda n: n, params=(5, 20, 100), inputs=VOLUME, source="definition")
def ratio(bars: Bars, n: int) -> FloatArray:
    """ln(1 + volume / SMA_n(volume)); undefined where nothing traded in n bars"""
    return np.log1p(safe_ratio(bars.volume, bars.rolled(rolling_mean, "volume", n)))


@feature("volume", lookback=lambda n: n, params=(20, 100), inputs=VOLUME, source="definition", name="zscore")
def volume_zscore(bars: Bars, n: int) -> FloatArray:
    """(volume - mean_n) / std_n; 0 where the volume stood still"""
    return bars.rolled(zscore, "volume", n)


@feature("volume", lookback=lambda n, m: m, params=((5, 20), (20, 100), (days(1), days(7))), inputs=VOLUME, source="definition")
def trend(bars: Bars, n: int, m: int) -> FloatArray:
    """(SMA_n - SMA_m) / (SMA_n + SMA_m) of volume"""
    short, long = bars.rolled(rolling_mean, "volume", n), bars.rolled(rolling_mean, "volume", m)
    return safe_ratio(short - long, short + long)


@feature("volume", lookback=lambda n: n + 1, params=(1, hours(24)), inputs=VOLUME, source="definition")
def change(bars: Bars, n: int) -> FloatArray:
    """(volume_t - volume_{t-n}) / (volume_t + volume_{t-n})"""
    earlier = delay(bars.volume, n)
    return safe_ratio(bars.volume - earlier, bars.volume + earlier)


@feature("volume", lookback=lambda n: 7 * n + 1, params=(hours(24),), inputs=VOLUME, source="definition")
def seasonal_ratio(bars: Bars, n: int) -> FloatArray:
    """ln(1 + volume_t / mean of volume_{t-n}, ..., volume_{t-7n})"""
    earlier = (delay(bars.volume, n * step) for step in range(1, 8))
    return np.log1p(safe_ratio(bars.volume, sum(earlier, start=0.0 * bars.volume) / 7.0))


def _turnover(bars: Bars) -> FloatArray:
    """Typical price times volume."""
    return bars.memo("turnover", lambda: bars.typical_price * bars.volume)


def _signed_volume(bars: Bars) -> FloatArray:
    return bars.memo("signed_volume", lambda: np.sign(bars.log_return) * bars.volume)


@feature("volume", lookback=lambda n: n + 1, params=(20, 50, 100), inputs=CLOSE_VOLUME, source="Granville 1963, over n bars")
def obv(bars: Bars, n: int) -> FloatArray:
    """sum_n(sign(return) volume) / sum_n(volume)"""
    return safe_ratio(rolling_sum(_signed_volume(bars), n), bars.rolled(rolling_sum, "volume", n))


def _money_flow(bars: Bars) -> FloatArray:
    """Close location value times volume."""
    return bars.memo("money_flow", lambda: _close_location(bars) * bars.volume)


def _close_location(bars: Bars) -> FloatArray:
    return safe_ratio((bars.close - bars.low) - (bars.high - bars.close), bars.high - bars.low, 0.0)


@feature("volume", lookback=lambda n: n, params=(20, 50), inputs=HLCV, source="Chaikin money flow")
def accumulation_distribution(bars: Bars, n: int) -> FloatArray:
    """sum_n(CLV volume) / sum_n(volume), CLV = (2 close - high - low) / (high - low)"""
    return safe_ratio(rolling_sum(_money_flow(bars), n), bars.rolled(rolling_sum, "volume", n))


@feature("volume", lookback=lambda n, m: span_window(m) + m - 1, params=((3, 10),), inputs=HLCV, source="Chaikin oscillator")
def chaikin_oscillator(bars: Bars, n: int, m: int) -> FloatArray:
    """(EMA_n - EMA_m)(sum_m CLV volume) / EMA_m(sum_m volume)"""
    line = rolling_sum(_money_flow(bars), m)
    scale = span_ema(bars.rolled(rolling_sum, "volume", m), m)
    return safe_ratio(span_ema(line, n) - span_ema(line, m), scale)


@feature("volume", lookback=lambda n: n + 1, params=(14, 28), inputs=HLCV, source="Quong & Soudack 1989")
def mfi(bars: Bars, n: int) -> FloatArray:
    """100 positive_n / (positive_n + negative_n) of typical price x volume, by the sign of the typical price's change"""
    flow = _turnover(bars)
    step = bars.typical_price - delay(bars.typical_price, 1)
    positive = rolling_sum(np.where(step > 0, flow, 0.0 * step), n)
    negative = rolling_sum(np.where(step < 0, flow, 0.0 * step), n)
    return 100.0 * safe_ratio(positive, positive + negative, 0.5)


@feature("volume", lookback=lambda n: n, params=(20, days(1), days(7)), inputs=HLCV, source="Berkowitz et al. 1988")
def vwap_distance(bars: Bars, n: int) -> FloatArray:
    """ln(close / (sum_n(typical price x volume) / sum_n(volume)))"""
    vwap = safe_ratio(rolling_sum(_turnover(bars), n), bars.rolled(rolling_sum, "volume", n))
    return np.log(bars.close / vwap)


@feature("volume", lookback=lambda n: n, params=(hours(24), days(5)), inputs=VOLUME, source="Herfindahl 1950")
def concentration(bars: Bars, n: int) -> FloatArray:
    """n sum_n(volume^2) / sum_n(volume)^2, 1 when spread evenly"""
    total = bars.rolled(rolling_sum, "volume", n)
    return n * safe_ratio(rolling_sum(bars.volume**2, n), total * total)


@feature("volume", lookback=lambda n: n, params=(hours(24),), inputs=VOLUME, source="definition")
def peak_share(bars: Bars, n: int) -> FloatArray:
    """Largest bar's share of the volume of n bars"""
    return safe_ratio(bars.rolled(rolling_max, "volume", n), bars.rolled(rolling_sum, "volume", n))


@feature("volume", lookback=lambda n: span_window(n) + 1, params=(13,), inputs=CLOSE_VOLUME, source="Elder 1993")
def force_index(bars: Bars, n: int) -> FloatArray:
    """EMA_n(log return x volume) / EMA_n(volume)"""
    return safe_ratio(span_ema(bars.log_return * bars.volume, n), bars.rolled(span_ema, "volume", n))


@feature("volume", lookback=lambda n: n + 1, params=(14,), inputs=HLCV, source="Arms 1983, made scale-free")
def ease_of_movement(bars: Bars, n: int) -> FloatArray:
    """sum_n(ln(mid_t / mid_{t-1}) ln(high / low)) / (1 + volume / SMA_n(volume)), mid = (high + low) / 2"""
    middle = np.log((bars.high + bars.low) / 2.0)
    travelled = (middle - delay(middle, 1)) * bars.log_range
    busy = safe_ratio(bars.volume, bars.rolled(rolling_mean, "volume", n))
    return rolling_sum(travelled, n) / (1.0 + busy)


@feature(
    "volume",
    lookback=lambda n: n + 1,
    params=(days(1, at_least=3), days(5, at_least=3)),
    inputs=CLOSE_VOLUME,
    source="Karpoff 1987",
)
def price_correlation(bars: Bars, n: int) -> FloatArray:
    """Correlation of |log return| and volume over n bars; 0 where either stood still"""
    xx, yy = (bars.rolled(rolling_moments, series, n)[1] for series in ("absolute_return", "volume"))
    xy = rolling_comoment(bars.absolute_return, bars.volume, n)
    return safe_ratio(xy, np.sqrt(xx) * np.sqrt(yy), 0.0)


@feature("volume", lookback=lambda n: n, params=(20, 100), inputs=("num_trades",), source="definition")
def trade_count_ratio(bars: Bars, n: int) -> FloatArray:
    """ln(1 + trades / SMA_n(trades))"""
    return np.log1p(safe_ratio(bars.num_trades, bars.rolled(rolling_mean, "num_trades", n)))


@feature("volume", lookback=lambda n: n, params=(100,), inputs=("volume", "num_trades"), source="definition")
def trade_size_ratio(bars: Bars, n: int) -> FloatArray:
    """ln(volume per trade / (sum_n volume / sum_n trades))"""
    usual = safe_ratio(bars.rolled(rolling_sum, "volume", n), bars.rolled(rolling_sum, "num_trades", n))
    return np.log(safe_ratio(bars.volume, bars.num_trades * usual))
