"""Attention by bars ago and the asset graph: means over windows that sum to one and leave out who does not speak."""

import numpy as np
import pytest
import torch

from cryptoml.evaluation.explanation import asset_graph, temporal_attention
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster

LOOKBACK = 8


def member(architecture: str, seed: int = 0, *, graph: bool = True) -> Forecaster:
    torch.manual_seed(seed)
    config = ForecasterConfig(
        architecture=architecture,  # type: ignore[arg-type]
        num_features=4,
        num_assets=3,
        hidden_size=8,
        num_heads=2,
        lookback=LOOKBACK,
        graph=graph,
    )
    return build_forecaster(config).eval()


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 40, 4)).astype(np.float32)


def test_attention_is_the_mean_over_windows_newest_bar_first(features: np.ndarray) -> None:
    tft = member("tft")
    found = temporal_attention({"tft": tft, "tcn": member("tcn")}, features, LOOKBACK)
    assert list(found) == ["tft"]
    assert found["tft"].sum() == pytest.approx(1.0, abs=1e-5)
    windows = np.stack([features[:, start : start + LOOKBACK] for start in range(33)])
    with torch.inference_mode():
        weights = tft.explain(torch.from_numpy(windows))["attention"].numpy()
    np.testing.assert_allclose(found["tft"], weights.mean(axis=(0, 1))[::-1], atol=1e-6)


def test_graph_is_the_weighted_mean_of_the_members(features: np.ndarray) -> None:
    members = [member("tcn", 0), member("tcn", 1), member("tft", graph=False)]
    alone = [asset_graph([one], [1.0], features, LOOKBACK) for one in members]
    both = asset_graph(members, [0.25, 0.75, 0.0], features, LOOKBACK)
    assert alone[2] is None
    assert alone[0] is not None
    assert alone[1] is not None
    assert both is not None
    np.testing.assert_allclose(both, 0.25 * alone[0] + 0.75 * alone[1], atol=1e-6)
    np.testing.assert_allclose(both.sum(axis=1), 1.0, atol=1e-5)


def test_an_asset_that_is_never_there_listens_to_nobody(features: np.ndarray) -> None:
    features[1] = np.nan
    found = asset_graph([member("tcn")], [1.0], features, LOOKBACK)
    assert found is not None
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(found[[0, 2], 1], 0.0, atol=1e-6)


def test_too_short_data_say_nothing(features: np.ndarray) -> None:
    assert asset_graph([member("tcn")], [1.0], features[:, :5], LOOKBACK) is None
    assert temporal_attention({"tft": member("tft")}, features[:, :5], LOOKBACK) == {}
