"""Bodies of requests and answers, with their limits. Everything is checked here, once; behind it the values are trusted."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Self

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from cryptoml.live.prediction import Prediction

__all__ = [
    "MAX_BARS",
    "MAX_BODY_BYTES",
    "MAX_SYMBOLS",
    "Candles",
    "Forecast",
    "ForecastAnswer",
    "HistoryRequest",
    "ModelInfo",
    "Signal",
    "SignalAnswer",
]

MAX_SYMBOLS = 512
MAX_BARS = 20_000
MAX_ROWS = 400_000
MAX_BODY_BYTES = 64 * 1024 * 1024

Price = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Instant = Annotated[AwareDatetime, Field(ge=datetime(2009, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))]


class Candles(BaseModel):
    """One symbol's candles by column, oldest first; all columns have one length. Unfinished bars are left out by the service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timestamp: list[Instant] = Field(min_length=1, max_length=MAX_BARS, description="Opens of the bars, with an offset")
    open: list[Price]
    high: list[Price]
    low: list[Price]
    close: list[Price]
    volume: list[Amount] = Field(description="Base asset")
    quote_volume: list[Amount] | None = Field(None, description="Quote asset")
    num_trades: list[Amount] | None = None
    taker_buy_volume: list[Amount] | None = Field(None, description="Base asset, bought by takers")

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        for name, column in self._columns().items():
            if len(column) != len(self.timestamp):
                raise ValueError(f"{name} must have as many values as timestamp, {len(self.timestamp)}, had {len(column)}")
        for row, (before, after) in enumerate(zip(self.timestamp, self.timestamp[1:], strict=False), start=1):
            if after <= before:
                raise ValueError(f"timestamp must increase, row {row} is {after.isoformat()} after {before.isoformat()}")
        return self

    def _columns(self) -> dict[str, list[float]]:
        names = type(self).model_fields.keys() - {"timestamp"}
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    def to_frame(self) -> pd.DataFrame:
        """Return the candles as a frame with a UTC `timestamp` column."""
        return pd.DataFrame({"timestamp": pd.DatetimeIndex(pd.to_datetime(self.timestamp, utc=True)), **self._columns()})


class HistoryRequest(BaseModel):
    """Candles of the symbols to forecast. What other symbols the model knows help the forecast: give them where you can."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: dict[Annotated[str, Field(min_length=1, max_length=32)], Candles] = Field(
        min_length=1, max_length=MAX_SYMBOLS, description="Symbol -> candles"
    )
    as_of: Instant | None = Field(None, description="Instant of the decision; the service's clock where absent")

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        rows = sum(len(candles.timestamp) for candles in self.history.values())
        if rows > MAX_ROWS:
            raise ValueError(f"history must hold at most {MAX_ROWS} candles in all, had {rows}")
        return self

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the candles as frames by symbol."""
        return {symbol: candles.to_frame() for symbol, candles in self.history.items()}


class ModelInfo(BaseModel):
    """The model that answers."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="Name of the bundle's content")
    timeframe: str
    horizon_bars: int
    history_bars: int = Field(description="Candles per symbol that a forecast needs")
    symbols: list[str]


class Forecast(BaseModel):
    """Every task's output for one symbol at its last closed bar."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    timestamp: AwareDatetime | None
    available_at: AwareDatetime | None
    horizon_bars: int
    direction: Mapping[str, float]
    regime: Mapping[str, float]
    volatility: float | None
    position_size: float | None
    quantiles: Mapping[int, Mapping[float, float]] = Field(description="Horizon in bars -> level -> log return")
    refusal: str | None = Field(None, description="Why there is no forecast")
    reasoning: str

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Return the forecast part of a prediction."""
        return cls(
            symbol=prediction.symbol,
            timestamp=prediction.timestamp,
            available_at=prediction.available_at,
            horizon_bars=prediction.horizon_bars,
            direction=prediction.direction,
            regime=prediction.regime,
            volatility=prediction.volatility,
            position_size=prediction.position_size,
            quantiles=prediction.quantiles,
            refusal=prediction.refusal,
            reasoning=prediction.signal["reasoning"],
        )


class Signal(BaseModel):
    """What to do with one symbol."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    timestamp: AwareDatetime | None
    available_at: AwareDatetime | None
    action: str = Field(description="BUY, SELL or HOLD")
    position_size: float = Field(description="Fraction of equity")
    confidence: float | None
    stop_loss_pct: float | None
    take_profit_pct: float | None
    market_regime: str
    predicted_volatility: float | None
    expected_edge: float | None
    reasoning: str
    refusal: str | None = None

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Return the decision part of a prediction."""
        return cls(
            symbol=prediction.symbol,
            timestamp=prediction.timestamp,
            available_at=prediction.available_at,
            refusal=prediction.refusal,
            **prediction.signal,
        )


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
