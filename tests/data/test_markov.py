"""The filter against all paths of a short chain."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_t

from cryptoml.data.markov import filter_states, sticky_transitions, student_evidence, with_hindsight

DURATIONS = (3.0, 5.0, 2.0)


@pytest.fixture
def evidence() -> np.ndarray:
    found = 2 * np.random.default_rng(0).standard_normal((7, 3))
    found[3, 1] = np.nan  # a bar that says nothing
    return found


def by_all_paths(evidence: np.ndarray, bar: int, last: int) -> np.ndarray:
    """P(state of a bar | bars up to `last`) by adding up every path of states; the state before the first bar is any."""
    step, totals = sticky_transitions(DURATIONS), np.zeros(3)
    for path in product(range(3), repeat=last + 1):
        weight = step[:, path[0]].mean()
        for t, state in enumerate(path):
            weight *= step[path[t - 1], state] if t else 1.0
            weight *= 1.0 if np.isnan(evidence[t]).any() else np.exp(evidence[t, state])
        totals[path[bar]] += weight
    return totals / totals.sum()


def test_transitions_keep_the_mean_durations() -> None:
    step = sticky_transitions(DURATIONS)
    np.testing.assert_allclose(step.sum(axis=1), 1)
    np.testing.assert_allclose(1 / (1 - np.diag(step)), DURATIONS)


@pytest.mark.parametrize("bars", [0, 1, 2, 10])
def test_probabilities_are_those_of_all_paths(evidence: np.ndarray, bars: int) -> None:
    step = sticky_transitions(DURATIONS)
    found = with_hindsight(filter_states(evidence, step), evidence, step, bars)
    expected = [by_all_paths(evidence, bar, min(bar + bars, 6)) for bar in range(7)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_evidence_is_that_of_a_student_t_of_the_scale() -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.standard_normal((50, 2)), np.array([0.5, 2.0])
    distance = (x[:, None] ** 2).sum(axis=-1) / scale**2
    truth = np.stack([multivariate_t(shape=s**2 * 3 / 5 * np.eye(2), df=5).logpdf(x) for s in scale], axis=1)
    found = student_evidence(distance, scale, 5, dimensions=2)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], truth[:, 0] - truth[:, 1], rtol=1e-10)
