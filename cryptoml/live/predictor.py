"""Forecasts and signals from a bundle at the last closed bar, by the same functions as the pipeline."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import BundleError
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import DIRECTIONS, REGIMES, TargetConfig, causal_volatility
from cryptoml.live.intake import Intake, Requirements, admit, live_panel
from cryptoml.live.prediction import Prediction, Refusal
from cryptoml.models.bundle import Bundle, load_bundle
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.description import describe
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import Signals, decide

__all__ = ["Predictor"]

CHUNK_ORIGINS = 256
"""Bars that are forecast at once when all bars are: every matrix then has one shape, so that sums are rounded alike."""


class Predictor:
    """A loaded bundle that forecasts live candles; safe to call from several threads.

    Features, scaling, ensemble and decision are the pipeline's own functions, so a forecast equals the offline one at
    that bar when the same symbols and tables are given. A symbol that is not given is absent to the graph.

    Args:
        bundle: Folder of a bundle, or a loaded one.
        trading: Settings of the decision; the bundle's own where None.
        max_age_bars: Whole bars that may have closed since a symbol's newest one before it counts as stale.
        device: Where the models run, such as `"cpu"` or `"cuda"`.

    Raises:
        BundleError: The bundle is damaged, or its features are not those that this version computes.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        trading: TradingConfig | None = None,
        max_age_bars: int = 1,
        device: str = "cpu",
    ) -> None:
        self._bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        for member in self._bundle.ensemble.members:
            member.to(device)
        self._engineer = AdvancedFeatureEngineer(dict(self._bundle.feature_config))
        self._scaler = FeatureScaler.from_arrays(self._bundle.scaler)
        self._targets = TargetConfig.model_validate(self._bundle.target_config)
        self.trading = trading or TradingConfig.model_validate(self._bundle.trading_config)
        self._needs = Requirements(self.symbols, self.timeframe, _history_bars(self._bundle, self._targets), max_age_bars)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the model was trained on, in its order."""
        return self._bundle.symbols

    @property
    def timeframe(self) -> str:
        """Length of a bar."""
        return self._bundle.timeframe

    @property
    def horizon_bars(self) -> int:
        """Horizon of direction, volatility, regime and position size."""
        return self._targets.primary_horizon

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Levels of the forecast quantiles."""
        return self._targets.quantiles

    @property
    def primary_position(self) -> int:
        """Place of `horizon_bars` among the horizons of the quantiles."""
        return self._targets.horizons.index(self.horizon_bars)

    @property
    def history_bars(self) -> int:
        """Closed bars of each symbol that a forecast needs."""
        return self._needs.history_bars

    @property
    def version(self) -> str:
        """When the bundle was made and from which data."""
        return f"{self._bundle.created_at}-{self._bundle.data_fingerprint[:8]}"

    def predict(
        self,
        frames: Mapping[str, pd.DataFrame],
        tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
        *,
        now: Any = None,
    ) -> list[Prediction]:
        """Forecast each symbol at its last closed bar.

        Args:
            frames: Symbol -> candles with a `timestamp` column or index (UTC opens), at least `history_bars` of them.
            tables: Slower series by table and key, as a panel holds them.
            now: Instant of the decision, timezone-aware; the newest close of `frames` where None. A bar that is not closed
                by then is left out.

        Returns:
            One prediction per symbol, in the order of `frames`. A symbol that was never trained, or whose candles are too
            few, stale or bad, gets HOLD with the reason.

        Raises:
            DataError: The candles cannot be read at all: a missing column, naive timestamps, bars of the future.
        """
        intake = admit(frames, self._needs, None if now is None else pd.Timestamp(now).tz_convert("UTC"))
        if not intake.usable:
            return [self._refused(symbol, intake) for symbol in intake.order]
        panel = live_panel(intake, self._needs, tables)
        predictions = self._forecast(panel, self._needs.max_age_bars + 1)
        return [
            self._predicted(symbol, panel, predictions) if symbol in intake.usable else self._refused(symbol, intake)
            for symbol in intake.order
        ]

    def decide_bars(self, panel: Panel, newest: int | None = None) -> tuple[Predictions, Signals]:
        """Forecast and decide at each of the panel's newest bars, all at once.

        What is decided at a bar does not depend on later ones, to the last bit: the same bars before it give the same
        numbers however many follow.

        Args:
            panel: Candles of `symbols`, in their order.
            newest: How many bars; all of them where None.

        Returns:
            Predictions and signals `[asset, newest]`. Bars of a symbol with fewer than `history_bars` bars since its first
            one, and those without inputs, are NaN and HOLD.

        Raises:
            BundleError: The features of the bundle are not those that this version computes.
        """
        origins = min(newest or panel.num_bars, panel.num_bars)
        predictions = self._forecast(panel, origins, CHUNK_ORIGINS)
        first = np.where(panel.present.any(axis=1), panel.present.argmax(axis=1), panel.num_bars)
        bars = np.arange(panel.num_bars - origins, panel.num_bars)
        young = bars < first[:, None] + self.history_bars - 1
        for part in fields(predictions):
            getattr(predictions, part.name)[young] = np.nan
        return predictions, decide(self._decision_input(predictions), self.trading)

    def _forecast(self, panel: Panel, origins: int, chunk_origins: int | None = None) -> Predictions:
        """Return predictions `[asset, origins, ...]` of the panel's last bars; chunks of a given size are always full."""
        features = build_features(panel, self._engineer)
        if features.names != self._bundle.feature_names:
            raise BundleError(
                f"feature_names of the bundle must be those computed, {_first_difference(features.names, self._bundle)}"
            )
        context = self._bundle.context_bars
        sigma = causal_volatility(
            panel.field("close"), self._targets.volatility_halflife_bars, self._targets.minimum_history_bars
        ).astype(np.float32)
        scaled = self._scaler.transform(features.values[:, -(origins + context - 1) :])
        before, after = origins + context - 1 - scaled.shape[1], -origins % (chunk_origins or 1)
        padding = ((0, 0), (before, after), (0, 0))
        padded = np.pad(scaled, padding, constant_values=np.nan) if before or after else scaled
        aligned = np.pad(sigma[:, -scaled.shape[1] :], padding[:2], constant_values=np.nan)
        predictions = self._bundle.ensemble.predict(padded, aligned, context, chunk_origins=chunk_origins)
        return predictions.on_bars(slice(context - 1, context - 1 + origins))

    def _predicted(self, symbol: str, panel: Panel, predictions: Predictions) -> Prediction:
        row = panel.index_of(symbol)
        bar = int(np.flatnonzero(panel.present[row])[-1])
        place = (row, bar - panel.num_bars)  # counted from the end, as predictions cover the last bars only
        if np.isnan(predictions.probabilities[place]).any():
            sentence = "features of the last closed bar are missing"
            return self._hold(symbol, panel.timestamps[bar], Refusal.MISSING_INPUTS, sentence)
        levels = self._targets.quantiles
        return Prediction(
            symbol=symbol,
            timestamp=panel.timestamps[bar],
            available_at=panel.timestamps[bar] + parse_timeframe(self.timeframe),
            horizon_bars=self.horizon_bars,
            signal=describe(decide(self._decision_input(predictions, place), self.trading)),
            direction=_named(DIRECTIONS, predictions.probabilities[place]),
            regime=_named(REGIMES, predictions.regime[place]),
            volatility=float(predictions.volatility[place]),
            position_size=float(predictions.position_size[place]),
            quantiles={
                horizon: dict(zip(levels, map(float, values), strict=True))
                for horizon, values in zip(self._targets.horizons, predictions.quantiles[place], strict=True)
            },
        )

    def _decision_input(self, predictions: Predictions, place: Any = ...) -> Forecasts:
        return Forecasts.of(
            predictions.probabilities[place],
            predictions.volatility[place],
            horizon_bars=self.horizon_bars,
            timeframe=self.timeframe,
            quantiles=predictions.quantiles[place][..., self.primary_position, :],
            quantile_levels=self._targets.quantiles,
            regime=predictions.regime[place],
        )

    def _refused(self, symbol: str, intake: Intake) -> Prediction:
        return self._hold(symbol, intake.last_open.get(symbol), *intake.refused[symbol])

    def _hold(self, symbol: str, timestamp: pd.Timestamp | None, refusal: Refusal, sentence: str) -> Prediction:
        nothing = Forecasts.of(np.full(3, np.nan), np.array(np.nan), horizon_bars=self.horizon_bars, timeframe=self.timeframe)
        signal = describe(decide(nothing, self.trading)) | {"reasoning": f"HOLD: {sentence}"}
        available_at = None if timestamp is None else timestamp + parse_timeframe(self.timeframe)
        return Prediction(symbol, timestamp, available_at, self.horizon_bars, signal, refusal=refusal)


def _history_bars(bundle: Bundle, targets: TargetConfig) -> int:
    """Return how far back the last bar of a forecast reaches, itself included."""
    return max(max(bundle.feature_lookbacks) + bundle.context_bars - 1, targets.sigma_window_bars)


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _first_difference(computed: tuple[str, ...], bundle: Bundle) -> str:
    for position, name in enumerate(bundle.feature_names):
        if position >= len(computed) or computed[position] != name:
            found = computed[position] if position < len(computed) else "nothing"
            return f"feature {position} is {name} there and {found} here"
    return f"there are {len(bundle.feature_names)} there and {len(computed)} here"
