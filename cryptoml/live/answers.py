"""From an ensemble's numbers at a bar to what a caller is told: every task by name, and the signal."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.features.targets import DIRECTIONS, REGIMES, TargetConfig
from cryptoml.live.inputs import Question
from cryptoml.live.prediction import Prediction, Refusal
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.description import describe
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import decide

__all__ = ["Answers"]


class Answers:
    """How predictions become signals and plain values.

    Args:
        symbols: Assets of the predictions, in their order.
        timeframe: Length of a bar.
        targets: Horizons and quantiles.
        trading: Settings of the decision.
    """

    def __init__(self, symbols: tuple[str, ...], timeframe: str, targets: TargetConfig, trading: TradingConfig) -> None:
        self._symbols, self._timeframe, self._targets, self.trading = symbols, timeframe, targets, trading

    @property
    def primary_position(self) -> int:
        """Place of the primary horizon among those of the quantiles."""
        return self._targets.horizons.index(self._targets.primary_horizon)

    def of(self, question: Question, predictions: Predictions | None, moved_by: Mapping[str, str]) -> list[Prediction]:
        """Return one prediction per symbol asked about, in the caller's order.

        Args:
            question: What was asked.
            predictions: `[asset, origin, ...]`; None where no symbol can be forecast.
            moved_by: Symbol -> id of the adaptation that moved its forecast.
        """
        return [
            self._refused(symbol, question)
            if predictions is None or symbol not in question.intake.usable
            else self._predicted(symbol, question, predictions, moved_by.get(symbol))
            for symbol in question.intake.order
        ]

    def decision_input(self, predictions: Predictions, place: Any = ...) -> Forecasts:
        """Return what the decision reads of the predictions at some places."""
        return Forecasts.of(
            predictions.probabilities[place],
            predictions.volatility[place],
            horizon_bars=self._targets.primary_horizon,
            timeframe=self._timeframe,
            quantiles=predictions.quantiles[place][..., self.primary_position, :],
            quantile_levels=self._targets.quantiles,
            regime=predictions.regime[place],
        )

    def signal_of(self, prediction: Prediction, min_confidence: float) -> dict[str, Any]:
        """Return the signal of a prediction with another least confidence than that of the settings."""
        levels = prediction.quantiles[prediction.horizon_bars]
        exact = partial(np.array, dtype=np.float32)  # as the ensemble gave it
        forecast = Forecasts.of(
            exact(list(prediction.direction.values())),
            exact(prediction.volatility),
            horizon_bars=prediction.horizon_bars,
            timeframe=self._timeframe,
            quantiles=exact(list(levels.values())),
            quantile_levels=tuple(levels),
            regime=exact(list(prediction.regime.values())),
        )
        return describe(decide(forecast, self.trading, min_confidence=min_confidence))

    def _predicted(self, symbol: str, question: Question, predictions: Predictions, moved_by: str | None) -> Prediction:
        row = self._symbols.index(symbol)
        place = (row, int(np.flatnonzero(question.present[row])[-1]))
        timestamp = question.timestamps[place[1]]
        if np.isnan(predictions.probabilities[place]).any():
            return self._hold(symbol, timestamp, Refusal.MISSING_INPUTS, "features of the last closed bar are missing")
        levels, sigma = self._targets.quantiles, question.sigma[row, place[1] - len(question.timestamps)]
        return Prediction(
            symbol=symbol,
            timestamp=timestamp,
            available_at=timestamp + parse_timeframe(self._timeframe),
            horizon_bars=self._targets.primary_horizon,
            signal=describe(decide(self.decision_input(predictions, place), self.trading)),
            direction=_named(DIRECTIONS, predictions.probabilities[place]),
            regime=_named(REGIMES, predictions.regime[place]),
            volatility=float(predictions.volatility[place]),
            position_size=float(predictions.position_size[place]),
            threshold=float(self._targets.direction_threshold * np.sqrt(self._targets.primary_horizon) * sigma),
            quantiles={
                horizon: dict(zip(levels, map(float, values), strict=True))
                for horizon, values in zip(self._targets.horizons, predictions.quantiles[place], strict=True)
            },
            adaptation=moved_by,
        )

    def _refused(self, symbol: str, question: Question) -> Prediction:
        return self._hold(symbol, question.intake.last_open.get(symbol), *question.intake.refused[symbol])

    def _hold(self, symbol: str, timestamp: pd.Timestamp | None, refusal: Refusal, sentence: str) -> Prediction:
        horizon = self._targets.primary_horizon
        nothing = Forecasts.of(np.full(3, np.nan), np.array(np.nan), horizon_bars=horizon, timeframe=self._timeframe)
        signal = describe(decide(nothing, self.trading)) | {"reasoning": f"HOLD: {sentence}"}
        available_at = None if timestamp is None else timestamp + parse_timeframe(self._timeframe)
        return Prediction(symbol, timestamp, available_at, horizon, signal, refusal=refusal)


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
