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
    assert stopped_at([flat(1.0), flat(2.0), flat(3.0), flat(2.0), flat(0.5), flat(1.0)]) == [0, 1, 1, 3, 0, 3]


def test_steps_between_rungs_are_not_compared() -> None:
    assert stopped_at([flat(1.0, 2), {1: 1.0, 2: 9.0}]) == [0, 0]


def test_the_first_step_from_a_rung_on_stands_for_it() -> None:
    assert stopped_at([{1: 1.0, 2: 1.0, 5: 0.5}, {1: 1.0, 2: 1.0, 4: 0.6}]) == [0, 4]


@pytest.mark.parametrize("grace", [2, 4])
def test_nothing_ends_before_the_first_rung(grace: int) -> None:
    assert stopped_at([flat(1.0), flat(2.0)], grace=grace) == [0, grace]


def test_beside_a_sampler_that_learns_one_in_so_many_goes_on_still() -> None:
    """After nine poor trials every good one is among the best of all; still not all of them may pass for that."""
    poor = [flat(10.0 + number, 2) for number in range(9)]
    good = [flat(1.0 + (number * 7 % 12) / 100, 2) for number in range(12)]
    late = stopped_at(poor + good)[len(poor) :]
    assert late[0] == 0
    assert 3 <= late.count(0) <= 7
    assert late[-3:] == [0, 1, 1]


def test_from_a_later_rung_few_but_the_best_go_on() -> None:
    """Each that comes there is better than most that came before."""
    poor = [flat(10.0 + number, 3) for number in range(12)]
    better = [flat(value, 9) for value in (1.0, 0.9, 0.8, 0.85, 0.87, 0.89)]
    assert stopped_at(poor + better)[len(poor) :] == [0, 0, 0, 3, 3, 1]


def test_the_best_of_all_always_goes_on() -> None:
    curves = [flat(value) for value in (5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1)]
    assert stopped_at(curves) == [0] * 10


def test_equal_trials_all_go_on() -> None:
    assert stopped_at([flat(1.0)] * 4) == [0] * 4
