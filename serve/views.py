"""Bodies of the answers that the page draws."""

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cryptoml.live.wire import Forecast, KeptStatus, ModelInfo, Signal
from serve.depth import Depth
from serve.kept_bars import BarArrays

__all__ = ["GraphAnswer", "OverviewAnswer", "SymbolRow", "SymbolView"]


class SymbolRow(BaseModel):
    """One symbol at a glance."""

    model_config = ConfigDict(frozen=True)

    candles: KeptStatus
    signal: Signal | None = Field(description="Null where no bars are kept")


class OverviewAnswer(BaseModel):
    """Answer of `GET /v1/symbols`."""

    model_config = ConfigDict(frozen=True)

    model: ModelInfo
    symbols: list[SymbolRow]


class Attention(BaseModel):
    """Where one member looked."""

    model_config = ConfigDict(frozen=True)

    member: str
    weights: list[float] = Field(description="By bars ago, the newest first; sum to 1")


class SymbolView(BaseModel):
    """Answer of `GET /v1/symbols/{symbol}`; the quantile fan is `forecast.quantiles`, log returns from the last close."""

    model_config = ConfigDict(frozen=True)

    model: ModelInfo
    timestamp: list[AwareDatetime] = Field(description="Opens of the bars, oldest first")
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    regimes: list[str | None] = Field(description="Most probable regime forecast at each of the newest bars, oldest first")
    forecast: Forecast
    signal: Signal
    attention: list[Attention]

    @classmethod
    def of(cls, model: ModelInfo, bars: BarArrays, forecast: Forecast, signal: Signal, depth: Depth) -> Self:
        """Return what is known of a symbol."""
        frame = bars.frame()
        columns = {name: frame[name].tolist() for name in ("open", "high", "low", "close", "volume")}
        return cls(
            model=model,
            timestamp=[stamp.to_pydatetime() for stamp in frame["timestamp"]],
            **columns,
            regimes=depth.regimes,
            forecast=forecast,
            signal=signal,
            attention=[Attention(member=look.member, weights=look.weights) for look in depth.looks],
        )


class GraphAnswer(BaseModel):
    """Answer of `GET /v1/graph`."""

    model_config = ConfigDict(frozen=True)

    model: ModelInfo
    symbols: list[str] = Field(description="Names of rows and columns")
    weights: list[list[float | None]] | None = Field(description="How much the row listens to the column; null without a graph")
