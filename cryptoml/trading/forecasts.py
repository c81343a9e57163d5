"""What a decision needs to know: one horizon's forecast, for any number of rows.

Every array shares the leading shape `[...]` (a scalar live, `[asset, time]` in a backtest). NaN means "no forecast".
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cryptoml.data.schema import bars_per_year
from cryptoml.features.targets import REGIMES

__all__ = ["DOWN", "SIDEWAYS", "UP", "Forecasts"]

DOWN, SIDEWAYS, UP = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts over one horizon.

    Attributes:
        probabilities: Calibrated P(DOWN, SIDEWAYS, UP) `[..., 3]`.
        volatility: Predicted square root of the summed squared log returns over the horizon `[...]`.
        quantiles: Quantiles of the log return over the horizon `[..., quantile]`, in the order of `quantile_levels`.
        quantile_levels: Levels such as `(0.1, 0.5, 0.9)`.
        regime: Probabilities of `REGIMES` `[..., 4]`.
        horizon_bars: Length of the horizon.
        timeframe: Length of a bar, which annualises the volatility.
    """

    probabilities: np.ndarray
    volatility: np.ndarray
    quantiles: np.ndarray
    quantile_levels: tuple[float, ...]
    regime: np.ndarray
    horizon_bars: int
    timeframe: str

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        volatility: np.ndarray,
        *,
        horizon_bars: int,
        timeframe: str,
        quantiles: np.ndarray | None = None,
        quantile_levels: tuple[float, ...] = (),
        regime: np.ndarray | None = None,
    ) -> Self:
        """Build from what there is; absent regimes become NaN and absent quantiles an empty axis."""
        shape = np.shape(volatility)
        if np.shape(probabilities) != (*shape, 3):
            raise ValueError(f"probabilities must have shape {(*shape, 3)}, was {np.shape(probabilities)}")
        quantiles = np.empty((*shape, 0)) if quantiles is None else quantiles
        if np.shape(quantiles) != (*shape, len(quantile_levels)):
            raise ValueError(f"quantiles must have shape {(*shape, len(quantile_levels))}, was {np.shape(quantiles)}")
        regime = np.full((*shape, len(REGIMES)), np.nan) if regime is None else regime
        return cls(probabilities, np.asarray(volatility), quantiles, tuple(quantile_levels), regime, horizon_bars, timeframe)

    def __getitem__(self, index: Any) -> "Forecasts":
        """Return the rows that NumPy indexing of the leading axes selects."""
        rows = (*index, Ellipsis) if isinstance(index, tuple) else (index, Ellipsis)
        return Forecasts(
            self.probabilities[*rows, :],
            self.volatility[index],
            self.quantiles[*rows, :],
            self.quantile_levels,
            self.regime[*rows, :],
            self.horizon_bars,
            self.timeframe,
        )

    @property
    def median(self) -> np.ndarray:
        """Median log return over the horizon `[...]`; NaN where no 0.5 quantile was forecast."""
        return self.quantile(0.5)

    @property
    def tilt(self) -> np.ndarray:
        """`P(UP) - P(DOWN)` `[...]`: the score that ranks directions."""
        return self.probabilities[..., UP] - self.probabilities[..., DOWN]

    @property
    def annual_volatility(self) -> np.ndarray:
        """Predicted volatility as an annualised fraction `[...]`, 365 days a year."""
        return self.volatility * np.sqrt(bars_per_year(self.timeframe) / self.horizon_bars)

    @property
    def masked(self) -> np.ndarray:
        """Bool `[...]`: a probability or the volatility is missing."""
        return np.isnan(self.probabilities).any(axis=-1) | ~(self.volatility > 0)

    def quantile(self, level: float) -> np.ndarray:
        """Return one quantile `[...]`, NaN where that level was not forecast."""
        matches = [position for position, known in enumerate(self.quantile_levels) if abs(known - level) < 1e-9]
        return self.quantiles[..., matches[0]] if matches else np.full(np.shape(self.volatility), np.nan)
