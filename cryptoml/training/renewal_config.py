"""Settings of a continual step, apart from what carries it out: command lines show them without loading it."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RenewalConfig"]


class RenewalConfig(BaseModel):
    """How much a continual step may change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_size: int = Field(64, ge=0, description="Old chunks kept for replay")
    importance_weight: float = Field(50.0, ge=0, description="Strength of the EWC penalty, the paper's lambda")
    learning_rate: float = Field(1e-4, gt=0, description="Step size")
    epochs: int = Field(2, ge=1, description="Passes over the new chunks")
    batch_size: int = Field(4, ge=1, description="Chunks per step")
    chunk_bars: int = Field(256, ge=8, description="Bars of a chunk, at least twice the lookback is sensible")
    seed: int = Field(0, ge=0, description="Of order and memory")
