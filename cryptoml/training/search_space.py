"""What a hyperparameter search may vary: one `suggest(trial)` for plain Optuna and for Ray Tune's define-by-run search."""

from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["SearchSpace", "Trial"]


class Trial(Protocol):
    """The part of `optuna.Trial` that a search space uses."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Choose one of some values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number between two."""


Range = tuple[float, float]

CHOICES = ("architecture", "hidden_size", "num_layers", "num_heads", "batch_size", "lookback", "learned_task_weights")
RANGES = {"dropout": False, "learning_rate": True, "weight_decay": True}
"""Ranges and whether they are searched on a log scale."""


class SearchSpace(BaseModel):
    """Choices and ranges of the searched hyperparameters; a single choice fixes one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: tuple[str, ...] = Field(("tft", "tcn", "linear"), min_length=1, description="Encoders of a member")
    hidden_size: tuple[int, ...] = Field((16, 32, 64), min_length=1, description="Widths; multiples of every entry of num_heads")
    num_layers: tuple[int, ...] = Field((1, 2), min_length=1, description="Recurrent layers")
    num_heads: tuple[int, ...] = Field((2, 4), min_length=1, description="Attention heads")
    dropout: Range = Field((0.0, 0.4), description="Fraction dropped, from low to high")
    learning_rate: Range = Field((1e-4, 1e-2), description="Step size, from low to high, searched on a log scale")
    weight_decay: Range = Field((1e-6, 1e-2), description="Decoupled decay, from low to high, searched on a log scale")
    batch_size: tuple[int, ...] = Field((4, 8, 16), min_length=1, description="Chunks, or examples of a plain loader, per batch")
    lookback: tuple[int, ...] = Field((32, 64, 128), min_length=1, description="Bars that an encoder can see")
    learned_task_weights: tuple[bool, ...] = Field((True, False), min_length=1, description="Weigh tasks by learned uncertainty")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in CHOICES:
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must hold different choices, was {values}")
            if any(value < 1 for value in values if type(value) is int):
                raise ValueError(f"{name} must hold values of at least 1, was {values}")
        odd = [(size, heads) for size in self.hidden_size for heads in self.num_heads if size % heads]
        if odd:
            raise ValueError(f"hidden_size {odd[0][0]} must be a multiple of num_heads {odd[0][1]}")
        for name, floor, ceiling in (("dropout", 0.0, 0.99), ("learning_rate", 1e-12, 1e3), ("weight_decay", 1e-12, 1e3)):
            low, high = getattr(self, name)
            if not floor <= low <= high <= ceiling:
                raise ValueError(f"{name} must run from low to high within {floor} and {ceiling}, was {(low, high)}")
        return self

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw one configuration; every key is a parameter of the trial by the same name."""
        chosen = {name: trial.suggest_categorical(name, list(getattr(self, name))) for name in CHOICES}
        drawn = {name: trial.suggest_float(name, *getattr(self, name), log=log) for name, log in RANGES.items()}
        return chosen | drawn
