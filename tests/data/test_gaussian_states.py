"""Expectation maximisation against a chain whose parameters are known, and against filtering by hand."""

import numpy as np
import pytest

from cryptoml.data.gaussian_states import GaussianStates, fit_states
from cryptoml.data.markov import sticky_transitions

TRUTH = GaussianStates(
    np.array([[0.0, -1.0], [0.3, 0.0], [-0.3, 1.0]]),
    np.array([[0.5, 0.4], [1.0, 0.4], [1.5, 0.4]]),
    sticky_transitions([60.0] * 3),
)


@pytest.fixture(scope="module")
def readings() -> np.ndarray:
    rng = np.random.default_rng(0)
    states = np.repeat(rng.permutation(np.tile(np.arange(3), 60)), 60)
    found = TRUTH.means[states] + TRUTH.deviations[states] * rng.standard_normal((len(states), 2))
    found[::97] = np.nan
    return found


def start(readings: np.ndarray) -> GaussianStates:
    lower, middle, upper = np.nanquantile(readings[:, 1], (0.2, 0.5, 0.8))
    means = np.array([[0.0, lower], [0.0, middle], [0.0, upper]])
    return GaussianStates(means, np.ones((3, 2)), sticky_transitions([20.0] * 3))


def test_parameters_are_recovered(readings) -> None:
    found = fit_states(readings, [start(readings)], prior_bars=100)
    np.testing.assert_allclose(found.means, TRUTH.means, atol=0.08)
    np.testing.assert_allclose(found.deviations, TRUTH.deviations, rtol=0.05)
    np.testing.assert_allclose(found.transitions.sum(axis=1), 1)
    assert (np.diag(found.transitions) > 0.97).all()


def test_a_shared_deviation_is_one(readings) -> None:
    found = fit_states(readings, [start(readings)], prior_bars=100, shared=(1,))
    np.testing.assert_allclose(found.deviations[:, 1], 0.4, rtol=0.03)
    assert len(set(found.deviations[:, 1])) == 1


def test_steps_never_lower_the_likelihood(readings) -> None:
    from cryptoml.data.gaussian_states import _expected, _segments

    values = [
        _expected(_segments(readings), fit_states(readings, [start(readings)], prior_bars=1e-9, max_steps=n))[2] for n in range(6)
    ]
    assert (np.diff(values) > -1e-6).all()


def test_a_strong_prior_keeps_the_transitions(readings) -> None:
    found = fit_states(readings, [start(readings)], prior_bars=1e9)
    np.testing.assert_allclose(found.transitions, sticky_transitions([20.0] * 3), atol=1e-4)


def test_order_of_states_is_a_name_only() -> None:
    order = [2, 0, 1]
    readings = np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_array_equal(TRUTH.in_order(order).evidence(readings), TRUTH.evidence(readings)[:, order])


def test_the_likeliest_of_several_tops_is_kept(readings) -> None:
    bad = GaussianStates(np.zeros((3, 2)), np.ones((3, 2)), sticky_transitions([20.0] * 3))
    alone = fit_states(readings, [start(readings)], prior_bars=100)
    np.testing.assert_array_equal(fit_states(readings, [bad, start(readings)], prior_bars=100).means, alone.means)
