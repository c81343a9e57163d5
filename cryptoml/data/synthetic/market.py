"""Put the built-in market together: dynamics, candles, tables, and the oracle over them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.data.synthetic.candles import draw_candles
from cryptoml.data.synthetic.config import MarketConfig
from cryptoml.data.synthetic.dynamics import Dynamics, Path, make_dynamics, simulate
from cryptoml.data.synthetic.oracle import DirectionCeiling, direction_ceiling
from cryptoml.data.synthetic.regime_oracle import regime_probabilities
from cryptoml.data.synthetic.tables import draw_tables
from cryptoml.errors import ConfigError

__all__ = ["SyntheticMarket", "synthetic_market"]

BASE_ASSETS = ("BTC", "ETH", "BNB", "SOL", "XRP", "ADA", "DOGE", "LINK", "LTC", "DOT")


@dataclass(frozen=True, eq=False)
class SyntheticMarket:
    """A market whose planted signal and best possible forecast are known.

    Attributes:
        panel: What a trader sees: candles and, where asked for, tables.
        regimes: int8 `[time]`: the market-wide regime (0 BULL, 1 BEAR, 2 RANGING, 3 HIGH_VOL) that rules the bar after t.
        adjacency: Bool `[asset, asset]`; `adjacency[i, j]` says that j leads i.
        dynamics: The true equations.
        path: The true states.
    """

    panel: Panel
    regimes: np.ndarray
    adjacency: np.ndarray
    dynamics: Dynamics
    path: Path

    @property
    def flow(self) -> np.ndarray:
        """Planted order-flow imbalance `[asset, time]` in units of its standard deviation."""
        return self.path.flow.T

    @property
    def lead_lag(self) -> np.ndarray:
        """Planted lead-lag signal `[asset, time]`: the weighted trailing returns of the leaders, 0 for leaders."""
        return self.dynamics.lead_lag(self.path.trail).T

    def regime_ceiling(self, bars: slice = slice(None)) -> float:
        """Return the share of bars whose regime is named right by a filter that knows all but the regimes."""
        probabilities = regime_probabilities(self.dynamics, self.path)
        return float((probabilities.argmax(axis=1) == self.regimes)[bars].mean())

    def direction_ceiling(
        self,
        horizon_bars: int,
        threshold: np.ndarray,
        bars: slice = slice(None),
        *,
        num_paths: int = 256,
        max_bars: int = 500,
        seed: int = 0,
    ) -> DirectionCeiling:
        """Compute the best possible accuracy of the direction over a horizon, by Monte Carlo from the true state.

        The futures of all assets are simulated together: shocks, leaders' moves to come, changes of regime and volatility.
        Memory stays below 500 MB for any size.

        Args:
            horizon_bars: Bars ahead.
            threshold: `[asset, time]` log-return beyond which a move is UP or DOWN; NaN excludes an asset-bar.
            bars: Origins to look at; those without `horizon_bars` bars after them are left out.
            num_paths: Futures per origin; even.
            max_bars: At most so many origins, evenly spread over `bars`.
            seed: Seed of the futures.

        Raises:
            ConfigError: A setting is out of range or no origin is left.
        """
        if horizon_bars < 1 or num_paths < 2 or num_paths % 2:
            raise ConfigError(f"horizon_bars must be at least 1 and num_paths even, were {horizon_bars} and {num_paths}")
        if threshold.shape != self.panel.candles.shape[:2]:
            raise ConfigError(f"threshold must have shape [asset, time] {self.panel.candles.shape[:2]}, was {threshold.shape}")
        origins = np.arange(self.panel.num_bars)[bars]
        origins = origins[origins + horizon_bars < self.panel.num_bars]
        origins = origins[np.isfinite(threshold[:, origins]).any(axis=0)]
        if len(origins) == 0:
            raise ConfigError(f"bars {bars} hold no origin with a threshold and {horizon_bars} bars after it")
        chosen = origins[np.unique(np.linspace(0, len(origins) - 1, min(max_bars, len(origins))).round().astype(int))]
        rng = np.random.default_rng([self.dynamics.config.seed, seed])
        return direction_ceiling(self.dynamics, self.path, horizon_bars, threshold, chosen, num_paths, rng)


def synthetic_market(config: MarketConfig | None = None) -> SyntheticMarket:
    """Simulate the built-in market; the same config gives the same market."""
    config = config or MarketConfig()
    rng = np.random.default_rng(config.seed)
    dynamics = make_dynamics(config, rng)
    path = simulate(dynamics, rng)
    stamps = pd.date_range(
        pd.Timestamp(config.start).as_unit("us"),
        periods=config.num_bars,
        freq=parse_timeframe(config.timeframe),
        name="timestamp",
    )
    panel = Panel(_symbols(config.num_assets), config.timeframe, stamps, draw_candles(config, path, rng))
    if config.with_tables:
        panel = Panel(panel.symbols, panel.timeframe, stamps, panel.candles, draw_tables(config, path, panel, rng))
    return SyntheticMarket(panel, path.regimes, dynamics.adjacency, dynamics, path)


def _symbols(num_assets: int) -> tuple[str, ...]:
    extra = [f"COIN{number:03d}" for number in range(len(BASE_ASSETS), num_assets)]
    return tuple(f"{base}USDT" for base in [*BASE_ASSETS[:num_assets], *extra])
