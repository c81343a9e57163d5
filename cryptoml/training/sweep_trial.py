"""A trial of the sweep: one configuration of a member, fitted and judged on every inner fold."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from cryptoml.errors import ConfigError
from cryptoml.features.contract import category_of
from cryptoml.features.selection import columns_of
from cryptoml.models.forecaster import Forecaster, ForecasterConfig
from cryptoml.training.config import EpochEnd
from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member, member_loss
from cryptoml.training.search_space import switch
from cryptoml.training.trial import Report, Worker

__all__ = ["RETURNS", "MemberObjective", "Score", "apply_parameters", "features_read"]

TIMED_FORECASTS = 20

RETURNS = "returns"
"""Name of the net returns per bar of trading on a trial."""

Score = Callable[[Forecaster, FoldData], Mapping[str, float | np.ndarray]]
"""Judges a fitted member on the test span of its fold: `sharpe`, `drawdown`, and the `returns` of each bar."""


def features_read(task: MemberTask) -> list[str]:
    """Return the names of the features that a task reads; none where they are not known."""
    columns = task.forecaster.columns
    return [name for index, name in enumerate(task.feature_names) if columns is None or index in columns]


def apply_parameters(task: MemberTask, parameters: Mapping[str, Any]) -> MemberTask:
    """Return the task with tuned settings of the model, of its features and of the training loop.

    Raises:
        ConfigError: A parameter is unknown or does not fit the others.
    """
    model_fields, loop_fields = type(task.forecaster).model_fields, type(task.training).model_fields
    categories = dict.fromkeys(category_of(name) for name in features_read(task))
    switches = {switch(category): category for category in categories}
    unknown = sorted(set(parameters) - set(model_fields) - set(loop_fields) - set(switches))
    if unknown:
        raise ConfigError(f"hyperparameter {unknown[0]!r} is neither a setting of the model nor of the training loop")
    model = {name: value for name, value in parameters.items() if name in model_fields}
    loop = {name: value for name, value in parameters.items() if name in loop_fields}
    left_out = {switches[name] for name in switches if not parameters.get(name, True)}
    if left_out:
        model["columns"] = columns_of(task.feature_names, [one for one in categories if one not in left_out])
    try:
        forecaster = ForecasterConfig.model_validate(task.forecaster.model_dump() | model)
    except ValidationError as error:
        raise ConfigError(f"hyperparameters {model} do not fit: {error.errors()[0]['msg']}") from error
    return replace(task, forecaster=forecaster, training=task.training.updated(**loop))


@dataclass(frozen=True, eq=False)
class MemberObjective:
    """A trial of the sweep: fit on every inner fold, and average what the tests show.

    The folds come in order of time: the first learns from the fewest bars, so that a configuration is known for little. Trials
    are compared while they run by what they are judged by in the end, the loss on the tests so far.

    Attributes:
        folds: The inner folds, in order of time.
        task: What a configuration is applied to.
        max_epochs: Epochs per fold at most.
        objectives: What to return, by name.
        score: Gives the figures of trading, where they are asked for.
    """

    folds: Sequence[FoldData]
    task: MemberTask
    max_epochs: int
    objectives: Sequence[str] = ("loss",)
    score: Score | None = None

    def __call__(self, parameters: Mapping[str, Any], report: Report, worker: Worker) -> dict[str, float | np.ndarray]:
        """Fit and judge.

        Reports after each epoch of each fold the mean loss on the tests of the folds so far, each with the weights that did
        best on its validation span, and the same at the end of a fold that stopped early: a fold's last step is
        `max_epochs` times its number for every trial.

        Returns the objectives, and the score's returns per bar over the tests of all folds where there is a score.

        Raises:
            DataError: A loss is not finite.
            ConfigError: The parameters do not fit each other.
        """
        task = apply_parameters(self.task, parameters)
        task = replace(task, training=task.training.updated(max_epochs=self.max_epochs))
        found, losses = list[dict[str, Any]](), list[float]()
        for index, data in enumerate(self.folds):

            def after_epoch(end: EpochEnd, index: int = index, data: FoldData = data) -> None:
                if end.improved:
                    losses[index:] = [member_loss(end.model, data, task, data.fold.test)]
                report(index * self.max_epochs + end.epoch, float(np.mean(losses)))

            fitted = self._fit(data, task, after_epoch, worker)
            if len(fitted.history["val_loss"]) < self.max_epochs:
                report((index + 1) * self.max_epochs, float(np.mean(losses)))
            found.append({"loss": losses[index]} | self._judge(fitted.build(), data, worker))
        joined: dict[str, float | np.ndarray] = {name: float(np.mean([one[name] for one in found])) for name in self.objectives}
        if "drawdown" in self.objectives:
            joined["drawdown"] = max(one["drawdown"] for one in found)
        if all(RETURNS in one for one in found):
            joined[RETURNS] = np.concatenate([one[RETURNS] for one in found])
        return joined

    def _fit(self, data: FoldData, task: MemberTask, after_epoch: Callable[[EpochEnd], None], worker: Worker) -> FittedMember:
        return fit_member(
            data,
            task,
            on_epoch_end=after_epoch,
            device=worker.device,
            progress=False,
            rank=worker.rank,
            world_size=worker.world_size,
        )

    def _judge(self, member: Forecaster, data: FoldData, worker: Worker) -> dict[str, Any]:
        """Return what else the objectives and the score want to know of a fitted member, on the fold's test span."""
        member = member.to(worker.device or "cpu")
        values: dict[str, Any] = {"latency": _latency(member, data)} if "latency" in self.objectives else {}
        return values | dict(self.score(member, data)) if self.score is not None else values


def _latency(member: Forecaster, data: FoldData) -> float:
    """Return the median milliseconds of one forecast for all assets, from a full window."""
    device = next(member.parameters()).device
    stop = data.fold.test.stop
    window = torch.tensor(data.features[None, :, max(0, stop - member.config.lookback) : stop], device=device)
    present = ~window.isnan()
    seconds = []
    with torch.inference_mode():
        for _ in range(TIMED_FORECASTS):
            started = time.perf_counter()
            member(window, present).direction.cpu()
            seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))
