"""What a hyperparameter search may vary: one `suggest(trial)` for plain Optuna and for Ray Tune's define-by-run search."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryptoml.errors import ConfigError
from cryptoml.features.contract import CATEGORIES
from cryptoml.training.config import Loss

__all__ = ["FEATURE_GROUPS", "HYPERPARAMETERS", "SearchSpace", "Trial", "switch"]


class Trial(Protocol):
    """The part of `optuna.Trial` that a search space uses."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Choose one of some values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number between two."""


Range = tuple[float, float]

CHOICES = ("architecture", "hidden_size", "num_layers", "num_heads", "batch_size", "lookback", "loss")
RANGES = {"dropout": False, "learning_rate": True, "weight_decay": True}
"""Ranges and whether they are searched on a log scale."""

FEATURE_GROUPS = "feature_groups"
HYPERPARAMETERS = (*CHOICES, *RANGES, FEATURE_GROUPS)
"""What can be searched."""


def switch(category: str) -> str:
    """Return the name of the parameter that turns a category of features on or off."""
    return f"use_{category}"


class SearchSpace(BaseModel):
    """Which hyperparameters are searched, and the choices and ranges of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: tuple[str, ...] = Field(
        HYPERPARAMETERS, min_length=1, description="Hyperparameters to vary; all others keep the model's own values"
    )
    architecture: tuple[str, ...] = Field(("tft", "tcn", "linear"), min_length=1, description="Encoders of a member")
    hidden_size: tuple[int, ...] = Field((16, 32, 64), min_length=1, description="Widths; multiples of every entry of num_heads")
    num_layers: tuple[int, ...] = Field((1, 2), min_length=1, description="Recurrent layers")
    num_heads: tuple[int, ...] = Field((2, 4), min_length=1, description="Attention heads")
    dropout: Range = Field((0.0, 0.4), description="Fraction dropped, from low to high")
    learning_rate: Range = Field((1e-4, 1e-2), description="Step size, from low to high, searched on a log scale")
    weight_decay: Range = Field((1e-6, 1e-2), description="Decoupled decay, from low to high, searched on a log scale")
    batch_size: tuple[int, ...] = Field((4, 8, 16), min_length=1, description="Chunks, or examples of a plain loader, per batch")
    lookback: tuple[int, ...] = Field((32, 64, 128), min_length=1, description="Bars that an encoder can see")
    loss: tuple[Loss, ...] = Field(("uncertainty", "sum"), min_length=1, description="How the tasks' losses are weighed")
    feature_groups: tuple[str, ...] = Field(
        CATEGORIES[1:], description="Categories of features that may be left out, each by a parameter `use_CATEGORY`"
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name, known in (("search", HYPERPARAMETERS), (FEATURE_GROUPS, CATEGORIES)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ValueError(f"{name} must be among {', '.join(known)}, was {unknown[0]!r}")
        return self

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        for name in ("search", *CHOICES, FEATURE_GROUPS):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must hold different choices, was {values}")
            if any(value < 1 for value in values if type(value) is int):
                raise ValueError(f"{name} must hold values of at least 1, was {values}")
        _require_divisible(self.hidden_size, self.num_heads)
        for name, floor, ceiling in (("dropout", 0.0, 0.99), ("learning_rate", 1e-12, 1e3), ("weight_decay", 1e-12, 1e3)):
            low, high = getattr(self, name)
            if not floor <= low <= high <= ceiling:
                raise ValueError(f"{name} must run from low to high within {floor} and {ceiling}, was {(low, high)}")
        return self

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the parameters that can take two values or more."""
        several = [name for name in CHOICES if name in self.search and len(getattr(self, name)) > 1]
        ranged = [name for name in RANGES if name in self.search and getattr(self, name)[0] < getattr(self, name)[1]]
        return (*several, *ranged, *self._switches())

    def around(self, own: Mapping[str, Any], categories: Collection[str]) -> Self:
        """Return the space for one model: of the feature groups only those that the data has.

        Args:
            own: The model's own values, which stand for what is not searched.
            categories: Feature categories that the model reads.

        Raises:
            ConfigError: Nothing is left to vary, or choices contradict each other or the model's own values.
        """
        groups = tuple(category for category in self.feature_groups if category in categories)
        space = self.model_copy(update={FEATURE_GROUPS: groups})
        if FEATURE_GROUPS in space.search and groups and set(groups) == set(categories):
            raise ConfigError(f"feature_groups must leave a category that always stays, was all of {sorted(groups)}")
        widths, heads = (getattr(self, name) if name in self.search else (own[name],) for name in ("hidden_size", "num_heads"))
        try:
            _require_divisible(widths, heads)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return space.require_variety()

    def require_variety(self) -> Self:
        """Return the space itself.

        Raises:
            ConfigError: Nothing in it varies.
        """
        if not self.varied:
            raise ConfigError(f"search must leave something to vary, was {self.search} with at most one value each")
        return self

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw one configuration; every key is a parameter of the trial by the same name."""
        choices = [name for name in CHOICES if name in self.search]
        chosen = {name: trial.suggest_categorical(name, list(getattr(self, name))) for name in choices}
        ranges = {name: log for name, log in RANGES.items() if name in self.search}
        drawn = {name: trial.suggest_float(name, *getattr(self, name), log=log) for name, log in ranges.items()}
        switched = {name: trial.suggest_categorical(name, [True, False]) for name in self._switches()}
        return chosen | drawn | switched

    def _switches(self) -> list[str]:
        return [switch(category) for category in self.feature_groups if FEATURE_GROUPS in self.search]


def _require_divisible(widths: tuple[int, ...], heads: tuple[int, ...]) -> None:
    for width in widths:
        for count in heads:
            if width % count:
                raise ValueError(f"hidden_size {width} must be a multiple of num_heads {count}")
