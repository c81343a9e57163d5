"""Train a bot's model from historical data: the pipeline, stage by stage in this process, resumable, stopped on request."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (a first optimizer step loads it, which would hold the interpreter in a running loop)

from cryptoml.config import ExperimentConfig
from cryptoml.data.market import Market
from cryptoml.data.panel import Panel
from cryptoml.errors import ConfigError
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.selection import CORE_FEATURES
from cryptoml.pipeline import Pipeline, Stages
from cryptoml.training.config import EpochEnd
from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member
from cryptoml.training.member_curves import OnMemberEpoch

__all__ = ["TrainingStoppedError", "chosen_features", "train_bundle"]


class TrainingStoppedError(Exception):
    """Training was asked to stop; what is finished is kept, and the same call goes on from there."""


def train_bundle(
    market: Market,
    config: ExperimentConfig,
    folder: Path,
    *,
    device: str = "cpu",
    optimize: bool = False,
    on_epoch_end: Callable[[str, EpochEnd], object] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train on all bars but the last ones, which a purged split needs; publish `folder/bundle` and return the history.

    An interrupted training goes on when it is given the same data and settings again.

    Args:
        market: The data.
        config: The experiment.
        folder: Holds unfinished stages, and in the end `bundle`.
        device: Where the members are trained.
        optimize: Search hyperparameters first.
        on_epoch_end: Called with the member's name after each epoch.
        should_stop: Asked after each epoch.

    Returns:
        The history of the member with the largest weight, one list per figure (`train_loss`, `val_loss`, ...), under
        `members` that of every member by name, under `weights` theirs in the ensemble, and under `best_parameters` what the
        search found.

    Raises:
        ConfigError: The data is too short for the settings.
        TrainingStoppedError: It was asked to stop.
    """
    if not optimize:
        config = config.updated(sweep={"num_trials": 0})
    until = market.panel.timestamps[-config.targets.horizons[-1] - 1 :][0]
    stages = Stages(fit=_fit_stage(device, on_epoch_end, should_stop))
    pipeline = Pipeline.open(config, market, folder, train_end=until, stages=stages)
    with pipeline.run as run:
        last = pipeline.train()
        parameters = dict(pipeline.walk.parameters)
        run.finish()
    weights = dict(zip((one.name for one in last.fitted), last.ensembles[0].weights, strict=True))
    heaviest = max(last.fitted, key=lambda one: weights[one.name])
    return {
        **heaviest.history,
        "members": {one.name: one.history for one in last.fitted},
        "weights": weights,
        "best_parameters": parameters,
    }


def chosen_features(panel: Panel, size: int) -> tuple[str, ...]:
    """Return that many features which the data can fill: the core ones first, then the others in the catalogue's order.

    Raises:
        ConfigError: The data fills fewer.
    """
    engineer = AdvancedFeatureEngineer({"timeframe": panel.timeframe})
    bars = [bars_from_panel(panel, symbol) for symbol in panel.symbols]
    filled = {name for one in engineer.features for name in one.inputs if any(part.has(name) for part in bars)}
    usable = [one.name for one in (*engineer.features, *engineer.panel_features) if set(one.inputs) <= filled]
    if size > len(usable):
        raise ConfigError(f"input_size must be at most {len(usable)}, the features that this data can fill, was {size}")
    core = [name for name in usable if any(fnmatchcase(name, pattern) for pattern in CORE_FEATURES)]
    return tuple([*core, *(name for name in usable if name not in core)][:size])


def _fit_stage(
    device: str, on_epoch_end: Callable[[str, EpochEnd], object] | None, should_stop: Callable[[], bool]
) -> Callable[[FoldData, Sequence[MemberTask], str, OnMemberEpoch], list[FittedMember]]:
    def fit(data: FoldData, tasks: Sequence[MemberTask], folder: str, on_epoch: OnMemberEpoch) -> list[FittedMember]:
        return [_fit_one(data, task, Path(folder) / task.name, on_epoch) for task in tasks]

    def _fit_one(data: FoldData, task: MemberTask, folder: Path, on_epoch: OnMemberEpoch) -> FittedMember:
        def hear(epoch: EpochEnd) -> None:
            on_epoch(task.name, epoch.epoch, epoch.metrics)
            if on_epoch_end is not None:
                on_epoch_end(task.name, epoch)
            if should_stop():
                raise TrainingStoppedError(f"training stopped after epoch {epoch.epoch} of {task.name}")

        return fit_member(data, task, checkpoint_dir=folder, device=device, on_epoch_end=hear)

    return fit
