"""A hyperparameter sweep: the trial as a plain function, and Optuna in one process.

A trial learns from the training span and is scored on the validation span of one fold; no test bar is read. The same
`suggest` function feeds this module and the cluster's sweep.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.models.forecaster import ForecasterConfig
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.member import FoldData, MemberTask, fit_member
from cryptoml.training.search_space import SearchSpace

__all__ = ["SweepConfig", "SweepTrial", "apply_parameters", "best_parameters", "run_sweep", "run_trial", "tuned_tasks"]

logger = logging.getLogger(__name__)


class SweepConfig(BaseModel):
    """How large a sweep is and where it looks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_trials: int = Field(4, ge=0, description="Configurations to try; 0 skips the sweep")
    max_epochs: int = Field(3, ge=1, description="Epochs per trial at most")
    space: SearchSpace = SearchSpace()
    shapes: bool = Field(False, description="Search the model's shape and the batch size too, not only the training loop")

    def around(self, task: MemberTask) -> "SweepConfig":
        """Return the sweep around a task: what it does not search keeps the task's own value."""
        own = task.forecaster.model_dump() | task.training.model_dump()
        kept = ("architecture", "lookback", *(() if self.shapes else ("hidden_size", "num_heads", "num_layers", "batch_size")))
        fixed = {name: own[name] for name in kept}
        space = SearchSpace.model_validate(self.space.model_dump() | {name: (value,) for name, value in fixed.items()})
        return self.model_copy(update={"space": space})


@dataclass(frozen=True)
class SweepTrial:
    """One tried configuration.

    Attributes:
        loss: Validation loss; None where the trial failed.
        state: COMPLETE, PRUNED or FAIL.
    """

    number: int
    parameters: dict[str, Any]
    loss: float | None
    seconds: float
    state: str = "COMPLETE"

    def row(self) -> dict[str, Any]:
        """Return plain values for a table or JSON."""
        return asdict(self)


def apply_parameters(task: MemberTask, parameters: Mapping[str, Any]) -> MemberTask:
    """Return the task with tuned settings of the model and of the training loop.

    Raises:
        ConfigError: A parameter is unknown or does not fit the others.
    """
    model_fields, loop_fields = type(task.forecaster).model_fields, type(task.training).model_fields
    unknown = sorted(set(parameters) - set(model_fields) - set(loop_fields))
    if unknown:
        raise ConfigError(f"hyperparameter {unknown[0]!r} is neither a setting of the model nor of the training loop")
    model = {name: value for name, value in parameters.items() if name in model_fields}
    loop = {name: value for name, value in parameters.items() if name not in model_fields}
    try:
        forecaster = ForecasterConfig.model_validate(task.forecaster.model_dump() | model)
    except ValidationError as error:
        raise ConfigError(f"hyperparameters {model} do not fit: {error.errors()[0]['msg']}") from error
    return replace(task, forecaster=forecaster, training=task.training.updated(**loop))


def run_trial(
    data: FoldData,
    task: MemberTask,
    parameters: Mapping[str, Any],
    max_epochs: int,
    on_epoch_end: Callable[[EpochEnd], None] | None = None,
) -> float:
    """Fit one configuration for a few epochs; return its best validation loss."""
    trial = apply_parameters(task, parameters)
    trial = replace(trial, training=trial.training.updated(max_epochs=max_epochs))
    return fit_member(data, trial, on_epoch_end=on_epoch_end, progress=False).validation_loss


def run_sweep(data: FoldData, task: MemberTask, config: SweepConfig) -> list[SweepTrial]:
    """Try configurations one after the other in this process; a failed one is recorded and the rest go on.

    Raises:
        CryptomlError: Every trial failed; the message is that of the last.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=task.training.seed))
    trials: list[SweepTrial] = []
    failure: CryptomlError | None = None
    for number in tqdm(range(config.num_trials), desc="sweep", unit="trial", disable=None, leave=False):
        trial, started = study.ask(), time.perf_counter()
        parameters = config.space.suggest(trial)
        try:
            loss: float | None = run_trial(data, task, parameters, config.max_epochs)
            study.tell(trial, loss)
        except CryptomlError as error:
            loss, failure = None, error
            logger.warning("trial %d of the sweep failed: %s", number, error)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        state = "FAIL" if loss is None else "COMPLETE"
        trials.append(SweepTrial(number, parameters, loss, time.perf_counter() - started, state))
    if failure is not None and all(trial.loss is None for trial in trials):
        raise CryptomlError(f"every trial of the sweep failed, the last with: {failure}") from failure
    return trials


def best_parameters(trials: Sequence[SweepTrial]) -> dict[str, Any]:
    """Return the parameters of the lowest loss; none where no trial completed."""
    finished = [trial for trial in trials if trial.state == "COMPLETE" and trial.loss is not None]
    return dict(min(finished, key=lambda trial: (trial.loss, trial.number)).parameters) if finished else {}


def tuned_tasks(tasks: Sequence[MemberTask], parameters: Mapping[str, Any], own_rates: Sequence[bool]) -> list[MemberTask]:
    """Return the tasks with what a sweep around the first one found.

    The others are models of another kind: they share what concerns the training loop, not the shape.

    Args:
        tasks: The first is the one that was swept.
        parameters: The best trial's.
        own_rates: Whether each task keeps its own learning rate.
    """
    loop = {name: value for name, value in parameters.items() if name in TrainingConfig.model_fields}
    tuned = []
    for index, (task, own_rate) in enumerate(zip(tasks, own_rates, strict=True)):
        given = dict(parameters if index == 0 else loop)
        if own_rate:
            given.pop("learning_rate", None)
        tuned.append(apply_parameters(task, given))
    return tuned
