"""Rules of an update, apart from what carries it out: command lines show them without loading it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cryptoml.training.renewal_config import RenewalConfig

__all__ = ["Strategy", "UpdateConfig"]

Strategy = Literal["auto", "adapt", "continual", "refit"]


class UpdateConfig(BaseModel):
    """How a model is kept current."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Strategy = Field(
        "auto",
        description="auto: refit after a major drift, adaptation where the loss rose and the champion has rehearsed that, else a "
        "continual step",
    )
    judge_bars: int = Field(
        336,
        ge=24,
        description="Newest labelled bars, on which challenger and champion are compared; a verdict takes 6 label lengths",
    )
    least_new_bars: int = Field(48, ge=1, description="Bars to learn that a continual step or a refit needs")
    reference_bars: int = Field(2000, ge=100, description="Last bars known to the champion, against which drift is measured")
    shifted_share: float = Field(0.3, ge=0, le=1, description="Share of features beyond their limits from which a refit is due")
    level: float = Field(0.95, gt=0, lt=1, description="Confidence of the interval of the duel")
    renewal: RenewalConfig = RenewalConfig()
