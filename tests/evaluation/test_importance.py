"""Feature importance: mean selection weights of the members that select."""

import numpy as np
import pytest
import torch

from cryptoml.evaluation.importance import feature_importance, importance_by_category
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster

NAMES = ("price_a", "price_b", "cross_section_c", "mystery")


def member(architecture: str, seed: int = 0) -> Forecaster:
    torch.manual_seed(seed)
    config = ForecasterConfig(architecture=architecture, num_features=4, num_assets=2, hidden_size=8, num_heads=2, lookback=8)  # type: ignore[arg-type]
    return build_forecaster(config).eval()


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 40, 4)).astype(np.float32)


def test_weights_sum_to_one_largest_first(features: np.ndarray) -> None:
    found = feature_importance([member("tft"), member("tcn")], [0.5, 0.5], features, NAMES)
    assert set(found) == set(NAMES)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)


def test_is_the_mean_over_members(features: np.ndarray) -> None:
    alone = [feature_importance([member("tft", seed)], [1.0], features, NAMES) for seed in (0, 1)]
    both = feature_importance([member("tft", 0), member("tft", 1)], [0.5, 0.5], features, NAMES)
    for name in NAMES:
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2, abs=1e-6)


def test_a_feature_that_is_never_there_has_no_weight(features: np.ndarray) -> None:
    features[..., 1] = np.nan
    features[1] = np.nan
    found = feature_importance([member("tft")], [1.0], features, NAMES)
    assert found["price_b"] == pytest.approx(0.0, abs=1e-7)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)


def test_takes_a_read_only_memory_map_and_leaves_it_alone(features: np.ndarray) -> None:
    before = features.copy()
    features.setflags(write=False)
    feature_importance([member("tft")], [1.0], features, NAMES)
    np.testing.assert_array_equal(features, before)


def test_nothing_is_known_without_a_member_that_selects_or_without_data(features: np.ndarray) -> None:
    assert feature_importance([member("tcn")], [1.0], features, NAMES) == {}
    assert feature_importance([], [], features, NAMES) == {}
    assert feature_importance([member("tft")], [1.0], np.full_like(features, np.nan), NAMES) == {}


def test_categories_sum_up_by_the_longest_prefix() -> None:
    found = importance_by_category(
        {"price_a": 0.1, "price_b": 0.2, "cross_section_c": 0.4, "cross_exchange_d": 0.25, "mystery": 0.05}
    )
    assert list(found) == ["cross_section", "price", "cross_exchange", "other"]
    assert found == pytest.approx({"cross_section": 0.4, "price": 0.3, "cross_exchange": 0.25, "other": 0.05})
    assert importance_by_category({}) == {}


def test_a_member_without_weight_does_not_speak(features: np.ndarray) -> None:
    heard = feature_importance([member("tft", 0), member("tft", 1)], [1.0, 0.0], features, NAMES)
    assert heard == feature_importance([member("tft", 0)], [1.0], features, NAMES)
