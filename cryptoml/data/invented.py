"""Markets with regimes that never were: a real history bent, stretch by stretch, into another drift, volatility and memory.

What has to cope with regimes that no training data holds is rehearsed on such markets.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.panel import CANDLE_FIELDS, Panel

__all__ = ["InventionConfig", "invent_regimes"]

Grid = Float[np.ndarray, "asset time"]


class InventionConfig(BaseModel):
    """How far invented regimes lie from the history they are made of; all symbols enter and leave them together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean_bars: float = Field(200.0, ge=10, description="Mean length of a regime")
    volatility_spread: float = Field(0.5, ge=0, le=2, description="Standard deviation of the log factor on all moves")
    drift_spread: float = Field(0.05, ge=0, le=1, description="Standard deviation of the drift per bar, in sigmas")
    fade_share: float = Field(0.3, ge=0, le=1, description="Share of regimes in which what used to foretell returns fades")


def invent_regimes(panel: Panel, config: InventionConfig, rng: np.random.Generator) -> tuple[Panel, np.ndarray]:
    """Return a bent copy of a panel, and the bars at which its regimes begin.

    In each regime log returns are multiplied by a factor and get a drift. Where a regime fades, they are a mixture with
    the returns of another time, all symbols at once: volatility and co-movement stay, what foretold them does not. Ranges
    within bars follow the moves, other venues follow the price, volumes and all other tables stay.

    Args:
        panel: At least two bars.
        config: How strange the regimes are.
        rng: Source of randomness.
    """
    starts = _starts(panel.num_bars, config, rng)
    log_close, returns = _filled_log_close(panel)
    stretch = np.cumsum(np.isin(np.arange(panel.num_bars), starts)) - 1
    factor = np.exp(config.volatility_spread * rng.standard_normal(len(starts)))[stretch]
    drift = config.drift_spread * rng.standard_normal(len(starts))[stretch]
    memory = np.where(rng.random(len(starts)) < config.fade_share, rng.random(len(starts)), 1.0)[stretch]
    elsewhere = np.roll(returns, int(rng.integers(panel.num_bars // 4, panel.num_bars - panel.num_bars // 4)), axis=1)
    sigma = np.sqrt((returns**2).mean(axis=1, keepdims=True))
    bent = factor * (memory * returns + np.sqrt(1 - memory**2) * elsewhere + drift * sigma)
    bent[:, 0] = 0.0
    path = log_close[:, :1] + np.cumsum(bent, axis=1)
    tables = {**panel.tables, "venue_candles": _moved_venues(panel, path - log_close)}
    return replace(panel, candles=_candles(panel, log_close, path, factor), tables=tables), starts


def _starts(num_bars: int, config: InventionConfig, rng: np.random.Generator) -> np.ndarray:
    lengths = rng.geometric(1 / config.mean_bars, size=num_bars)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return starts[starts < num_bars]


def _filled_log_close(panel: Panel) -> tuple[Grid, Grid]:
    """Return log closes with gaps filled (backwards before a listing), and the log return of each bar, 0 in gaps."""
    close = pd.DataFrame(np.log(panel.field("close").T)).ffill().bfill().fillna(0.0).to_numpy().T
    return close, np.diff(close, axis=1, prepend=close[:, :1])


def _candles(panel: Panel, log_close: Grid, path: Grid, factor: Float[np.ndarray, " time"]) -> np.ndarray:
    candles = panel.candles.copy()
    columns = {name: candles[:, :, index] for index, name in enumerate(CANDLE_FIELDS)}
    before, path_before = (np.concatenate([one[:, :1], one[:, :-1]], axis=1) for one in (log_close, path))
    absent = ~panel.present
    columns["open"][:] = np.exp(path_before + (np.log(columns["open"]) - before) * factor)
    for name in ("high", "low"):
        columns[name][:] = np.exp(path + (np.log(columns[name]) - log_close) * factor)
    columns["close"][:] = np.where(absent, np.nan, np.exp(path))
    columns["high"][:] = np.maximum.reduce([columns[name] for name in ("high", "open", "close")])
    columns["low"][:] = np.minimum.reduce([columns[name] for name in ("low", "open", "close")])
    columns["quote_volume"] *= np.exp(path - log_close)
    return candles


def _moved_venues(panel: Panel, shift: Grid) -> dict[str, pd.DataFrame]:
    """Return the candles of other venues for the panel's own symbols, moved as much as these."""
    moved = {}
    for key, frame in panel.tables.get("venue_candles", {}).items():
        symbol = key.rpartition(":")[2]
        if symbol in panel.symbols:
            place = panel.timestamps.get_indexer(pd.DatetimeIndex(frame["timestamp"]))
            ratio = np.where(place >= 0, np.exp(shift[panel.index_of(symbol), place]), np.nan)
            prices = {name: frame[name] * ratio for name in CANDLE_FIELDS[:4]}
            moved[key] = frame.assign(**prices).dropna(subset=["close"])
    return moved
