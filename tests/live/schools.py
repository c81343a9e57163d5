"""Settings with which a bot's model is trained in seconds, and data for it."""

from typing import Any

import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from tests.tiny import SETTINGS

__all__ = ["CONFIG", "FEATURES", "SYMBOLS", "historical_frame", "market_panel"]

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
FEATURES = [
    *(
        "price_scaled_return_1_5d",
        "price_scaled_return_4h_5d",
        "price_close_location",
        "volume_ratio_20",
        "volatility_historical_24h",
    ),
    *("momentum_rsi_14", "time_hour_*", "cross_section_rank_return_1d"),
]
"""A few with short lookbacks: a forecast needs 272 bars."""
CONFIG: dict[str, Any] = {
    "preset": "debug",
    "experiment": {
        **{name: value for name, value in SETTINGS.items() if name != "market"},
        "features": {"categories": None, "include": FEATURES},
        "members": [{"name": "tft", "architecture": "tft", "hidden_size": 8, "num_heads": 2, "variable_size": 2}],
    },
    "min_confidence": 0.0,
    "cost_multiple": 0.0,
}


def market_panel(num_bars: int = 900, seed: int = 0) -> Panel:
    """Return candles of `SYMBOLS` from the built-in market."""
    return synthetic_market(MarketConfig(num_assets=3, num_bars=num_bars, with_tables=False, seed=seed)).panel


def historical_frame(panel: Panel) -> pd.DataFrame:
    """Return a panel as one long frame with a column `symbol`, as a user of pandas keeps it."""
    return pd.concat([panel.frame(symbol).assign(symbol=symbol) for symbol in panel.symbols], ignore_index=True)
