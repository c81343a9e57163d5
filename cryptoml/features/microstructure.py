"""Microstructure features: who pays the spread, and what the book looked like within each bar.

Book columns (`book_*`) are means over the snapshots that could be read during the bar; see `joins.py`.
"""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import (
    rolling_comoment,
    rolling_mean,
    rolling_moments,
    rolling_sum,
    safe_ratio,
    span_ema,
    span_window,
    zscore,
)
from cryptoml.features.volatility import lagged_comoment

__all__: list[str] = []

FloatArray = NDArray[np.float64]
FLOW = ("volume", "taker_buy_volume")
CLV = ("close", "volume")
CAO = "Cao, Hansch & Wang 2009"


def _net_flow(bars: Bars) -> FloatArray:
    """Volume bought minus volume sold by takers."""
    return bars.memo("net_flow", lambda: 2.0 * bars.taker_buy_volume - bars.volume)


def _imbalance(bars: Bars) -> FloatArray:
    return bars.memo("taker_imbalance", lambda: safe_ratio(_net_flow(bars), bars.volume, 0.0))


@feature("microstructure", lookback=lambda n: n, params=(1, 4, 12, 24, 72), inputs=FLOW, source="Hasbrouck 1991")
def taker_imbalance(bars: Bars, n: int) -> FloatArray:
    """sum_n(2 taker buys - volume) / sum_n(volume); 0 where nothing traded"""
    return safe_ratio(rolling_sum(_net_flow(bars), n), bars.rolled(rolling_sum, "volume", n), 0.0)


@feature("microstructure", lookback=span_window, params=(3, 6, 12, 24, 48, 96), inputs=FLOW, source="Hasbrouck 1991")
def taker_imbalance_ema(bars: Bars, n: int) -> FloatArray:
    """EMA_n of (2 taker buys - volume) / volume, bars without trades counting 0"""
    return span_ema(_imbalance(bars), n)


@feature("microstructure", lookback=lambda n: n, params=(days(1, at_least=2), days(7)), inputs=FLOW, source="Hasbrouck 1991")
def taker_imbalance_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of the bar's taker imbalance"""
    return zscore(_imbalance(bars), n)


@feature("microstructure", lookback=lambda n: n + 1, params=(days(3),), inputs=("close", *FLOW), source="Kyle 1985")
def flow_impact(bars: Bars, n: int) -> FloatArray:
    """Correlation of log return and taker imbalance over n bars; 0 where either stood still"""
    xx, yy = bars.rolled(rolling_moments, "log_return", n)[1], rolling_moments(_imbalance(bars), n)[1]
    xy = rolling_comoment(bars.log_return, _imbalance(bars), n)
    return safe_ratio(xy, np.sqrt(xx) * np.sqrt(yy), 0.0)


@feature(
    "microstructure",
    lookback=lambda n, m: max(n, m) + 1,
    params=((days(1, at_least=2), days(10)),),
    inputs=CLV,
    source="Amihud 2002, eq. 1",
)
def illiquidity(bars: Bars, n: int, m: int) -> FloatArray:
    """ln of (sum_n |r| / sum_n turnover) over (sum_m |r| / sum_m turnover), turnover = close x volume"""
    turnover = bars.close * bars.volume
    short, long = (safe_ratio(bars.rolled(rolling_sum, "absolute_return", k), rolling_sum(turnover, k)) for k in (n, m))
    return np.log(safe_ratio(short, long))


@feature("microstructure", lookback=lambda n: n + 2, params=(days(1, at_least=2), days(5)), source="Roll 1984")
def roll_spread(bars: Bars, n: int) -> FloatArray:
    """2 sqrt(max(0, -cov_n(r_t, r_{t-1})))"""
    return 2.0 * np.sqrt(np.maximum(-lagged_comoment(bars, n) / max(n - 1, 1), 0.0))


@feature("microstructure", lookback=1, inputs=("book_imbalance_5",), source=CAO)
def book_imbalance_5(bars: Bars) -> FloatArray:
    """Mean of (bid size - ask size) / (bid size + ask size) over 5 levels"""
    return bars.column("book_imbalance_5")


@feature("microstructure", lookback=1, inputs=("book_imbalance_10",), source=CAO)
def book_imbalance_10(bars: Bars) -> FloatArray:
    """Mean of (bid size - ask size) / (bid size + ask size) over 10 levels"""
    return bars.column("book_imbalance_10")


@feature("microstructure", lookback=1, inputs=("book_imbalance_20",), source=CAO)
def book_imbalance_20(bars: Bars) -> FloatArray:
    """Mean of (bid size - ask size) / (bid size + ask size) over 20 levels"""
    return bars.column("book_imbalance_20")


@feature("microstructure", lookback=1, inputs=("book_imbalance_1",), source=CAO)
def book_imbalance_1(bars: Bars) -> FloatArray:
    """Mean of (bid size - ask size) / (bid size + ask size) at the best prices"""
    return bars.column("book_imbalance_1")


@feature("microstructure", lookback=lambda n: n, params=(hours(6), hours(24)), inputs=("book_imbalance_5",), source=CAO)
def book_imbalance_mean(bars: Bars, n: int) -> FloatArray:
    """Mean over n bars of the imbalance at 5 levels"""
    return rolling_mean(bars.column("book_imbalance_5"), n)


@feature("microstructure", lookback=1, inputs=("book_spread",), source="definition")
def relative_spread(bars: Bars) -> FloatArray:
    """Mean of 10,000 (ask - bid) / mid, in basis points"""
    return bars.column("book_spread")


@feature("microstructure", lookback=lambda n: n, params=(hours(24),), inputs=("book_spread",), source="definition")
def spread_ratio(bars: Bars, n: int) -> FloatArray:
    """ln(spread / its mean of n bars)"""
    spread = bars.column("book_spread")
    return np.log(safe_ratio(spread, rolling_mean(spread, n)))


@feature("microstructure", lookback=1, inputs=("book_depth",), source="definition")
def depth_ratio(bars: Bars) -> FloatArray:
    """Mean of ln(bid size / ask size) over all levels"""
    return bars.column("book_depth")


@feature("microstructure", lookback=1, inputs=("book_microprice",), source="Stoikov 2018")
def microprice(bars: Bars) -> FloatArray:
    """Mean of 10,000 (size-weighted mid / mid - 1), in basis points"""
    return bars.column("book_microprice")


@feature("microstructure", lookback=1, inputs=("trade_flow",), source="Hasbrouck 1991")
def trade_flow_imbalance(bars: Bars) -> FloatArray:
    """(bought - sold) / (bought + sold) over the single trades of the bar, by aggressor"""
    return bars.column("trade_flow")
