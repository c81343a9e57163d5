"""The model that answers, as every answer names it, and what moved an answer."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelInfo", "TopFeature"]


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
