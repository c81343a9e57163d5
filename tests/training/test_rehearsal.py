"""Rehearsed adaptation is better prepared for an invented regime, reads nothing but the past, and repeats itself."""

from typing import Any

import numpy as np
import pytest
import torch

from cryptoml.data.invented import InventionConfig, invent_regimes
from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.adaptation import AdaptationConfig, adaptation_loss, build_learner
from cryptoml.training.rehearsal import _tasks, learn_adapter, normalised_stage

TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=12, minimum_history_bars=12, long_run_halflife_bars=24
)
CONTEXT = 8
CONFIG = AdaptationConfig(rehearsals=12, tasks=8, bars=700, markets=1, invention=InventionConfig(mean_bars=80))


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=1100, with_tables=False)).panel
    engineer = AdvancedFeatureEngineer({"include": ("price_scaled_return_*", "volatility_ratio_6h_1d")})
    values = build_features(panel, engineer).values
    scaler = FeatureScaler().fit(values, (panel.timestamps[0], panel.timestamps[-1]), panel.timestamps)
    torch.manual_seed(0)
    config = ForecasterConfig(
        architecture="tcn", num_features=values.shape[2], num_assets=3, hidden_size=8, num_heads=2, lookback=CONTEXT,
        horizons=TARGETS.horizons, primary_horizon=4,
    )  # fmt: skip
    ensemble = Ensemble([build_forecaster(config).eval()])
    return {
        "ensemble": ensemble,
        "panel": panel,
        "engineer": engineer,
        "scaler": scaler,
        "targets": TARGETS,
        "context_bars": CONTEXT,
    }


def test_rehearsal_lowers_the_loss_on_new_invented_regimes(parts: dict[str, Any]) -> None:
    learned = learn_adapter(**parts, config=CONFIG)
    market, turns = invent_regimes(parts["panel"], CONFIG.invention, np.random.default_rng(99))
    stage = normalised_stage(parts["ensemble"], market, turns, parts["engineer"], parts["scaler"], TARGETS, CONTEXT)
    batch = _tasks(stage, 48, TARGETS, AdaptationConfig(tasks=64), np.random.default_rng(1))
    loss = adaptation_loss(TARGETS.quantiles)
    before, after = (build_learner(TARGETS, CONFIG, arrays).meta_loss(*batch, loss).item() for arrays in (None, learned))
    assert after < before


def test_same_past_same_adapter(parts: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"rehearsals": 2})
    first, second = (learn_adapter(**parts, config=config) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_without_rehearsal_or_past_it_stays_as_it_starts(parts: dict[str, Any]) -> None:
    start = {name: value.detach().numpy() for name, value in build_learner(TARGETS, CONFIG).state_dict().items()}
    short: Panel = parts["panel"].slice_time(None, 90)
    for changes, config in (({}, CONFIG.model_copy(update={"rehearsals": 0})), ({"panel": short}, CONFIG)):
        found = learn_adapter(**parts | changes, config=config)
        assert all(np.array_equal(found[name], start[name]) for name in start)


def test_tasks_teach_only_what_is_known_in_time(parts: dict[str, Any]) -> None:
    market, turns = invent_regimes(parts["panel"], CONFIG.invention, np.random.default_rng(5))
    stage = normalised_stage(parts["ensemble"], market, turns, parts["engineer"], parts["scaler"], TARGETS, CONTEXT)
    _, (labels, weights), _, (query, query_weights) = _tasks(stage, 48, TARGETS, CONFIG, np.random.default_rng(2))
    taught = weights["returns"] > 0
    assert taught.any()
    assert not taught[:, -1].any()
    assert not taught[:, -4:, :, 1].any()
    assert not labels["returns"][taught].isnan().any()
    for name, weight in query_weights.items():
        totals = weight.flatten(1).sum(dim=1)
        assert ((totals - 1).abs().lt(1e-5) | totals.eq(0)).all(), name
        assert weight.shape == query[name].shape
