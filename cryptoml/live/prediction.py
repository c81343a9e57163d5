"""What a live forecast tells about one symbol, and the same as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd

from cryptoml.evaluation.predictions import quantile_column

__all__ = ["Prediction", "Refusal", "prediction_frame"]


class Refusal(StrEnum):
    """Why there is no forecast for a symbol."""

    NEVER_TRAINED = "never_trained"
    INVALID_CANDLES = "invalid_candles"
    TOO_LITTLE_HISTORY = "too_little_history"
    STALE = "stale"
    MISSING_INPUTS = "missing_inputs"


@dataclass(frozen=True)
class Prediction:
    """One symbol at its last closed bar. Without a forecast `refusal` says why, the numbers are None and the signal is HOLD.

    Attributes:
        symbol: In the lake's spelling.
        timestamp: Open of the last closed bar, UTC; None where there is no usable bar.
        available_at: Close of that bar: the instant from which the forecast could be known.
        horizon_bars: Horizon of direction, volatility and position size.
        direction: Calibrated probability of DOWN, SIDEWAYS and UP, or empty.
        regime: Probability that the market is BULL, BEAR, RANGING or HIGH_VOL at the bar, or empty.
        volatility: Square root of the summed squared log returns expected over the horizon.
        position_size: The model's own risk-adjusted fraction in [0, 1]; the traded size is in `signal`.
        quantiles: Horizon in bars -> level -> log return from the last close.
        signal: What `cryptoml.trading.description.describe` returns.
        threshold: Log return over the horizon beyond which a move counts as UP or DOWN.
        feature_importance: Feature -> weight, largest first, summing to 1; empty where not asked for.
        temporal_attention: Bars ago, 0 being the last closed bar -> weight, summing to 1; empty likewise.
        refusal: Why there is no forecast, or None.
        adaptation: Id of the adaptation that moved the forecast, or None.
    """

    symbol: str
    timestamp: pd.Timestamp | None
    available_at: pd.Timestamp | None
    horizon_bars: int
    signal: Mapping[str, Any]
    direction: Mapping[str, float] = field(default_factory=dict)
    regime: Mapping[str, float] = field(default_factory=dict)
    volatility: float | None = None
    position_size: float | None = None
    quantiles: Mapping[int, Mapping[float, float]] = field(default_factory=dict)
    threshold: float | None = None
    feature_importance: Mapping[str, float] = field(default_factory=dict)
    temporal_attention: Mapping[int, float] = field(default_factory=dict)
    refusal: Refusal | None = None
    adaptation: str | None = None


def prediction_frame(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return one row per prediction: the columns of `cryptoml.evaluation.predictions.predictions_frame`, and `refusal`.

    Numbers are missing where a forecast was refused.
    """
    return pd.DataFrame([_row(prediction) for prediction in predictions])


def _row(prediction: Prediction) -> dict[str, Any]:
    quantiles = prediction.quantiles.get(prediction.horizon_bars, {})
    return {
        "symbol": prediction.symbol,
        "timestamp": prediction.timestamp,
        "available_at": prediction.available_at,
        "horizon_bars": prediction.horizon_bars,
        **{f"p_{name.lower()}": prediction.direction.get(name) for name in ("DOWN", "SIDEWAYS", "UP")},
        **{quantile_column(level): value for level, value in quantiles.items()},
        "volatility": prediction.volatility,
        "regime": prediction.signal["market_regime"],
        "position_size": prediction.signal["position_size"],
        "action": prediction.signal["action"],
        "confidence": prediction.signal["confidence"],
        "stop_loss_pct": prediction.signal["stop_loss_pct"],
        "take_profit_pct": prediction.signal["take_profit_pct"],
        "refusal": prediction.refusal,
    }
