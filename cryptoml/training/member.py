"""Fit one ensemble member on one fold: the unit of work that the orchestrators map.

Everything that goes in or comes out is arrays and plain configuration, so it travels to a worker as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from cryptoml.data.splits import Fold, Span
from cryptoml.data.windows import chunk_spans
from cryptoml.errors import DataError
from cryptoml.features.contract import category_of
from cryptoml.features.regimes import REGIME_LEVEL, REGIME_READINGS
from cryptoml.features.selection import columns_of
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.forecaster import Architecture, Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.checkpoint import CHECKPOINT_NAME, pack, unpack, write_file
from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.objectives import objective_of
from cryptoml.training.randomness import derived_seed, seeded
from cryptoml.training.trainer import fit

__all__ = [
    "CONTROL",
    "FittedMember",
    "FoldData",
    "MemberConfig",
    "MemberTask",
    "fit_member",
    "load_fitted",
    "member_loss",
    "pack_fitted",
    "regime_columns",
    "save_fitted",
    "shuffled",
    "unpack_fitted",
]

CONTROL = "shuffled_labels"
"""Name of the control run, which no member may have."""


class MemberConfig(BaseModel):
    """One member of the ensemble; what the data decides (features, assets, horizons) is filled in by `task`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="Unique name inside the ensemble, such as 'tft'")
    architecture: Architecture = Field("tft", description="Encoder of each asset's past")
    hidden_size: int = Field(32, ge=4, description="Width of the hidden states")
    num_heads: int = Field(4, ge=1, description="Attention heads; divides hidden_size")
    num_layers: int = Field(1, ge=1, description="Recurrent (tft) or attention (patch) layers")
    variable_size: int = Field(8, ge=1, description="Width of each feature's own network (tft)")
    dropout: float = Field(0.1, ge=0, lt=1, description="Fraction dropped in training")
    graph: bool = Field(True, description="Graph attention across assets after the encoder")
    feature_groups: tuple[str, ...] | None = Field(
        None, min_length=1, description="Categories of features that the member reads; None is all"
    )
    learning_rate: float | None = Field(None, gt=0, description="Learning rate of this member; None takes the training config's")
    seed: int = Field(0, ge=0, description="Mixed with the experiment's seed into one of the member's own")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads {self.num_heads}, was {self.hidden_size}")
        return self

    def task(self, data: "FoldData", training: TrainingConfig, lookback: int, seed: int = 0) -> "MemberTask":
        """Return the whole fit for given data.

        Args:
            data: Decides features, assets, horizons and quantiles.
            training: Settings of the loop; the member's own learning rate wins.
            lookback: Bars of history that a forecast reads.
            seed: Of the experiment; mixed with the member's own, so that no sum of the two matters.

        Raises:
            ConfigError: The data has no feature of one of the member's groups.
        """
        columns = self._columns(data.feature_names)
        forecaster = ForecasterConfig(
            **self.model_dump(exclude={"name", "learning_rate", "seed", "feature_groups"}),
            columns=columns,
            regime_columns=regime_columns(data.feature_names, columns),
            num_features=data.features.shape[2],
            num_assets=data.features.shape[0],
            lookback=lookback,
            horizons=data.config.horizons,
            quantiles=data.config.quantiles,
            primary_horizon=data.config.primary_horizon,
        )
        rate = training.learning_rate if self.learning_rate is None else self.learning_rate
        loop = training.updated(seed=derived_seed(seed, self.seed), learning_rate=rate)
        return MemberTask(self.name, forecaster, loop, feature_names=data.feature_names)

    def _columns(self, names: tuple[str, ...]) -> tuple[int, ...] | None:
        """Return the positions of the features that the encoder reads; None where it is all."""
        if self.feature_groups is None and REGIME_LEVEL not in names:
            return None
        return columns_of(names, self.feature_groups or {category_of(name) for name in names})


@dataclass(frozen=True, eq=False)
class FoldData:
    """What a member learns from.

    Attributes:
        features: Scaled `[asset, time, feature]`, NaN where missing.
        targets: Labels on the same bars.
        fold: Origins of the training and validation spans; no label after them is read.
        config: Horizons and quantiles of the labels.
        symbols: Names of the assets, for messages.
        feature_names: Names of the features, by which groups are chosen; may be empty.
        timestamps: Opens of the bars, for messages.
    """

    features: Float32[np.ndarray, "asset time feature"]
    targets: Targets
    fold: Fold
    config: TargetConfig
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    timestamps: pd.DatetimeIndex | Sequence[object] | None = None


@dataclass(frozen=True)
class MemberTask:
    """One fit: which model with which settings.

    Attributes:
        name: Unique among the tasks of a fold.
        shuffle_labels: Permute the labels over time first: the control run, which must find nothing.
        feature_names: Names of the data's features; may be empty.
    """

    name: str
    forecaster: ForecasterConfig
    training: TrainingConfig
    shuffle_labels: bool = False
    feature_names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FittedMember:
    """A trained member: enough to rebuild it anywhere.

    Attributes:
        weights: Name -> array, as in the module's state.
        history: One list per figure, one entry per epoch.
        validation_loss: Of the best epoch, whose weights these are.
    """

    name: str
    forecaster: ForecasterConfig
    weights: dict[str, np.ndarray]
    history: dict[str, list[float]] = field(default_factory=dict)
    validation_loss: float = float("nan")
    seconds: float = 0.0

    def build(self) -> Forecaster:
        """Return the model in evaluation mode."""
        model = build_forecaster(self.forecaster)
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.weights.items()})
        return model.eval()


def save_fitted(path: Path, fitted: FittedMember) -> None:
    """Write a fitted member as one file, atomically."""
    write_file(path, pack_fitted(fitted))


def pack_fitted(fitted: FittedMember) -> bytes:
    """Return the content of a file with a fitted member."""
    document = {
        "name": fitted.name,
        "forecaster": fitted.forecaster.model_dump(mode="json"),
        "history": fitted.history,
        "validation_loss": fitted.validation_loss,
        "seconds": fitted.seconds,
    }
    return pack({name: torch.from_numpy(np.array(value)) for name, value in fitted.weights.items()}, document)


def load_fitted(path: Path) -> FittedMember:
    """Read what `save_fitted` wrote.

    Raises:
        DataError: The file is absent, damaged, or holds something else.
    """
    if not path.is_file():
        raise DataError(f"checkpoint {path} must be an existing file")
    return unpack_fitted(path.read_bytes(), path)


def unpack_fitted(content: bytes, path: str | Path) -> FittedMember:
    """Undo `pack_fitted`.

    Raises:
        DataError: The content is damaged or something else; the message names `path`.
    """
    tensors, document = unpack(content, path)
    try:
        forecaster = ForecasterConfig.model_validate(document.pop("forecaster"))
        return FittedMember(forecaster=forecaster, weights={name: value.numpy() for name, value in tensors.items()}, **document)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} must hold a fitted member: {error}") from error


def fit_member(
    data: FoldData,
    task: MemberTask,
    *,
    checkpoint_dir: Path | None = None,
    log_dir: Path | None = None,
    on_epoch_end: Callable[[EpochEnd], None] | None = None,
    on_checkpoint: Callable[[bytes], None] | None = None,
    resume: bytes | None = None,
    prepare_model: Callable[[nn.Module], nn.Module] | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> FittedMember:
    """Fit one member; a checkpoint in `checkpoint_dir` is resumed.

    The result depends on the data, the task and the number of torch threads alone. Several workers give, up to rounding and
    dropout, that of one with `world_size` times the batch size; each of them returns it.

    Args:
        data: What to learn from, whole on every worker.
        task: Which model with which settings; `batch_size` is per worker.
        checkpoint_dir: Where the first worker keeps checkpoints; none by default.
        log_dir: Where the first worker writes TensorBoard events; none by default.
        on_epoch_end: As for `fit`.
        on_checkpoint: As for `fit`.
        resume: Content of a checkpoint to go on from, instead of the one in `checkpoint_dir`.
        prepare_model: As for `fit`; not needed for data parallelism.
        device: Where to train; the CPU by default.
        progress: As for `fit`.
        rank: Number of this worker.
        world_size: Workers that fit this member together; more than one need torch.distributed's default process group.
    """
    labels = shuffled(data.targets, data.fold, task.training.seed) if task.shuffle_labels else data.targets
    with seeded(task.training.seed):
        model = build_forecaster(task.forecaster)
    _learn_regimes(model, data, labels)
    kept = checkpoint_dir is not None and (checkpoint_dir / CHECKPOINT_NAME).exists()
    result = fit(
        model,
        _loader(data, labels, task, data.fold.train, shuffle=True, shard=(rank, world_size)),
        _loader(data, labels, task, data.fold.validation, shuffle=False, shard=(rank, world_size)),
        task.training,
        on_epoch_end=on_epoch_end,
        on_checkpoint=on_checkpoint,
        prepare_model=prepare_model,
        resume=checkpoint_dir if resume is None and kept else resume,
        checkpoint_dir=checkpoint_dir,
        log_dir=log_dir,
        device=device,
        progress=progress,
        rank=rank,
        world_size=world_size,
    )
    weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return FittedMember(task.name, task.forecaster, weights, result.history, result.best_validation_loss, result.seconds)


def regime_columns(names: Sequence[str], columns: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return where the readings of the regime filter and their level stand, where a member that reads `columns` has all."""
    read = names if columns is None else [names[column] for column in columns]
    if REGIME_LEVEL not in names or not set(REGIME_READINGS) <= set(read):
        return None
    return tuple(names.index(name) for name in (*REGIME_READINGS, REGIME_LEVEL))


def _learn_regimes(model: Forecaster, data: FoldData, labels: Targets) -> None:
    """Fit the regime filter on the asset of the training span with the most readings; they are the same for all."""
    if model.regime is None:
        return
    readings = data.features[:, data.fold.train.bars][..., list(model.config.regime_columns or ())]
    asset = int(np.isfinite(readings).all(axis=-1).sum(axis=1).argmax())
    model.regime.learn(readings[asset], labels.regime[asset, data.fold.train.bars])


def member_loss(member: nn.Module, data: FoldData, task: MemberTask, span: Span) -> float:
    """Return the loss of a fitted member on the origins of a span, in the units of its validation loss.

    Raises:
        DataError: The span holds no label.
    """
    objective, device = objective_of(member, task.training), next(member.parameters()).device
    totals: dict[str, Tensor] = {}
    with torch.no_grad():  # unlike inference_mode it leaves nothing that training could not go on from
        for batch in _loader(data, data.targets, task, span, shuffle=False):
            for name, pair in objective.sums(member.eval(), batch.to(device)).items():
                totals[name] = totals.get(name, 0.0) + torch.stack(pair).double()
    means = {name: float(total / count) for name, (total, count) in totals.items() if count > 0}
    if not any(term in means for term in objective.terms):
        raise DataError(f"bars {span.start} to {span.stop - 1} must hold at least one label, had none")
    return objective.combined(means)


def _loader(
    data: FoldData, labels: Targets, task: MemberTask, span: Span, *, shuffle: bool, shard: tuple[int, int] = (0, 1)
) -> ChunkLoader:
    """Chunks whose loss-bearing origins are exactly those of the span that have `lookback` bars of history."""
    lookback, config = task.forecaster.lookback, task.training
    start = max(0, span.start - lookback + 1)
    chunk_bars = max(lookback, min(config.chunk_bars, span.stop - start))
    return ChunkLoader(
        data.features,
        labels,
        chunk_spans(data.features.shape[1], chunk_bars, lookback, start=start, stop=span.stop),
        batch_size=config.batch_size,
        target_config=data.config,
        shuffle=shuffle,
        random_phase=shuffle,
        seed=config.seed,
        symbols=data.symbols,
        timestamps=data.timestamps,
        shard=shard,
    )


def shuffled(targets: Targets, fold: Fold, seed: int) -> Targets:
    """Permute the labels over time inside each span, all assets alike, so that features and labels are independent.

    `sigma` and `threshold` stay: they are inputs of the normalisation, not labels.
    """
    order = np.arange(targets.sigma.shape[1])
    generator = np.random.default_rng(seed)
    for span in (fold.train, fold.validation):
        order[span.bars] = generator.permutation(order[span.bars])
    labels = {item.name: getattr(targets, item.name) for item in fields(targets)}
    kept = ("sigma", "threshold", "label_bars")
    return replace(targets, **{name: values[:, order] for name, values in labels.items() if name not in kept})
