"""Drift is seen where it is, and not where it is not."""

import numpy as np
import pytest
from scipy.signal import lfilter

from cryptoml.evaluation.drift import measure_drift, past_stability, population_stability, shift_limits


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

    def test_a_value_of_its_own_is_seen_to_come_and_go(self, random: np.random.Generator) -> None:
        rare, usual = ((random.random((2000, 1)) < share).astype(float) for share in (0.05, 0.9))
        assert population_stability(rare, usual)[0] > 1
        assert population_stability(usual, rare)[0] > 1
        assert population_stability(rare, random.permutation(rare)[:500])[0] < 0.1
        assert population_stability(np.zeros((2000, 1)), np.full((336, 1), 5.0))[0] > 1
        assert population_stability(np.zeros((2000, 1)), np.full((336, 1), -5.0))[0] > 1
        pattern = random.choice([-1.0, 0.0, 1.0], p=[0.03, 0.94, 0.03], size=(2000, 1))
        assert population_stability(pattern, np.ones((336, 1)))[0] > 1
        mostly_zero = np.where(random.random((2000, 1)) < 0.9, 0.0, random.exponential(size=(2000, 1)))
        assert population_stability(mostly_zero, random.exponential(size=(336, 1)))[0] > 1

    def test_columns_must_agree(self) -> None:
        with pytest.raises(ValueError, match="same columns"):
            population_stability(np.ones((3, 2)), np.ones((3, 1)))


def wandering(random: np.random.Generator, num_bars: int, num_features: int, halflife: float) -> np.ndarray:
    decay = 0.5 ** (1 / halflife)
    noise = random.standard_normal((num_bars + 2000, num_features))
    return np.asarray(lfilter([np.sqrt(1 - decay**2)], [1.0, -decay], noise, axis=0)[None, 2000:])


def shifted(features: np.ndarray, now: int, limits: np.ndarray) -> np.ndarray:
    index = population_stability(features[0, now - 2024 : now - 24], features[0, now : now + 336])
    return np.asarray(index > limits)


def test_what_wanders_as_it_always_did_has_not_shifted(random: np.random.Generator) -> None:
    features, now = wandering(random, 9000, 200, halflife=48), 8600
    limits = shift_limits(past_stability(features[:, : now - 24], 2000, 336, 24))
    assert shifted(features, now, np.full(200, 0.25)).mean() > 0.3, "a limit for all takes the noise of 336 bars for a shift"
    assert shifted(features, now, limits).mean() < 0.1
    features[:, now:, :50] += 3.0
    features[:, now:, 50] = np.nan
    assert shifted(features, now, limits)[:51].mean() > 0.9


class TestPast:
    def test_places_go_back_from_the_newest_without_overlap(self) -> None:
        features = np.zeros((1, 1000, 1))
        features[:, 880:] = 1.0
        past = past_stability(features, 300, 120, 4)
        assert len(past) == 7
        assert past[0, 0] > 1
        assert past[1:, 0].tolist() == [0.0] * 6

    def test_each_place_equals_its_stability(self, random: np.random.Generator) -> None:
        features = random.standard_normal((2, 700, 3))
        past = past_stability(features, 300, 100, 24)
        second = population_stability(features[:, 176:476].reshape(-1, 3), features[:, 500:600].reshape(-1, 3))
        np.testing.assert_allclose(past[1], second)

    def test_a_past_that_is_too_short_says_nothing(self) -> None:
        assert past_stability(np.zeros((1, 200, 2)), 300, 120, 4).shape == (0, 2)
        assert np.isinf(shift_limits(np.full((2, 3), 0.1))).all()
        assert shift_limits(np.zeros((3, 2))).tolist() == [0.25, 0.25]

    def test_the_limit_is_the_bound_of_one_more_draw(self, random: np.random.Generator) -> None:
        logs = random.normal(0.0, 0.5, (13, 20_000))
        limits = shift_limits(np.exp(logs[:12]) - 0.01)
        assert (np.exp(logs[12]) - 0.01 > limits).mean() == pytest.approx(0.05, abs=0.006)


def test_measured_drift_orders_features_and_compares_losses(random: np.random.Generator) -> None:
    features = random.standard_normal((2, 800, 2)), random.standard_normal((2, 400, 2)) + np.array([0.0, 3.0])
    losses = random.normal(1.0, 0.1, (2, 800)), random.normal(1.5, 0.1, (2, 400))
    sure = np.broadcast_to([0.1, 0.1, 0.8], (2, 400, 3))
    answers = (sure[:, :200], np.full((2, 200), 2)), (sure, np.full((2, 400), 0))
    drift = measure_drift(["calm", "moved"], features, losses, answers, limits=np.array([0.25, 0.25]), label_bars=4)
    assert list(drift.stability) == ["moved", "calm"]
    assert drift.shifted_share == 0.5
    assert drift.loss_rose
    assert drift.calibration_before == pytest.approx(0.2)
    assert drift.calibration_after == pytest.approx(0.8)
    assert drift.row(1)["most_shifted"].keys() == {"moved"}
    assert drift.row(1)["limits"] == {"moved": 0.25}
