"""Successive halving that never waits: at each rung a trial goes on if it is among the best of all that came there so far.

Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2, with two changes. Optuna's own rounds the
number that may go on down, which among few trials leaves but one; here it is rounded up. And a trial has to be among the best
of those that came to the rung lately as well: beside the first trials, which were drawn at random, almost all are good that a
sampler proposes which has learned, and almost none would end.
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
        own = trial.intermediate_values[step]
        return any(before < rung <= step and self._is_behind(study, trial, own, rung) for rung in self._rungs(step))

    def _rungs(self, last: int) -> list[int]:
        rungs = [self.grace]
        while rungs[-1] * self.reduction_factor <= last:
            rungs.append(rungs[-1] * self.reduction_factor)
        return rungs

    def _is_behind(self, study: Study, trial: FrozenTrial, own: float, rung: int) -> bool:
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        reached = [value for one in others if (value := _value_at(one, rung)) is not None]
        lately = reached[1 - LATELY * self.reduction_factor :]
        return self._are_ahead(reached, own) or self._are_ahead(lately, own)

    def _are_ahead(self, others: Sequence[float], own: float) -> bool:
        """Tell whether so many of the others are better that no place is left among the best."""
        return sum(value < own for value in others) >= math.ceil((len(others) + 1) / self.reduction_factor)


def _value_at(trial: FrozenTrial, rung: int) -> float | None:
    """Return a trial's value at its first step from a rung on; a fold that stopped early skips steps."""
    steps = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(steps)] if steps else None
