"""A study: configurations are asked and their outcomes told, one by one, and kept in storage that optuna-dashboard opens.

Optuna samples and prunes in memory, and each step is written through to the storage once: what a configuration costs does
not grow with the number of configurations. Two things bound it: a storage is read when the study is opened and never
again, and the sampler sees the best and the latest trials alone. TPE takes at most 25 trials for its good set
(Bergstra et al. 2011, sec. 4; Optuna's `default_gamma`); of the others the latest describe the background.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from cryptoml.training.search_config import OBJECTIVES, Direction, SearchConfig, make_pruner, make_sampler
from cryptoml.training.study_storage import INTERRUPTED, StudyStorage, stored_trials
from cryptoml.training.trial import Outcome, SweepTrial
from cryptoml.training.trial_arrays import TrialArrays
from cryptoml.training.trial_curves import TrialCurves

__all__ = ["Study", "Suggest"]

Suggest = Callable[[Any], dict[str, Any]]

BEST, LATEST, SLACK = 25, 375, 100
"""Finished trials that the sampler sees, and how many more before the oldest are dropped."""
WARM = 5
"""Configurations of an earlier study that are tried first."""


@dataclass
class _Running:
    """A trial between ask and tell: its ids in memory and in the storage, and the seconds spent on it so far."""

    id: int
    stored_id: int
    overhead: float = 0.0


class Study:
    """Trials of one search; whoever runs them asks, reports and tells.

    Args:
        suggest: Draws a configuration from an Optuna trial.
        config: How many trials, which sampler and pruner.
        max_steps: Steps that a whole trial reports at most; it is not pruned at the last.
        seed: Of the sampler.
        folder: Where the study's file, the TensorBoard curves and the arrays of its trials lie; in memory alone by default.
        storage: Optuna storage URL for another place than `study.db` in the folder, such as a PostgreSQL server.
        name: Name in the storage; a study that exists there goes on, and its finished trials count.
        fresh: Discard that study instead.
        on_end: Called after each trial whose end is recorded.

    Attributes:
        finished: Optuna's record of each trial, in the order in which they ended.

    Raises:
        ConfigError: The storage cannot be written, or holds a study of other objectives under this name.
    """

    def __init__(
        self,
        suggest: Suggest,
        config: SearchConfig,
        max_steps: int,
        *,
        seed: int = 0,
        folder: str | Path | None = None,
        storage: str | None = None,
        name: str = "search",
        fresh: bool = False,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.suggest, self.config, self.max_steps, self.seed, self.name = suggest, config, max_steps, seed, name
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = str(Path(folder) / "study.db") if storage is None and folder is not None else storage
        curves, arrays = (Path(folder) / kind / name if folder is not None else None for kind in ("tensorboard", "arrays"))
        for place in (curves, arrays):
            if fresh and place is not None:
                shutil.rmtree(place, ignore_errors=True)
        self._curves, self._arrays, self._on_end = TrialCurves(curves), TrialArrays(arrays), on_end
        self._storage = StudyStorage(storage, name, config.objectives, fresh=fresh) if storage is not None else None
        self.finished, repeated = self._storage.load() if self._storage is not None else ([], [])
        self._running: dict[int, _Running] = {}
        self._next = len(self.finished)
        self._open_window([], repeated)

    @property
    def remaining(self) -> int:
        """Trials that are still to be asked for; those that an interruption ended do not count."""
        counted = sum(trial.user_attrs.get("reason") != INTERRUPTED for trial in self.finished)
        return max(0, self.config.num_trials - counted - len(self._running))

    @property
    def trials(self) -> list[SweepTrial]:
        """All finished trials by number."""
        ordered = sorted(self.finished, key=lambda trial: trial.number)
        return [SweepTrial.of(trial, self.config.objectives) for trial in ordered]

    def arrays(self, name: str) -> dict[int, np.ndarray]:
        """Return the arrays of that name which complete trials left, by the number of the trial."""
        complete = (trial.number for trial in self.finished if trial.state == TrialState.COMPLETE)
        found = {number: self._arrays.of(number) for number in sorted(complete)}
        return {number: kept[name] for number, kept in found.items() if name in kept}

    def warm_start(self) -> None:
        """Have the best configurations of the earlier studies tried first, in a study that is new.

        Of each study those count that were judged by as many objectives; parameters that the space does not hold are sampled.

        Raises:
            ConfigError: An earlier study cannot be read.
        """
        earlier = [found for address in self.config.warm_start for found in stored_trials(address)]
        if self.finished:
            return
        for directions, trials in earlier:
            for trial in best_of(trials, self._directions, WARM) if directions == self._directions else []:
                self._window.enqueue_trial(allowed(self.suggest, trial.params), skip_if_exists=True)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the parameters of a new trial.

        Raises:
            CryptomlError: As all that writes: the storage is full or gone.
        """
        started = time.perf_counter()
        trial = self._window.ask()
        parameters = self._suggested(trial)
        stored_id = self._storage.begin(self._memory.get_trial(trial._trial_id)) if self._storage is not None else -1
        number, self._next = self._next, self._next + 1
        self._running[number] = _Running(trial._trial_id, stored_id, time.perf_counter() - started)
        return number, parameters

    def _suggested(self, trial: optuna.Trial) -> dict[str, Any]:
        parameters = self.suggest(trial)
        if parameters != trial.params:
            trial.set_user_attr("parameters", parameters)
        return parameters

    def report(self, number: int, step: int, value: float) -> bool:
        """Record the loss of a trial after a step, once; returns whether the trial should end here.

        Optuna keeps no steps of trials with several objectives; they have their curve in TensorBoard.
        """
        started, run = time.perf_counter(), self._running[number]
        if len(self.config.objectives) > 1:
            self._curves.add(number, step, value)
            return False
        if step in self._memory.get_trial(run.id).intermediate_values:
            return False
        self._memory.set_trial_intermediate_value(run.id, step, value)
        if self._storage is not None:
            self._storage.report(run.stored_id, step, value)
        self._curves.add(number, step, value)
        stop = step < self.max_steps and self._window.pruner.prune(self._window, self._memory.get_trial(run.id))
        run.overhead += time.perf_counter() - started
        return stop

    def tell(self, number: int, outcome: Outcome) -> SweepTrial:
        """Record how a trial ended."""
        started, run = time.perf_counter(), self._running.pop(number)
        state = TrialState[outcome.state]
        values = [outcome.values[name] for name in self.config.objectives] if state == TrialState.COMPLETE else None
        trial = self._window.tell(self._memory.get_trial(run.id).number, values, state)
        trial.number = number
        self._curves.end(SweepTrial.of(trial, self.config.objectives))
        overhead = run.overhead + time.perf_counter() - started
        trial.set_user_attr("run", outcome.facts | {"searcher_seconds": overhead})
        if outcome.reason:
            trial.set_user_attr("reason", outcome.reason)
        if outcome.arrays:
            self._arrays.keep(number, outcome.arrays)
        if self._storage is not None:
            self._storage.end(run.stored_id, trial)
        self.finished.append(trial)
        self._forget_old()
        if self._on_end is not None:
            self._on_end()
        return SweepTrial.of(trial, self.config.objectives)

    def interrupt(self) -> None:
        """Record that the running trials will not end: FAIL, to be repeated when the study goes on."""
        for number in list(self._running):
            self.tell(number, Outcome("FAIL", reason=INTERRUPTED))

    def as_optuna(self) -> optuna.Study:
        """Return a copy of the finished trials as an Optuna study in memory, for its charts."""
        study = optuna.create_study(directions=self._directions, study_name=self.name)
        study.add_trials(sorted(self.finished, key=lambda trial: trial.number))
        return study

    @property
    def _directions(self) -> list[Direction]:
        return [OBJECTIVES[name] for name in self.config.objectives]

    def _open_window(self, running: Sequence[tuple[_Running, FrozenTrial]], waiting: Sequence[Mapping[str, Any]]) -> None:
        """Start the study that the sampler sees: chosen finished trials, the running and the waiting ones.

        The sampler is new as well, with a seed that depends on the position, lest a study that goes on draws the same again.
        """
        self._memory = InMemoryStorage()
        self._window = optuna.create_study(
            storage=self._memory,
            study_name=self.name,
            directions=self._directions,
            sampler=make_sampler(self.config, self.seed + self._next),
            pruner=make_pruner(self.config, self.max_steps),
        )
        self._window.add_trials(self._chosen())
        for run, trial in running:
            self._window.add_trial(trial)
            run.id = self._window.get_trials(deepcopy=False)[-1]._trial_id
        for parameters in waiting:
            self._window.enqueue_trial(dict(parameters))

    def _chosen(self) -> list[FrozenTrial]:
        """Return the best of the old trials and all of the latest."""
        return best_of(self.finished[:-LATEST], self._directions, BEST) + self.finished[-LATEST:]

    def _forget_old(self) -> None:
        if len(self._window.get_trials(deepcopy=False)) - len(self._running) < BEST + LATEST + SLACK:
            return
        running = [(run, self._memory.get_trial(run.id)) for run in self._running.values()]
        waiting = self._window.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._open_window(running, [trial.system_attrs["fixed_params"] for trial in waiting])


def best_of(trials: Sequence[FrozenTrial], directions: Sequence[Direction], count: int) -> list[FrozenTrial]:
    """Return the best complete trials by the first objective."""
    sign = -1 if directions[0] == "maximize" else 1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: sign * trial.values[0])[:count]


def allowed(suggest: Suggest, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a search space holds, names and values."""
    recall = _Recall(parameters)
    suggest(recall)
    return recall.allowed


class _Recall:
    """Stands in for an Optuna trial and remembers which of some parameters the space would allow."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters, self.allowed = parameters, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Allow a value that is among the choices."""
        return self._take(name, choices[0], self.parameters.get(name) in choices)

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        """Allow a value between two numbers."""
        value = self.parameters.get(name)
        return self._take(name, low, isinstance(value, int | float) and low <= value <= high)

    suggest_int = suggest_float

    def _take(self, name: str, otherwise: Any, fits: bool) -> Any:
        if name in self.parameters and fits:
            self.allowed[name] = self.parameters[name]
        return self.allowed.get(name, otherwise)
