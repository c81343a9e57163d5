"""What a service says over HTTP: the bodies of its answers, shared by the service and its clients."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cryptoml.live.adaptation import Adaptation
from cryptoml.live.prediction import Prediction

__all__ = [
    "AdaptationAnswer",
    "AdaptationsAnswer",
    "Forecast",
    "ForecastAnswer",
    "KeptStatus",
    "ModelInfo",
    "ModelsAnswer",
    "Signal",
    "SignalAnswer",
    "TakenAnswer",
    "TopFeature",
    "VersionAnswer",
]


class ModelInfo(BaseModel):
    """The model that answers."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="Name of the bundle's content")
    timeframe: str
    horizon_bars: int
    history_bars: int = Field(description="Candles per symbol that a forecast needs")
    holding_bars: int = Field(description="Bars that a decision is held")
    max_age_bars: int = Field(1, description="Whole bars that may have closed since a symbol's newest one before it is stale")
    symbols: list[str]


class TopFeature(BaseModel):
    """An input that moved a forecast."""

    model_config = ConfigDict(frozen=True)

    name: str
    contribution: float = Field(description="Share of all inputs' influence; above 0 where it speaks for UP")


class OneSymbol(BaseModel):
    """What every answer says of one symbol at its last closed bar."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    timestamp: AwareDatetime | None
    available_at: AwareDatetime | None
    refusal: str | None = Field(None, description="Why there is no forecast")
    adaptation: str | None = Field(None, description="Id of the adaptation that moved the forecast")
    top_features: list[TopFeature] | None = Field(None, description="Inputs that moved it most, where asked for")

    @classmethod
    def _of(cls, prediction: Prediction, top_features: list[TopFeature] | None, **more: Any) -> Self:
        return cls(
            symbol=prediction.symbol,
            timestamp=prediction.timestamp,
            available_at=prediction.available_at,
            refusal=prediction.refusal,
            adaptation=prediction.adaptation,
            top_features=top_features,
            **more,
        )


class Forecast(OneSymbol):
    """Every task's output."""

    horizon_bars: int
    direction: Mapping[str, float]
    regime: Mapping[str, float]
    volatility: float | None
    position_size: float | None
    quantiles: Mapping[int, Mapping[float, float]] = Field(description="Horizon in bars -> level -> log return")
    reasoning: str

    @classmethod
    def of(cls, prediction: Prediction, top_features: list[TopFeature] | None = None) -> Self:
        """Return the forecast part of a prediction."""
        tasks = ("horizon_bars", "direction", "regime", "volatility", "position_size", "quantiles")
        told = {name: getattr(prediction, name) for name in tasks}
        return cls._of(prediction, top_features, **told, reasoning=prediction.signal["reasoning"])


class Signal(OneSymbol):
    """What to do."""

    action: str = Field(description="BUY, SELL or HOLD")
    position_size: float = Field(description="Fraction of equity")
    confidence: float | None
    stop_loss_pct: float | None
    take_profit_pct: float | None
    market_regime: str
    predicted_volatility: float | None
    expected_edge: float | None
    reasoning: str

    @classmethod
    def of(cls, prediction: Prediction, top_features: list[TopFeature] | None = None) -> Self:
        """Return the decision part of a prediction."""
        return cls._of(prediction, top_features, **prediction.signal)


class ForecastAnswer(BaseModel):
    """Answer of `POST /v1/predict`."""

    model_config = ConfigDict(frozen=True)

    model: ModelInfo
    predictions: list[Forecast]


class SignalAnswer(BaseModel):
    """Answer of `POST /v1/signals`."""

    model_config = ConfigDict(frozen=True)

    model: ModelInfo
    signals: list[Signal]


class KeptStatus(BaseModel):
    """The kept bars of one symbol."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    timeframe: str
    bars: int
    missing: int = Field(description="Bars absent between the first and the last")
    first_bar: AwareDatetime | None
    last_bar: AwareDatetime | None
    fresh: bool = Field(description="Whether the newest bar is young enough for a forecast now")
    enough: bool = Field(description="Whether there are as many bars as a forecast needs")


class TakenAnswer(BaseModel):
    """Answer of `PUT /v1/candles/{symbol}`: what became of the bars."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    added: int
    unchanged: int = Field(description="Kept already, with the same values")
    forgotten: int = Field(description="Older than what is kept, left out")
    bars: int = Field(description="Kept since")
    last_bar: AwareDatetime | None


class AdaptationAnswer(BaseModel):
    """What was learned from the newest bars of a regime."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: str = Field(description="accepted or rolled_back")
    loss_before: float | None = Field(description="On held-back support, unadapted")
    loss_after: float | None = Field(description="The same, adapted")
    reason: str
    model: str = Field(description="Content of the model that it corrects")
    symbols: list[str]
    regime: str
    start: AwareDatetime
    end: AwareDatetime
    num_bars: int
    num_labels: int
    drift: float
    volatility: float
    strength: float
    created_at: AwareDatetime

    @classmethod
    def of(cls, adaptation: Adaptation, created_at: datetime) -> Self:
        """Return an adaptation as it is told."""
        fields = adaptation.model_dump(exclude={"accepted"})
        status = "accepted" if adaptation.accepted else "rolled_back"
        return cls(id=adaptation.id, status=status, created_at=created_at, **fields)


class AdaptationsAnswer(BaseModel):
    """Answer of `GET /v1/adaptations`, oldest first."""

    model_config = ConfigDict(frozen=True)

    adaptations: list[AdaptationAnswer]


class VersionAnswer(BaseModel):
    """One version that could be served."""

    model_config = ConfigDict(frozen=True)

    version: str
    serving: bool
    added_at: str
    reason: str


class ModelsAnswer(BaseModel):
    """Answer of `GET /v1/models`, oldest first."""

    model_config = ConfigDict(frozen=True)

    serving: str
    versions: list[VersionAnswer]
