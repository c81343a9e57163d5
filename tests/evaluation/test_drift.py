"""Drift is seen where it is, and not where it is not."""

import numpy as np
import pytest

from cryptoml.evaluation.drift import measure_drift, population_stability


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


class TestPopulationStability:
    def test_equals_its_formula_on_two_bins(self) -> None:
        before, after = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [1.0], [1.0]])
        expected = (0.5 - 0.25) * np.log(0.5 / 0.25) + (0.5 - 0.75) * np.log(0.5 / 0.75)
        np.testing.assert_allclose(population_stability(before, after, num_bins=2), [expected], atol=1e-9)

    def test_is_small_for_the_same_distribution_and_large_for_a_shift(self, random: np.random.Generator) -> None:
        before = random.standard_normal((5000, 3))
        after = random.standard_normal((2000, 3)) + np.array([0.0, 0.3, 2.0])
        same, minor, major = population_stability(before, after)
        assert same < 0.02 < minor < 0.25 < major

    def test_an_input_that_fails_counts_as_a_shift(self, random: np.random.Generator) -> None:
        before = random.standard_normal((1000, 1))
        assert population_stability(before, np.full((100, 1), np.nan))[0] > 0.25
        assert population_stability(np.full((100, 1), np.nan), np.full((50, 1), np.nan))[0] == 0

    def test_constants_do_not_break_it(self) -> None:
        assert population_stability(np.ones((10, 1)), np.ones((5, 1)))[0] == 0
        assert population_stability(np.ones((10, 1)), np.zeros((5, 1)))[0] > 1

    def test_columns_must_agree(self) -> None:
        with pytest.raises(ValueError, match="same columns"):
            population_stability(np.ones((3, 2)), np.ones((3, 1)))


def test_measured_drift_orders_features_and_compares_losses(random: np.random.Generator) -> None:
    features = random.standard_normal((2, 800, 2)), random.standard_normal((2, 400, 2)) + np.array([0.0, 3.0])
    losses = random.normal(1.0, 0.1, (2, 800)), random.normal(1.5, 0.1, (2, 400))
    sure = np.broadcast_to([0.1, 0.1, 0.8], (2, 400, 3))
    answers = (sure[:, :200], np.full((2, 200), 2)), (sure, np.full((2, 400), 0))
    drift = measure_drift(["calm", "moved"], features, losses, answers, mean_block=8)
    assert list(drift.stability) == ["moved", "calm"]
    assert drift.shifted_share == 0.5
    assert drift.loss_rose
    assert drift.calibration_before == pytest.approx(0.2)
    assert drift.calibration_after == pytest.approx(0.8)
    assert drift.row(1)["most_shifted"].keys() == {"moved"}
