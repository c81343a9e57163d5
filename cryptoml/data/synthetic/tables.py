"""Funding, on-chain, order-book and second-venue tables that match the built-in market's candles.

They carry `available_at` as real ones do. None of them knows more of the future than the candles: funding follows past
returns, chain activity follows past turnover and moves, books lean with the order flow of the bar that is closing.
"""

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from cryptoml.data.panel import Panel
from cryptoml.data.schema import ORDERBOOK_DEPTH, parse_timeframe, split_symbol
from cryptoml.data.synthetic.config import MarketConfig
from cryptoml.data.synthetic.dynamics import Path

__all__ = ["VENUE", "draw_tables"]

VENUE = "second"
ONCHAIN_DELAY = pd.Timedelta(hours=27)
FUNDING_PERIOD = pd.Timedelta(hours=8)
BASE_FUNDING = 1e-4
BOOK_LEAN = 0.3  # log ratio of bid to ask sizes per unit of order-flow imbalance, halved
BASIS_HALF_LIFE = 12.0  # bars

Tables = dict[str, dict[str, pd.DataFrame]]


def draw_tables(config: MarketConfig, path: Path, panel: Panel, rng: np.random.Generator) -> Tables:
    """Return tables by name and key as `Panel.tables` wants them."""
    booked = panel.symbols[: config.orderbook_assets]
    return {
        "funding": {symbol: _funding(panel, symbol, rng) for symbol in panel.symbols},
        "onchain": {split_symbol(symbol)[0]: _onchain(panel, symbol, rng) for symbol in panel.symbols},
        "venue_candles": {f"{VENUE}:{symbol}": _venue_candles(panel, symbol, rng) for symbol in panel.symbols},
        "orderbook": {
            symbol: _orderbook(panel, symbol, path.flow[:, asset], path.past_volatility[:, asset], rng)
            for asset, symbol in enumerate(booked)
        },
    }


def _closes(panel: Panel) -> pd.DatetimeIndex:
    """Return the instants at which the bars become known."""
    return panel.timestamps + parse_timeframe(panel.timeframe)


def _ticks(panel: Panel, period: pd.Timedelta) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Return the multiples of a period inside the panel and, for each, the last bar closed by then."""
    closes = _closes(panel)
    ticks = pd.date_range(closes[0].ceil(period), closes[-1], freq=period)
    return ticks, closes.searchsorted(ticks, side="right") - 1


def _funding(panel: Panel, symbol: str, rng: np.random.Generator) -> pd.DataFrame:
    log_close = np.log(panel.field("close")[panel.index_of(symbol)])
    ticks, last = _ticks(panel, FUNDING_PERIOD)
    past_day = log_close[last] - log_close[np.maximum(last - 24, 0)]
    rate = BASE_FUNDING + 0.005 * past_day + 5e-5 * rng.standard_normal(len(ticks))
    return pd.DataFrame({"timestamp": ticks, "available_at": ticks, "funding_rate": np.clip(rate, -0.0075, 0.0075)})


def _onchain(panel: Panel, symbol: str, rng: np.random.Generator) -> pd.DataFrame:
    ends, last = _ticks(panel, pd.Timedelta(days=1))
    labels = ends - pd.Timedelta(days=1)
    log_close = np.log(panel.field("close")[panel.index_of(symbol), last])
    log_turnover = np.log(panel.field("quote_volume")[panel.index_of(symbol), last])
    series = _chain_series(np.diff(log_close, prepend=log_close[:1]), log_turnover - log_turnover[:1], rng)
    rows = {"timestamp": labels, "available_at": labels + ONCHAIN_DELAY}
    parts = [pd.DataFrame({**rows, "metric": metric, "value": values}) for metric, values in series.items()]
    return pd.concat(parts).sort_values(["timestamp", "metric"], ignore_index=True)


def _chain_series(daily_return: np.ndarray, activity: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return daily series by metric, with Coin Metrics' names where it has one."""
    days = len(daily_return)

    def level(base: float, activity_share: float, spread: float) -> np.ndarray:
        return base * np.exp(activity_share * activity + spread * _smooth(rng, days))

    inflow, outflow = level(20_000, 0.3, 0.15) * np.exp(-daily_return), level(20_000, 0.3, 0.15) * np.exp(daily_return)
    supply = 1.9e7 + 900.0 * np.arange(days)
    return {
        "AdrActCnt": np.round(level(900_000, 0.1, 0.05)),
        "TxCnt": np.round(level(300_000, 0.1, 0.05)),
        "FeeTotNtv": level(40, 0.5, 0.3),
        "FlowInExNtv": inflow,
        "FlowOutExNtv": outflow,
        "SplyCur": supply,
        "SplyExNtv": np.maximum(2.5e6 + np.cumsum(0.02 * (inflow - outflow)), 1e5),
        "whale_movements": np.round(level(1_500, 0.4, 0.2)),
        "stablecoin_supply": 1.2e11 * np.exp(0.0002 * np.arange(days) + 0.005 * _smooth(rng, days)),
        "long_term_holder_supply": supply * (0.7 + 0.01 * _smooth(rng, days)),
    }


def _smooth(rng: np.random.Generator, length: int, decay: float = 0.9) -> np.ndarray:
    return lfilter([(1 - decay**2) ** 0.5], [1, -decay], rng.standard_normal(length))


def _venue_candles(panel: Panel, symbol: str, rng: np.random.Generator) -> pd.DataFrame:
    """Return the same bars at another venue: prices off by a small mean-reverting basis, a third of the volume."""
    basis = np.exp(5e-4 * _smooth(rng, panel.num_bars + 1, 0.5 ** (1 / BASIS_HALF_LIFE)))
    frame = panel.frame(symbol)
    frame.insert(1, "available_at", _closes(panel))
    frame["open"], frame["close"] = frame["open"] * basis[:-1], frame["close"] * basis[1:]
    middle = (basis[:-1] + basis[1:]) / 2
    frame["high"] = np.maximum(frame["high"] * middle, frame[["open", "close"]].max(axis=1))
    frame["low"] = np.minimum(frame["low"] * middle, frame[["open", "close"]].min(axis=1))
    size = 0.33 * np.exp(0.1 * rng.standard_normal(panel.num_bars))
    for column in ("volume", "quote_volume", "taker_buy_volume"):
        frame[column] *= size
    frame["num_trades"] = np.ceil(frame["num_trades"] * size)
    return frame


def _orderbook(panel: Panel, symbol: str, flow: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Return one snapshot per bar, taken one second before the bar closes and readable 50 ms later."""
    shape = (panel.num_bars, ORDERBOOK_DEPTH)
    middle = panel.field("close")[panel.index_of(symbol)][:, None]
    steps = (0.01 * sigma)[:, None] * np.cumsum(rng.uniform(0.5, 1.5, shape), axis=1)
    base = panel.field("volume")[panel.index_of(symbol)][:, None] * 0.002 * np.sqrt(np.arange(1, ORDERBOOK_DEPTH + 1))
    lean = np.exp(BOOK_LEAN * flow)[:, None]

    sizes = [base * factor * np.exp(0.3 * rng.standard_normal(shape)) for factor in (lean, 1 / lean)]
    stamps = _closes(panel) - pd.Timedelta(seconds=1)
    return pd.DataFrame(
        {
            "timestamp": stamps,
            "available_at": stamps + pd.Timedelta(milliseconds=50),
            "bid_prices": list(middle * (1 - steps)),
            "bid_sizes": list(sizes[0]),
            "ask_prices": list(middle * (1 + steps)),
            "ask_sizes": list(sizes[1]),
        }
    )
