"""A hyperparameter sweep around one member of the ensemble, judged by an inner walk-forward on the training span.

A trial fits its configuration on each inner fold: it learns from the fold's training span, stops by its validation span
and is judged on its test span. All three lie inside the training span of the outer fold; nothing after that is read. The
same trial runs in this process and on a cluster.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cryptoml.errors import ConfigError
from cryptoml.features.contract import category_of
from cryptoml.training.config import TrainingConfig
from cryptoml.training.identity import data_fingerprint
from cryptoml.training.member import FoldData, MemberTask
from cryptoml.training.search import Engine, search
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.search_space import SearchSpace
from cryptoml.training.study import Study
from cryptoml.training.sweep_trial import MemberObjective, Score, apply_parameters, features_read
from cryptoml.training.trial import SweepTrial

__all__ = ["SweepConfig", "best_parameters", "open_sweep", "run_sweep", "tuned_tasks"]

LOOP = ("dropout", "learning_rate", "weight_decay", "loss")
"""What a sweep varies by default: the training loop, not the shape of the model."""


class SweepConfig(SearchConfig):
    """How large a sweep is, where it looks and what it judges by."""

    max_epochs: int = Field(3, ge=1, description="Epochs per inner fold at most")
    num_folds: int = Field(3, ge=1, description="Folds of the inner walk-forward")
    test_fraction: float = Field(0.4, gt=0, lt=0.9, description="Share of the training span that the inner tests cover")
    space: SearchSpace = SearchSpace(search=LOOP)

    @field_validator("space", mode="before")
    @classmethod
    def _loop_by_default(cls, value: Any) -> Any:
        return {"search": LOOP} | dict(value) if isinstance(value, Mapping) else value

    def around(self, task: MemberTask) -> "SweepConfig":
        """Return the sweep around a task: what it does not search keeps the task's own value.

        Raises:
            ConfigError: Nothing is left to vary, or choices contradict each other or the task.
        """
        own = task.forecaster.model_dump() | task.training.model_dump()
        space = self.space.around(own, {category_of(name) for name in features_read(task)})
        if "lookback" in space.search and max(space.lookback) > task.forecaster.lookback:
            raise ConfigError(
                f"lookback of the search must be at most {task.forecaster.lookback}, which forecasts read; was {space.lookback}"
            )
        return self.model_copy(update={"space": space})


def open_sweep(
    folds: Sequence[FoldData],
    task: MemberTask,
    config: SweepConfig,
    *,
    folder: str | Path | None = None,
    storage: str | None = None,
    fresh: bool = False,
    on_end: Callable[[], None] | None = None,
) -> Study:
    """Open the study of a sweep; its name covers all but the number of trials, so that only the same sweep goes on.

    Args:
        folds: The inner folds.
        task: What is tuned; its seed is the sampler's too.
        config: As `around` gives it.
        folder: Where `study.db` and TensorBoard curves lie; in memory alone by default.
        storage: Optuna storage URL for another place than `study.db`.
        fresh: Discard an earlier study of the same sweep.
        on_end: Called after each trial whose end is recorded.

    Raises:
        ConfigError: The storage cannot be written, or nothing is left to vary.
    """
    return Study(
        config.space.require_variety().suggest,
        config,
        config.num_folds * config.max_epochs,
        seed=task.training.seed,
        folder=folder,
        storage=storage,
        name=f"sweep-{_fingerprint(folds, task, config)}",
        fresh=fresh,
        on_end=on_end,
    )


def run_sweep(
    folds: Sequence[FoldData],
    task: MemberTask,
    config: SweepConfig,
    study: Study | None = None,
    *,
    score: Score | None = None,
    engine: Engine | None = None,
) -> list[SweepTrial]:
    """Run what remains of a sweep; a failed trial is recorded and the others go on.

    Args:
        folds: The inner folds.
        task: What is tuned.
        config: As `around` gives it.
        study: As `open_sweep` gives it; a new one in memory by default.
        score: Judges trading, which the objectives `sharpe` and `drawdown` need.
        engine: Where trials run; one after the other in this process by default.

    Raises:
        ConfigError: Nothing has been started: an objective, the storage, or the number of trials is impossible.
        CryptomlError: Every trial failed; the message is that of the last.
    """
    if score is None and {"sharpe", "drawdown"} & set(config.objectives):
        raise ConfigError(f"objectives {config.objectives} need a score of trading, which no trial reports here")
    objective = MemberObjective(folds, task, config.max_epochs, config.objectives, score)
    return search(objective, study or open_sweep(folds, task, config), engine)


def _fingerprint(folds: Sequence[FoldData], task: MemberTask, config: SweepConfig) -> str:
    """Identify everything that a trial's outcome depends on."""
    settings = config.model_dump_json(exclude={"num_trials", "warm_start"})
    parts = [settings, repr(task), *(f"{data_fingerprint(data)} {data.fold}" for data in folds)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def best_parameters(trials: Sequence[SweepTrial]) -> dict[str, Any]:
    """Return the parameters of the best complete trial by the first objective; none where no trial completed."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    if not complete:
        return {}
    best = min(complete, key=lambda trial: (trial.cost, trial.number))
    return dict(best.parameters)


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
