"""A small market with every input present, and long enough for the hungriest feature."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import Panel, panel_from_frames
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
    rng = np.random.default_rng(seed)
    stamps, num_bars = candles["timestamp"], len(candles)
    eight_hourly = pd.date_range(stamps.iloc[0], stamps.iloc[-1], freq="8h")
    daily = pd.date_range(stamps.iloc[0], stamps.iloc[-1], freq="D")
    metrics = ("AdrActCnt", "TxCnt", "FeeTotNtv", "FlowInExNtv", "FlowOutExNtv", "SplyExNtv", "SplyCur")
    own = ("whale_movements", "stablecoin_supply", "long_term_holder_supply")
    chain = [
        pd.DataFrame({"timestamp": daily, "available_at": daily + 27 * HOUR, "metric": metric, "value": values})
        for metric in (*metrics, *own)
        for values in [np.exp(rng.normal(10, 0.2, len(daily)))]
    ]
    levels = np.arange(1, 21) * 0.01
    middle = candles["close"].to_numpy()[:, None]
    book = {
        "bid_prices": list(middle - levels),
        "bid_sizes": list(rng.lognormal(0, 1, (num_bars, 20))),
        "ask_prices": list(middle + levels),
        "ask_sizes": list(rng.lognormal(0, 1, (num_bars, 20))),
    }
    seen = stamps + BAR - pd.Timedelta(seconds=1)

    def venue(lag: pd.Timedelta, scale: float = 1.0) -> pd.DataFrame:
        close = scale * candles["close"] * np.exp(1e-3 * rng.standard_normal(num_bars))
        return pd.DataFrame({"timestamp": stamps, "available_at": stamps + BAR + lag, "close": close})

    return {
        "funding": {
            symbol: pd.DataFrame(
                {
                    "timestamp": eight_hourly,
                    "available_at": eight_hourly + pd.Timedelta(milliseconds=6),
                    "funding_rate": rng.normal(1e-4, 1e-4, len(eight_hourly)),
                }
            )
        },
        "onchain": {symbol.removesuffix("USDT"): pd.concat(chain)},
        "orderbook": {symbol: pd.DataFrame({"timestamp": seen, "available_at": seen, **book})},
        "trades": {
            symbol: pd.DataFrame(
                {
                    "timestamp": seen,
                    "available_at": seen,
                    "trade_id": np.arange(num_bars),
                    "price": candles["close"],
                    "size": rng.lognormal(0, 1, num_bars),
                    "is_buyer_taker": rng.random(num_bars) > 0.5,
                }
            )
        },
        "venue_candles": {
            f"binance_spot:{symbol}": venue(0 * HOUR),
            f"kraken:{symbol}": venue(pd.Timedelta(seconds=2)),  # seen one bar late
            f"kraken:{symbol.removesuffix('USDT')}BTC": venue(0 * HOUR, 0.01),
        },
    }


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
