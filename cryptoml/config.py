"""One validated experiment, composed of each part's own config, and the presets.

A YAML file or keyword overrides may change any field of a preset; an unknown or impossible value is a `ConfigError` that
names the field.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cryptoml.data.synthetic import MarketConfig
from cryptoml.errors import ConfigError
from cryptoml.evaluation.backtest import BacktestConfig
from cryptoml.evaluation.candidates import BootstrapConfig
from cryptoml.evaluation.learned_baselines import BaselineConfig
from cryptoml.features.contract import CATEGORIES
from cryptoml.features.engineer import FeatureConfig
from cryptoml.features.scaling import ScalingConfig
from cryptoml.features.selection import CORE_FEATURES
from cryptoml.features.targets import TargetConfig
from cryptoml.preset_names import PRESETS, Preset
from cryptoml.trading.config import TradingConfig
from cryptoml.training.adaptation import AdaptationConfig
from cryptoml.training.config import TrainingConfig
from cryptoml.training.member import CONTROL, MemberConfig
from cryptoml.training.renewal_config import RenewalConfig
from cryptoml.training.sweep import SweepConfig
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["PRESETS", "ExperimentConfig", "Preset", "WalkForwardConfig", "load_config", "preset"]


class WalkForwardConfig(BaseModel):
    """How the span after `train_end` is forecast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_folds: int = Field(1, ge=1, description="Refits over the test span, equally spaced")
    validation_fraction: float = Field(0.15, gt=0, lt=0.5, description="Share of the bars before the test that validate")
    embargo_bars: int | None = Field(None, ge=0, description="Bars between spans beyond the label; None is the longest horizon")
    train_bars: int | None = Field(None, ge=100, description="Length of a rolling training span; None trains on all the past")
    test_fraction: float = Field(
        0.25, gt=0, lt=0.9, description="Share of the data that is the test where train_end is not given"
    )


class ExperimentConfig(BaseModel):
    """Everything that decides the result of a run, apart from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(
        0, ge=0, description="Seed of sweep, members and control run; market, baselines and bootstrap have their own"
    )
    num_seeds: int = Field(
        1, ge=1, description="Fits of the whole ensemble with different seeds; the first is published, all are reported"
    )
    timeframe: str | None = Field(None, description="Length of a bar; None takes what the data holds")
    lookback: int = Field(64, ge=2, description="Bars of history that a forecast reads")
    market: MarketConfig = MarketConfig()
    features: FeatureConfig = FeatureConfig()
    scaling: ScalingConfig = ScalingConfig()
    targets: TargetConfig = TargetConfig()
    walk_forward: WalkForwardConfig = WalkForwardConfig()
    members: tuple[MemberConfig, ...] = (
        MemberConfig(name="tft"),
        MemberConfig(name="tcn", architecture="tcn", seed=1),
        MemberConfig(name="linear", architecture="linear", seed=2),
    )
    training: TrainingConfig = TrainingConfig()
    workers: WorkerConfig = WorkerConfig()
    sweep: SweepConfig = SweepConfig()
    trading: TradingConfig = TradingConfig()
    backtest: BacktestConfig = BacktestConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    baselines: BaselineConfig = BaselineConfig()
    shuffled_label_run: bool = Field(True, description="Fit one member on shuffled labels, which must find nothing")
    ablations: bool = Field(False, description="Fit the first member again without its graph and without each feature category")
    continual_steps: int = Field(
        0, ge=0, description="Continual steps inside each test span, judged as one more candidate; 0 leaves it out"
    )
    renewal: RenewalConfig = RenewalConfig()
    adaptation: AdaptationConfig = AdaptationConfig()

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        names = [member.name for member in self.members]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"members must have different names and be at least one, were {names}")
        if CONTROL in names:
            raise ValueError(f"members must not be called {CONTROL!r}, as the control run is, were {names}")
        return self

    @model_validator(mode="after")
    def _groups_are_computed(self) -> Self:
        computed = self.features.categories or CATEGORIES
        for member in self.members:
            absent = [group for group in member.feature_groups or () if group not in computed]
            if absent:
                raise ValueError(f"feature_groups of member {member.name} must be among {list(computed)}, was {absent[0]!r}")
        return self

    @model_validator(mode="after")
    def _chunks_hold_origins(self) -> Self:
        if self.training.chunk_bars < 2 * self.lookback:
            raise ValueError(
                f"training.chunk_bars must be at least twice the lookback {self.lookback}, was {self.training.chunk_bars}"
            )
        return self

    def updated(self, **changes: Any) -> "ExperimentConfig":
        """Return a validated copy with nested changes, such as `training={"max_epochs": 3}`.

        Raises:
            ConfigError: A field is unknown or a value impossible.
        """
        return _validated(_merged(self.model_dump(), changes))

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of all settings that decide the result."""
        settings = self.model_dump(mode="json", exclude={"workers": set(WorkerConfig.model_fields) - {"num_workers"}})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


NARROW_SPACE = {"learning_rate": (5e-4, 3e-3), "dropout": (0.05, 0.3)}

_PRESETS: dict[str, dict[str, Any]] = {
    "debug": {
        "lookback": 32,
        "features": {"include": CORE_FEATURES},
        "market": {"num_assets": 4, "num_bars": 4000},
        "members": (
            {"name": "tft", "architecture": "tft", "hidden_size": 16, "num_heads": 2, "variable_size": 4},
            {"name": "tcn", "architecture": "tcn", "hidden_size": 16, "num_heads": 2, "seed": 1},
        ),
        "training": {"max_epochs": 10, "patience": 4, "lr_patience": 1, "chunk_bars": 128},
        "sweep": {"num_trials": 2, "max_epochs": 2, "pruner": "none", "space": NARROW_SPACE},
        "bootstrap": {"num_draws": 200},
    },
    "baseline": {
        "features": {"include": CORE_FEATURES},
        "market": {"num_assets": 6, "num_bars": 20000},
        "training": {"max_epochs": 24, "patience": 6, "lr_patience": 1},
        "sweep": {"num_trials": 4, "max_epochs": 2, "pruner": "none", "space": NARROW_SPACE},
    },
    "production": {
        "lookback": 128,
        "market": {"num_assets": 20, "num_bars": 40000},
        "walk_forward": {"num_folds": 4},
        "members": (
            {"name": "tft", "architecture": "tft", "hidden_size": 160, "dropout": 0.2},
            {"name": "tft_reseeded", "architecture": "tft", "hidden_size": 160, "dropout": 0.2, "seed": 1},
            {"name": "tcn", "architecture": "tcn", "hidden_size": 128, "dropout": 0.2, "seed": 2},
            {"name": "linear", "architecture": "linear", "hidden_size": 64, "seed": 3},
        ),
        "training": {"max_epochs": 100, "patience": 15, "chunk_bars": 512},
        "sweep": {
            "num_trials": 50,
            "max_epochs": 20,
            "pruner": "asha",
            "space": {
                "search": (
                    *("dropout", "learning_rate", "weight_decay", "loss", "batch_size"),
                    *("hidden_size", "num_layers", "num_heads", "feature_groups"),
                ),
                "hidden_size": (64, 128, 160),
                "num_heads": (2, 4),
            },
        },
    },
}


def preset(name: str = "baseline") -> ExperimentConfig:
    """Return a preset: `debug` (about a minute), `baseline` (a laptop), `production` (a cluster).

    Raises:
        ConfigError: There is no preset of that name.
    """
    if name not in _PRESETS:
        raise ConfigError(f"preset must be one of {list(PRESETS)}, was {name!r}")
    return _validated(_PRESETS[name])


def load_config(path: str | Path, base: ExperimentConfig | None = None) -> ExperimentConfig:
    """Return `base` with the changes that a YAML file states.

    Raises:
        ConfigError: The file cannot be read, is not a mapping, or states an unknown or impossible value.
    """
    try:
        changes = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(changes, dict):
        raise ConfigError(f"config file {path} must be a mapping of settings, was {type(changes).__name__}")
    return _validated(_merged((base or preset()).model_dump(), changes))


def _validated(values: Mapping[str, Any]) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"setting {field or 'experiment'}: {first['msg']}, was {_shortened(first.get('input'))}") from None


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if nested else value
    return result
