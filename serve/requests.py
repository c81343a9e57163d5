"""Bodies of requests, with their limits. Everything is checked here, once; behind it the values are trusted.

Nothing is converted: a price in quotes or a truth value in its place is a mistake of the caller, not a price.
"""

from datetime import UTC, datetime
from typing import Annotated, Self

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from cryptoml.data.panel import CANDLE_FIELDS

__all__ = [
    "MAX_BARS",
    "MAX_ROWS",
    "MAX_SYMBOLS",
    "AdaptationRequest",
    "Candles",
    "ChangeRequest",
    "ForecastRequest",
    "Instant",
    "NewCandles",
]

MAX_SYMBOLS = 512
MAX_BARS = 20_000
MAX_ROWS = 400_000

Price = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Instant = Annotated[AwareDatetime, Field(ge=datetime(2009, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))]


class Candles(BaseModel):
    """One symbol's candles by column, oldest first; all columns have one length. Unfinished bars are left out by the service."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

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
        return {name: column for name in CANDLE_FIELDS if (column := getattr(self, name)) is not None}

    def to_frame(self) -> pd.DataFrame:
        """Return the candles as a frame with a UTC `timestamp` column."""
        return pd.DataFrame({"timestamp": pd.DatetimeIndex(pd.to_datetime(self.timestamp, utc=True)), **self._columns()})


class NewCandles(Candles):
    """Bars to keep."""

    timeframe: str | None = Field(None, max_length=8, description="Length of a bar; refused where it is not the model's")


Symbol = Annotated[str, Field(min_length=1, max_length=32)]
Symbols = Annotated[list[Symbol], Field(max_length=MAX_SYMBOLS)]
History = Annotated[dict[Symbol, Candles], Field(min_length=1, max_length=MAX_SYMBOLS)]


class _OverBars(BaseModel):
    """A request over candles: those in the body, or those that the service keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    history: History | None = Field(None, description="Symbol -> candles")
    symbols: Symbols | None = Field(None, description="Symbols whose kept bars are to be used; every kept one where empty")
    as_of: Instant | None = Field(None, description="Instant of the decision; the service's clock where absent")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.history is None) == (self.symbols is None):
            raise ValueError("one of history and symbols must be given")
        rows = sum(len(candles.timestamp) for candles in (self.history or {}).values())
        if rows > MAX_ROWS:
            raise ValueError(f"history must hold at most {MAX_ROWS} candles in all, had {rows}")
        return self

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the candles of the body as frames by symbol."""
        return {symbol: candles.to_frame() for symbol, candles in (self.history or {}).items()}


class ForecastRequest(_OverBars):
    """Symbols to forecast. What other symbols the model knows help the forecast: give them in `history` where you can."""

    adaptation: str | None = Field(
        None, max_length=64, description="Id of an adaptation; each symbol's active one where absent, `none` for the plain model"
    )
    explain: bool = Field(False, description="Tell which inputs moved each forecast")


class AdaptationRequest(BaseModel):
    """Bars to learn a correction from: the newest kept ones, or those in the body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    symbols: Annotated[list[Symbol], Field(min_length=1, max_length=MAX_SYMBOLS)]
    last_bars: int | None = Field(
        None, ge=10, le=1000, description="Newest bars that teach; the model's own setting where absent"
    )
    history: History | None = Field(None, description="Symbol -> candles, with those before `last_bars` that a forecast needs")
    regime: Annotated[str, Field(min_length=1, max_length=32, pattern="^[A-Za-z0-9_-]+$")] | None = Field(
        None, description="Name to keep it under; the most probable regime where absent"
    )
    as_of: Instant | None = Field(None, description="Bars that were not closed by then do not count")

    def frames(self) -> dict[str, pd.DataFrame] | None:
        """Return the candles of the body as frames by symbol, None without any."""
        return None if self.history is None else {symbol: candles.to_frame() for symbol, candles in self.history.items()}


class ChangeRequest(BaseModel):
    """Why another model is to serve."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: str = Field("", max_length=500, description="For the registry's history and the audit log")
