"""Weights, temperature and quantile shifts on validation predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.models.calibration import conformal_shifts, convex_weights, fit_temperature, log_loss, prudent_weights, tempered


def draw(seed: int, members: int, samples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(3), (members, samples)), generator.integers(0, 3, samples)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_weights_are_never_worse_than_equal_or_best(seed: int, members: int) -> None:
    probabilities, labels = draw(seed, members)
    weights = convex_weights(probabilities, labels)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1.0)
    loss = log_loss(np.tensordot(weights, probabilities, 1), labels)
    others = [log_loss(member, labels) for member in (*probabilities, probabilities.mean(0))]
    assert loss <= min(others) + 1e-12


def test_a_good_member_gets_nearly_all_the_weight() -> None:
    probabilities, labels = draw(0, 3, 500)
    probabilities[1] = 0.9 * np.eye(3)[labels] + 0.1 / 3
    assert convex_weights(probabilities, labels)[1] > 0.99


def test_temperature_undoes_overconfidence() -> None:
    generator = np.random.default_rng(0)
    honest = generator.dirichlet(np.ones(3), 20_000)
    labels = (honest.cumsum(1) < generator.random((20_000, 1))).sum(1)
    assert fit_temperature(tempered(honest, 0.4), labels) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(honest, labels) == pytest.approx(1.0, rel=0.05)


def test_shifts_give_central_intervals_their_nominal_coverage() -> None:
    generator = np.random.default_rng(0)
    outcomes = generator.normal(0.0, 3.0, (4000, 2))
    levels = (0.05, 0.1, 0.5, 0.9, 0.95)
    guessed = np.broadcast_to(np.array([-2.0, -1.0, 0.0, 1.0, 9.0]), (4000, 2, 5))
    shifted = guessed[0] + conformal_shifts(guessed, outcomes, levels)
    fresh = generator.normal(0.0, 3.0, (20_000, 1))
    for low, high, nominal in ((0, 4, 0.9), (1, 3, 0.8)):
        covered = (fresh >= shifted[:, low]) & (fresh <= shifted[:, high])
        assert np.allclose(covered.mean(0), nominal, atol=0.03)


def test_shifts_never_move_the_median_and_are_symmetric() -> None:
    outcomes = np.random.default_rng(1).normal(5.0, 1.0, (500, 1))
    shifts = conformal_shifts(np.tile([-1.0, 0.0, 1.0], (500, 1, 1)), outcomes, (0.1, 0.5, 0.9))
    assert shifts[0, 1] == 0.0
    assert shifts[0, 0] == -shifts[0, 2] < 0.0


def test_shifts_leave_out_missing_outcomes_and_err_on_the_wide_side() -> None:
    outcomes = np.array([[1.0], [2.0], [np.nan], [3.0]])
    shifts = conformal_shifts(np.zeros((4, 1, 3)), outcomes, (0.1, 0.5, 0.9))
    assert shifts.tolist() == [[-3.0, 0.0, 3.0]]


def test_bad_inputs_are_named() -> None:
    probabilities, labels = draw(0, 2)
    for call, words in (
        (lambda: convex_weights(probabilities[0], labels), r"member_probabilities must have shape \[member, sample, class\]"),
        (lambda: convex_weights(probabilities, labels[:5]), r"labels must have shape \[60\]"),
        (lambda: fit_temperature(probabilities[0], labels - 1), "labels must be within 0 and 2"),
        (lambda: conformal_shifts(np.zeros((4, 1, 2)), np.zeros((4, 1)), (0.5,)), r"quantiles must have shape \[sample, "),
        (lambda: conformal_shifts(np.zeros((4, 1, 1)), np.full((4, 1), np.nan), (0.5,)), "at least one finite sample"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


class TestPrudentWeights:
    def probabilities(self, labels: np.ndarray, skills: list[float]) -> np.ndarray:
        sure = np.eye(3)[labels]
        return np.stack([skill * sure + (1 - skill) / 3 for skill in skills])

    def test_members_of_like_skill_weigh_alike(self) -> None:
        random = np.random.default_rng(0)
        labels = random.integers(0, 3, (4, 600))
        noisy = random.dirichlet(np.ones(3) * 20, size=(3, 4, 600))
        np.testing.assert_allclose(prudent_weights(noisy, labels, 24), np.full(3, 1 / 3))

    def test_a_member_that_is_clearly_better_takes_all(self) -> None:
        labels = np.random.default_rng(1).integers(0, 3, (4, 600))
        weights = prudent_weights(self.probabilities(labels, [0.0, 0.3, 0.0]), labels, 24)
        np.testing.assert_allclose(weights, [0, 1, 0], atol=1e-3)

    def test_missing_labels_and_forecasts_are_left_out(self) -> None:
        labels = np.random.default_rng(2).integers(-1, 3, (2, 300))
        members = self.probabilities(np.maximum(labels, 0), [0.0, 0.4])
        members[1, 0, :50] = np.nan
        np.testing.assert_allclose(prudent_weights(members, labels, 10), [0, 1], atol=1e-3)

    def test_a_span_of_one_block_cannot_say(self) -> None:
        labels = np.random.default_rng(3).integers(0, 3, (2, 30))
        np.testing.assert_allclose(prudent_weights(self.probabilities(labels, [0.0, 0.4]), labels, 24), [0.5, 0.5])
