"""Candles of the built-in market from its simulated returns.

Opens sit a tiny gap from the previous close; high and low are the extremes of a Brownian bridge from open to close with the
bar's own volatility (drawn exactly, one extreme at a time: Glasserman 2004, section 6.4); turnover is log-AR(1) and grows
with the size of the move; takers' buys are `volume * (1/2 + flow_share * f)`, which shows the planted flow exactly.
"""

import numpy as np
from scipy.signal import lfilter

from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.data.synthetic.config import MarketConfig
from cryptoml.data.synthetic.dynamics import Path

__all__ = ["draw_candles"]

GAP = 0.01  # standard deviation of log(open / previous close) in sigmas
TURNOVER_HALF_LIFE = 24.0  # bars
TRADE_SIZE = 1_500.0  # typical trade in the quote asset


def draw_candles(config: MarketConfig, path: Path, rng: np.random.Generator) -> np.ndarray:
    """Return candles float64 `[asset, time, field]`, each field contiguous in memory."""
    storage = np.empty((len(CANDLE_FIELDS), config.num_assets, config.num_bars))
    columns = dict(zip(CANDLE_FIELDS, storage, strict=True))
    for asset in range(config.num_assets):
        _prices({name: column[asset] for name, column in columns.items()}, path, asset, rng)
        _activity({name: column[asset] for name, column in columns.items()}, config, path, asset, rng)
    return storage.transpose(1, 2, 0)


def _prices(columns: dict[str, np.ndarray], path: Path, asset: int, rng: np.random.Generator) -> None:
    sigma = path.past_volatility[:, asset]
    start = np.log(10 ** rng.uniform(0, 3))
    close = start + path.deviation[:, asset]
    open_ = np.concatenate([close[:1] - path.log_return(asset)[:1], close[:-1]])
    open_ += GAP * sigma * rng.standard_normal(len(sigma))
    move = close - open_
    reach_up, reach_down = (_bridge_reach(move, sigma, rng) for _ in range(2))
    columns["open"][:], columns["close"][:] = np.exp(open_), np.exp(close)
    columns["high"][:] = np.maximum(np.exp(open_ + (move + reach_up) / 2), np.maximum(columns["open"], columns["close"]))
    columns["low"][:] = np.minimum(np.exp(open_ + (move - reach_down) / 2), np.minimum(columns["open"], columns["close"]))


def _bridge_reach(move: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw `2 * maximum - move` of a bridge from 0 to `move`; the minimum follows by symmetry."""
    return np.sqrt(move**2 + 2 * sigma**2 * rng.standard_exponential(len(move)))


def _activity(columns: dict[str, np.ndarray], config: MarketConfig, path: Path, asset: int, rng: np.random.Generator) -> None:
    decay = 0.5 ** (1 / TURNOVER_HALF_LIFE)
    swing = lfilter([0.4 * (1 - decay**2) ** 0.5], [1, -decay], rng.standard_normal(config.num_bars))
    burst = np.log1p(np.abs(path.log_return(asset)) / config.base_volatility)
    turnover = np.exp(rng.uniform(15, 17) + swing + 0.8 * burst + 0.2 * rng.standard_normal(config.num_bars))
    typical = (columns["open"] + columns["high"] + columns["low"] + columns["close"]) / 4
    columns["quote_volume"][:] = turnover
    columns["volume"][:] = turnover / typical
    columns["num_trades"][:] = np.ceil(turnover / TRADE_SIZE * np.exp(0.1 * rng.standard_normal(config.num_bars)))
    share = np.clip(0.5 + config.flow_share * path.flow[:, asset], 0.01, 0.99)
    columns["taker_buy_volume"][:] = columns["volume"] * share
