"""What the members of an ensemble read: scaled features and the volatility known at each bar, from a panel of candles."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import Panel
from cryptoml.errors import BundleError
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig, causal_volatility
from cryptoml.live.intake import Intake
from cryptoml.models.bundle import Bundle
from cryptoml.models.history import history_bars

__all__ = ["ModelInputs", "Question"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """What a model is asked about some symbols at their newest bars.

    Attributes:
        intake: The symbols asked about, and which of them can be forecast.
        timestamps: `[origin]` opens of the newest bars of the grid.
        present: bool `[asset, origin]`, assets in the model's order.
        features: `[asset, context - 1 + origin, feature]`, scaled, NaN where missing.
        sigma: `[asset, context - 1 + origin]`.
    """

    intake: Intake
    timestamps: pd.DatetimeIndex
    present: NDArray[np.bool_]
    features: FloatArray
    sigma: FloatArray


class ModelInputs:
    """The way from candles to what a bundle's members read.

    Attributes:
        engineer: The features.
        targets: Settings of the labels, with those of the volatility.
        context_bars: Bars that each forecast reads.
        history_bars: How far back the last bar of a forecast reaches, itself included.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Make the features and the scaler of a bundle."""
        self.engineer = AdvancedFeatureEngineer(dict(bundle.feature_config))
        self.targets = TargetConfig.model_validate(bundle.target_config)
        self.context_bars = bundle.context_bars
        self.history_bars = history_bars(bundle.feature_lookbacks, bundle.context_bars, self.targets.sigma_window_bars)
        self._scaler = FeatureScaler.from_arrays(bundle.scaler)
        self._names = bundle.feature_names

    def of_panel(self, panel: Panel, origins: int, chunk_origins: int | None = None) -> tuple[FloatArray, FloatArray]:
        """Return scaled features and volatility of a panel's last bars, so that `origins` of them can be forecast from.

        Args:
            panel: Candles of the model's symbols, in its order.
            origins: Bars at the end to forecast from.
            chunk_origins: Missing bars follow until the origins are a multiple of this.

        Raises:
            BundleError: The features of the bundle are not those that this version computes.
        """
        features = build_features(panel, self.engineer)
        self.check_names(features.names)
        return self.aligned(features.values, self.volatility(panel), origins, chunk_origins)

    def volatility(self, panel: Panel) -> FloatArray:
        """Return the volatility per bar known at each bar, `[asset, time]`."""
        targets = self.targets
        sigma = causal_volatility(panel.field("close"), targets.volatility_halflife_bars, targets.minimum_history_bars)
        return sigma.astype(np.float32)

    def aligned(
        self, values: FloatArray, sigma: FloatArray, origins: int, chunk_origins: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Cut features `[asset, time, feature]` and volatility `[asset, time]` to the bars that are read; scale the former."""
        wanted = origins + self.context_bars - 1
        scaled = self._scaler.transform(values[:, -wanted:])
        before, after = wanted - scaled.shape[1], -origins % (chunk_origins or 1)
        padding = ((0, 0), (before, after), (0, 0))
        padded = np.pad(scaled, padding, constant_values=np.nan) if before or after else scaled
        return padded, np.pad(sigma[:, -scaled.shape[1] :], padding[:2], constant_values=np.nan)

    def check_names(self, computed: tuple[str, ...]) -> None:
        """Refuse features that are not the bundle's.

        Raises:
            BundleError: The message names the first one that differs.
        """
        if computed != self._names:
            raise BundleError(f"feature_names of the bundle must be those computed, {self._first_difference(computed)}")

    def _first_difference(self, computed: tuple[str, ...]) -> str:
        for position, name in enumerate(self._names):
            if position >= len(computed) or computed[position] != name:
                found = computed[position] if position < len(computed) else "nothing"
                return f"feature {position} is {name} there and {found} here"
        return f"there are {len(self._names)} there and {len(computed)} here"
