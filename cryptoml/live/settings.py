"""The configuration of a trading bot's model: flat keys, each a change to the part that owns it."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cryptoml.config import ExperimentConfig, Preset, preset
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError
from cryptoml.trading.config import TradingConfig
from cryptoml.training.adaptation import AdaptationConfig

__all__ = ["LiveSettings", "nearest_key"]


class LiveSettings(BaseModel):
    """Keys of `UltimateTradingAI`'s configuration; beside these, every field of `TradingConfig` is one.

    A key that is not given leaves the preset, or the loaded bundle, as it is. Those of the model and its training count when
    a model is trained; a bundle keeps the shape that it has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: Preset = Field("baseline", description="What training starts from")
    experiment: dict[str, Any] = Field(
        default_factory=dict, description="Nested changes to any field of ExperimentConfig, as a YAML file would state them"
    )
    timeframe: str | None = Field(None, description="Length of a bar; what the training data shows where None")
    assume_timezone: str | None = Field(None, description="Zone of timestamps that carry none, such as 'UTC'; refused where None")
    max_age_bars: int = Field(1, ge=0, description="Bars that may have closed since a symbol's newest one before it is stale")

    input_size: int | None = Field(None, ge=1, description="Number of features; those of the preset where None")
    hidden_size: int | None = Field(None, ge=4, description="Width of every member; num_attention_heads divides it")
    num_attention_heads: int | None = Field(None, ge=1, description="Attention heads of every member")
    num_layers: int | None = Field(None, ge=1, description="Recurrent or attention layers of every member")
    dropout: float | None = Field(None, ge=0, lt=1, description="Fraction dropped in training")

    batch_size: int | None = Field(None, ge=1, description="Chunks per batch")
    learning_rate: float | None = Field(None, gt=0, description="Step size at the start")
    num_epochs: int | None = Field(None, ge=1, description="Epochs at most, where train_from_historical_data is not told")
    patience: int | None = Field(None, ge=1, description="Epochs without a better validation loss before stopping")
    grad_clip: float | None = Field(None, gt=0, description="Largest gradient norm")
    num_trials: int | None = Field(None, ge=1, description="Configurations that a hyperparameter search tries")

    inner_lr: float | None = Field(None, gt=0, description="Step size of adaptation, from which the learned ones start")
    num_inner_steps: int | None = Field(None, ge=1, description="Gradient steps of an adaptation")
    memory_size: int | None = Field(None, ge=0, description="Old chunks that a continual step replays")
    importance_weight: float | None = Field(None, ge=0, description="Strength of elastic weight consolidation")

    trading: dict[str, Any] = Field(default_factory=dict, description="Fields of TradingConfig; they may stand at the top too")

    @field_validator("timeframe")
    @classmethod
    def _timeframe_is_one(cls, timeframe: str | None) -> str | None:
        if timeframe is not None:
            parse_timeframe(timeframe)
        return timeframe

    @field_validator("assume_timezone")
    @classmethod
    def _timezone_is_known(cls, zone: str | None) -> str | None:
        try:
            pd.Timestamp("2024-01-01").tz_localize(zone)
        except (LookupError, ValueError, OSError):
            raise ConfigError(f"assume_timezone must be a zone such as 'UTC' or 'Asia/Tokyo', was {zone!r}") from None
        return zone

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Self:
        """Read a bot's configuration.

        Raises:
            ConfigError: A key is unknown (the message has the nearest known one) or a value impossible.
        """
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError(f"config must map names to settings, was {type(config).__name__}")
        given = dict(config or {})
        for key in given:
            _check_known(key)
        nested = given.pop("trading", {})
        if not isinstance(nested, Mapping):
            raise ConfigError(f"setting trading must map names to settings, was {nested!r}")
        trading = {key: given.pop(key) for key in list(given) if key in TradingConfig.model_fields}
        try:
            settings = cls.model_validate(given | {"trading": {**nested, **trading}})
        except ValidationError as error:
            raise ConfigError(_first_fault(error)) from None
        settings.trading_over({})
        _ = settings.base_experiment  # impossible values are told here
        return settings

    def trading_over(self, stored: Mapping[str, Any]) -> TradingConfig:
        """Return the decision's settings: these keys over those of a bundle.

        Raises:
            ConfigError: A value is impossible, alone or beside the stored ones.
        """
        try:
            return TradingConfig.model_validate({**stored, **self.trading})
        except ValidationError as error:
            raise ConfigError(_first_fault(error)) from None

    @cached_property
    def base_experiment(self) -> ExperimentConfig:
        """The experiment that trains a model, but for what the data decides.

        Raises:
            ConfigError: A value is impossible.
        """
        base = preset(self.preset).updated(shuffled_label_run=False, walk_forward={"num_folds": 1}).updated(**self.experiment)
        shape = _given(hidden_size=self.hidden_size, num_heads=self.num_attention_heads, num_layers=self.num_layers)
        shape |= _given(dropout=self.dropout) | ({} if self.learning_rate is None else {"learning_rate": None})
        loop = {name: getattr(self, name) for name in ("batch_size", "learning_rate", "patience", "grad_clip")}
        renewal = {name: getattr(self, name) for name in ("memory_size", "importance_weight")}
        return base.updated(
            **_given(timeframe=self.timeframe),
            members=[member.model_dump() | shape for member in base.members],
            training=_given(**loop, max_epochs=self.num_epochs),
            trading=self.trading,
            renewal=_given(**renewal),
            adaptation=_given(inner_lr=self.inner_lr, num_inner_steps=self.num_inner_steps),
            sweep=_given(num_trials=self.num_trials),
        )

    def adaptation_over(self, stored: Mapping[str, Any]) -> tuple[AdaptationConfig, float]:
        """Return a bundle's settings of adaptation with these keys over them, and the factor on its learned step sizes."""
        known = AdaptationConfig.model_validate(stored)
        steps = known.model_copy(update=_given(num_inner_steps=self.num_inner_steps))
        return steps, (self.inner_lr or known.inner_lr) / known.inner_lr


_KNOWN = tuple(sorted({*LiveSettings.model_fields, *TradingConfig.model_fields}))


def nearest_key(key: str, cutoff: float = 0.0) -> str | None:
    """Return the known key that an unknown one is most alike, or None where none is as alike as `cutoff` in [0, 1]."""
    return next(iter(get_close_matches(str(key), _KNOWN, n=1, cutoff=cutoff)), None)


def _check_known(key: str) -> None:
    if key in _KNOWN:
        return
    raise ConfigError(f"setting {key!r} is unknown, the nearest known name is {nearest_key(key)!r}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "trading"
    if first["type"] == "value_error":  # our own, which tells the value
        return f"setting {place}: {first['msg'].removeprefix('Value error, ')}"
    return f"setting {place}: {first['msg']}, was {first.get('input')!r}"
