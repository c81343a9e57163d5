"""Successive halving: at each rung one trial in so many goes on, rounded up, whenever it comes there."""

import optuna
import pytest

from cryptoml.training.halving import SuccessiveHalving


def stopped_at(curves: list[dict[int, float]], grace: int = 1, factor: int = 3) -> list[int]:
    """Run trials one after the other; returns the step at which each was ended, 0 where it came to its end."""
    study = optuna.create_study(pruner=SuccessiveHalving(grace, factor))
    found = []
    for curve in curves:
        trial = study.ask()
        for step, value in curve.items():
            trial.report(value, step)
            if trial.should_prune():
                found.append(step)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            found.append(0)
            study.tell(trial, min(curve.values()))
    return found


def flat(value: float, steps: int = 9) -> dict[int, float]:
    return dict.fromkeys(range(1, steps + 1), value)


def test_a_third_goes_on_rounded_up() -> None:
    assert stopped_at([flat(1.0), flat(2.0), flat(3.0), flat(2.0), flat(0.5), flat(1.0)]) == [0, 1, 1, 3, 0, 9]


def test_steps_between_rungs_are_not_compared() -> None:
    assert stopped_at([flat(1.0, 2), {1: 1.0, 2: 9.0}]) == [0, 0]


def test_the_first_step_from_a_rung_on_stands_for_it() -> None:
    assert stopped_at([{1: 1.0, 2: 1.0, 5: 0.5}, {1: 1.0, 2: 1.0, 4: 0.6}]) == [0, 4]


@pytest.mark.parametrize("grace", [2, 4])
def test_nothing_ends_before_the_first_rung(grace: int) -> None:
    assert stopped_at([flat(1.0), flat(2.0)], grace=grace) == [0, grace]


def test_equal_trials_all_go_on() -> None:
    assert stopped_at([flat(1.0)] * 4) == [0] * 4
