"""Successive halving that never waits: at each rung a trial goes on if it is among the best of all that came there so far.

Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2. Optuna's own rounds the number that may go
on down, which among few trials leaves but one; here it is rounded up.
"""

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

__all__ = ["SuccessiveHalving"]


class SuccessiveHalving(BasePruner):
    """Ends trials that are not among the best 1 in `reduction_factor` at their first step from each rung on.

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
        return any(before < rung <= step and self._is_behind(study, own, rung) for rung in self._rungs(step))

    def _rungs(self, last: int) -> list[int]:
        rungs = [self.grace]
        while rungs[-1] * self.reduction_factor <= last:
            rungs.append(rungs[-1] * self.reduction_factor)
        return rungs

    def _is_behind(self, study: Study, own: float, rung: int) -> bool:
        reached = [value for one in study.get_trials(deepcopy=False) if (value := _value_at(one, rung)) is not None]
        return sum(value < own for value in reached) >= math.ceil(len(reached) / self.reduction_factor)


def _value_at(trial: FrozenTrial, rung: int) -> float | None:
    """Return a trial's value at its first step from a rung on; a fold that stopped early skips steps."""
    steps = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(steps)] if steps else None
