"""Successive halving that never waits: at each rung a trial goes on if it is among the best of all that came there so far.

Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2, with three changes. Optuna's own rounds the
number that may go on down, which among few trials leaves but one; here it is rounded up. A trial has to be among the best
of those that came to the rung lately as well: beside the first trials, which were drawn at random, almost all are good that a
sampler proposes which has learned, and almost none would end. And from a later rung no more trials go on than would
from the one after it if all were halved in step, and always the best one: those that come first, and those that beat all before
them, pass anyway, so that each rung would let more than its share go on, at most of the cost of a trial.
"""

import math
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

__all__ = ["SuccessiveHalving"]

LATELY = 3
"""So many times `reduction_factor` are the trials that came to a rung lately."""


class SuccessiveHalving(BasePruner):
    """Ends trials that are not among the best 1 in `reduction_factor` at their first step from each rung on, of all and lately.

    Args:
        grace: Step of the first rung; each other is `reduction_factor` times the one before.
        reduction_factor: One trial in this many goes on.
    """

    def __init__(self, grace: int, reduction_factor: int) -> None:
        self.grace, self.reduction_factor = grace, reduction_factor

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Tell whether a trial that minimises should end after its last step."""
        step = trial.last_step
        if step is None:
            return False
        before = max((earlier for earlier in trial.intermediate_values if earlier < step), default=-1)
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        own, rungs = trial.intermediate_values[step], self._rungs(step)
        return any(before < rung <= step and self._is_behind(others, own, rungs[: index + 1]) for index, rung in enumerate(rungs))

    def _rungs(self, last: int) -> list[int]:
        rungs = [self.grace]
        while rungs[-1] * self.reduction_factor <= last:
            rungs.append(rungs[-1] * self.reduction_factor)
        return rungs

    def _is_behind(self, others: Sequence[FrozenTrial], own: float, rungs: Sequence[int]) -> bool:
        """Tell whether the others leave no place for a trial at the last of these rungs."""
        reached = _values_at(others, rungs[-1])
        lately = reached[1 - LATELY * self.reduction_factor :]
        if _ahead(lately, own) >= self._share(len(lately) + 1):
            return True
        places = self._share(len(reached) + 1)
        if len(rungs) > 1:
            started = len(_values_at(others, rungs[0])) + 1
            places = min(places, max(1, started // self.reduction_factor ** (len(rungs) + 1)))
        return _ahead(reached, own) >= places

    def _share(self, trials: int) -> int:
        return math.ceil(trials / self.reduction_factor)


def _ahead(others: Sequence[float], own: float) -> int:
    return sum(value < own for value in others)


def _values_at(trials: Sequence[FrozenTrial], rung: int) -> list[float]:
    return [value for trial in trials if (value := _value_at(trial, rung)) is not None]


def _value_at(trial: FrozenTrial, rung: int) -> float | None:
    """Return a trial's value at its first step from a rung on; a fold that stopped early skips steps."""
    steps = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(steps)] if steps else None
