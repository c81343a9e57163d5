"""Correlation of errors: what the mixture's Brier score is made of."""

import numpy as np
import pytest

from cryptoml.models.diversity import error_correlation


def draw(seed: int, members: int, samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(3), (members, samples)), generator.integers(0, 3, samples)


def test_is_that_of_numpy_on_all_classes() -> None:
    probabilities, labels = draw(0, 4)
    errors = (probabilities - np.eye(3)[labels]).reshape(4, -1)
    np.testing.assert_allclose(error_correlation(probabilities, labels), np.corrcoef(errors), atol=1e-12)


def test_gives_the_brier_score_of_a_mixture() -> None:
    probabilities, labels = draw(1, 3)
    weights = np.array([0.5, 0.3, 0.2])
    brier = (((probabilities - np.eye(3)[labels]) ** 2).sum(-1)).mean(-1)
    scale = weights * np.sqrt(brier)
    mixture = np.tensordot(weights, probabilities, 1)
    expected = ((mixture - np.eye(3)[labels]) ** 2).sum(-1).mean()
    assert scale @ error_correlation(probabilities, labels) @ scale == pytest.approx(expected)


def test_copies_are_fully_correlated_and_opposites_are_not() -> None:
    probabilities, labels = draw(2, 2)
    copied = error_correlation(np.stack([probabilities[0], probabilities[0], probabilities[1]]), labels)
    assert copied[0, 1] == pytest.approx(1.0)
    assert copied[0, 2] < 0.9
    assert copied.diagonal() == pytest.approx(1.0)


def test_members_without_error_correlate_with_nobody() -> None:
    probabilities, labels = draw(3, 2)
    probabilities[1] = np.eye(3)[labels]
    np.testing.assert_array_equal(error_correlation(probabilities, labels)[0], [1.0, 0.0])


def test_bad_inputs_are_named() -> None:
    probabilities, labels = draw(4, 2)
    for given, known in ((probabilities[0], labels), (probabilities, labels[:3]), (probabilities[:, :0], labels[:0])):
        with pytest.raises(ValueError, match=r"member_probabilities must be \[member, sample, class\]"):
            error_correlation(given, known)
