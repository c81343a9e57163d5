"""A small market with every input present, and long enough for the hungriest feature."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.lake_panel import write_panel
from cryptoml.data.panel import Panel, panel_from_frames
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.features.engineer import AdvancedFeatureEngineer

TIMEFRAME = "6h"  # windows in days stay short
HOUR = pd.Timedelta(hours=1)
BAR = 6 * HOUR


def draw_candles(num_bars: int, seed: int, volatility: float = 0.01, price: float = 100.0) -> pd.DataFrame:
    """Return candles with all optional columns, prices on a grid of ticks so that ties happen."""
    rng = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(volatility * rng.standard_t(4, num_bars))), 2)
    open_ = np.round(np.r_[close[:1], close[:-1]] * np.exp(0.2 * volatility * rng.standard_normal(num_bars)), 2)
    high = np.round(np.maximum(open_, close) * np.exp(np.abs(0.5 * volatility * rng.standard_normal(num_bars))), 2)
    low = np.round(np.minimum(open_, close) * np.exp(-np.abs(0.5 * volatility * rng.standard_normal(num_bars))), 2)
    volume = np.round(rng.lognormal(3, 1, num_bars), 3)
    return pd.DataFrame(
        {
            "timestamp": pd.date_range("2023-01-01", periods=num_bars, freq=BAR, tz="UTC"),
            "open": open_,
            "high": np.maximum.reduce([high, open_, close]),
            "low": np.minimum.reduce([low, open_, close]),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "num_trades": rng.integers(1, 500, num_bars),
            "taker_buy_volume": volume * rng.uniform(0, 1, num_bars),
        }
    )


def draw_tables(candles: pd.DataFrame, symbol: str, seed: int) -> dict[str, dict[str, pd.DataFrame]]:
    """Return every external table of one symbol."""
    rng, asset = np.random.default_rng(seed), symbol.removesuffix("USDT")
    stamps = candles["timestamp"]
    seen = stamps + BAR - pd.Timedelta(seconds=1)
    onchain, orderbook = draw_onchain(stamps, rng), draw_books(candles, seen, rng)

    def venue(lag: pd.Timedelta, scale: float = 1.0) -> pd.DataFrame:
        close = scale * candles["close"] * np.exp(1e-3 * rng.standard_normal(len(candles)))
        return pd.DataFrame({"timestamp": stamps, "available_at": stamps + BAR + lag, "close": close})

    return {
        "funding": {symbol: draw_funding(stamps, rng)},
        "onchain": {asset: onchain},
        "orderbook": {symbol: orderbook},
        "trades": {symbol: draw_trades(candles, seen, rng)},
        "venue_candles": {
            f"binance_spot:{symbol}": venue(0 * HOUR),
            f"kraken:{symbol}": venue(pd.Timedelta(seconds=2)),  # seen one bar late
            f"kraken:{asset}BTC": venue(0 * HOUR, 0.01),
        },
    }


def draw_onchain(stamps: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Return a row per day and metric, known 27 hours after the day begins."""
    daily = pd.date_range(stamps.iloc[0], stamps.iloc[-1], freq="D")
    metrics = ("AdrActCnt", "TxCnt", "FeeTotNtv", "FlowInExNtv", "FlowOutExNtv", "SplyExNtv", "SplyCur")
    own = ("whale_movements", "stablecoin_supply", "long_term_holder_supply")
    known = {"timestamp": daily, "available_at": daily + 27 * HOUR}
    return pd.concat(
        pd.DataFrame({**known, "metric": metric, "value": np.exp(rng.normal(10, 0.2, len(daily)))}) for metric in (*metrics, *own)
    )


def draw_books(candles: pd.DataFrame, seen: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Return one snapshot of 20 levels a side in each bar."""
    levels, middle = np.arange(1, 21) * 0.01, candles["close"].to_numpy()[:, None]
    book = {
        "bid_prices": list(middle - levels),
        "bid_sizes": list(rng.lognormal(0, 1, (len(candles), 20))),
        "ask_prices": list(middle + levels),
        "ask_sizes": list(rng.lognormal(0, 1, (len(candles), 20))),
    }
    return pd.DataFrame({"timestamp": seen, "available_at": seen, **book})


def draw_funding(stamps: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Return a rate every eight hours, some milliseconds late."""
    paid = pd.date_range(stamps.iloc[0], stamps.iloc[-1], freq="8h")
    rates = rng.normal(1e-4, 1e-4, len(paid))
    return pd.DataFrame({"timestamp": paid, "available_at": paid + pd.Timedelta(milliseconds=6), "funding_rate": rates})


def draw_trades(candles: pd.DataFrame, seen: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Return one trade in each bar."""
    num_bars = len(candles)
    sizes, sides = rng.lognormal(0, 1, num_bars), rng.random(num_bars) > 0.5
    trade = {"trade_id": np.arange(num_bars), "price": candles["close"], "size": sizes, "is_buyer_taker": sides}
    return pd.DataFrame({"timestamp": seen, "available_at": seen, **trade})


def draw_panel(num_bars: int = 2_600) -> Panel:
    """Return three symbols: one complete, one listed late, one with gaps."""
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    frames = {symbol: draw_candles(num_bars, seed) for seed, symbol in enumerate(symbols)}
    frames["ETHUSDT"] = frames["ETHUSDT"].iloc[150:]
    frames["SOLUSDT"] = frames["SOLUSDT"].drop(index=[120, 121, 300])
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    for seed, symbol in enumerate(symbols):
        for name, keyed in draw_tables(draw_candles(num_bars, seed), symbol, 10 + seed).items():
            tables.setdefault(name, {}).update(keyed)
    return panel_from_frames(frames, TIMEFRAME, tables)


@pytest.fixture(scope="session")
def engineer() -> AdvancedFeatureEngineer:
    """All features of bars of six hours."""
    return AdvancedFeatureEngineer({"timeframe": TIMEFRAME})


@pytest.fixture(scope="session")
def panel() -> Panel:
    """Three symbols with every table."""
    return draw_panel()


@pytest.fixture(scope="session")
def make_candles():
    """Return `draw_candles(num_bars, seed, volatility, price)`."""
    return draw_candles


FEW = AdvancedFeatureEngineer({"include": ("momentum_rsi_14", "price_log_return_1h", "cross_section_rank_return_1h")})
"""An engineer of one recursive, one plain and one cross-sectional feature."""


def stored(folder: Path, panel: Panel) -> Path:
    """Write candles and tables of a panel to a lake."""
    write_panel(Lake(folder), panel)
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Candles of three symbols over a turn of the year, files an hour old."""
    start = pd.Timestamp("2022-12-15", tz="UTC")
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=800, with_tables=False, start=start)).panel
    return aged(stored(tmp_path / "lake", panel))


def aged(folder: Path) -> Path:
    """Make the files of a folder an hour older."""
    for file in folder.rglob("*.parquet"):
        os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 3_600 * 10**9))
    return folder
