"""Regimes of the market: learned from candles, found again in the built-in market, and never from later bars."""

import dataclasses

import numpy as np
import pytest

from cryptoml.data.synthetic import MarketConfig, SyntheticMarket, synthetic_market
from cryptoml.features.regimes import RegimeModel, fit_regimes, label_regimes
from cryptoml.features.targets import REGIMES, TargetConfig, make_targets, with_regimes

TRAIN = 6_000


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    return synthetic_market(MarketConfig(num_assets=5, num_bars=9_000, with_tables=False, seed=2))


@pytest.fixture(scope="module")
def learned(market: SyntheticMarket) -> TargetConfig:
    return with_regimes(TargetConfig(), market.panel.slice_time(0, TRAIN))


def test_labels_name_the_planted_regimes_after_the_span_that_they_were_learned_from(market, learned) -> None:
    found = make_targets(market.panel, learned).regime[0]
    later = slice(TRAIN, market.panel.num_bars - 24)
    assert (found == market.regimes)[later].mean() > 0.85


def test_the_first_bars_are_labelled_as_well_as_later_ones(market, learned) -> None:
    found = make_targets(market.panel, learned).regime[0]
    assert (found == market.regimes)[1:1500].mean() > 0.85
    assert learned.regimes.usual_volatility == pytest.approx(market.dynamics.config.base_volatility, rel=0.3)


def test_learned_regimes_are_told_by_loudness_and_last(learned) -> None:
    assert np.argsort(learned.regimes.log_range).tolist() == [2, 0, 1, 3]
    assert min(learned.regimes.duration_bars) > 50


@pytest.mark.parametrize(("drift", "order"), [(0.01, [2, 0, 1, 3]), (0.3, [2, 1, 0, 3])])
def test_falling_markets_are_the_louder_ones_unless_returns_say_otherwise_beyond_noise(drift, order) -> None:
    rng = np.random.default_rng(0)
    regimes = np.tile(np.repeat([0, 1, 2, 3], 200), 10)
    trend = np.array([-drift, drift, 0.0, 0.0])[regimes] + 0.6 * rng.standard_normal(len(regimes))
    log_range = np.array([-0.2, 0.4, -0.7, 0.9])[regimes] + 0.25 * rng.standard_normal(len(regimes))
    model = fit_regimes(np.stack([trend, log_range], axis=1))
    assert np.argsort(model.log_range).tolist() == order


def test_regimes_that_are_set_are_not_learned(market) -> None:
    config = TargetConfig(regimes=RegimeModel())
    assert with_regimes(config, market.panel) is config


def test_no_label_reads_further_than_the_horizon(market, learned) -> None:
    panel, cut = market.panel, 7_000
    changed = panel.candles.copy()
    changed[:, cut:] *= np.linspace(1.0, 3.0, panel.num_bars - cut)[:, None]
    other = make_targets(dataclasses.replace(panel, candles=changed), learned).regime
    regime = make_targets(panel, learned).regime
    np.testing.assert_array_equal(regime[:, : cut - 24], other[:, : cut - 24])
    assert (regime[:, cut:] != other[:, cut:]).any()


def test_the_market_has_one_regime_and_an_absent_asset_none(market, learned) -> None:
    panel = market.panel
    candles = panel.candles.copy()
    candles[1, 100:200] = np.nan
    regime = make_targets(dataclasses.replace(panel, candles=candles), learned).regime
    assert (regime[1, 100:200] == -1).all()
    np.testing.assert_array_equal(regime[0], regime[2])
    assert (regime[:, -24:] == -1).all()
    assert set(regime[0, 100:-24]) == set(range(len(REGIMES)))


def test_too_little_data_leaves_the_defaults() -> None:
    assert fit_regimes(np.zeros((100, 2))) == RegimeModel()
    assert fit_regimes(np.full((1000, 2), np.nan)) == RegimeModel()


def test_nothing_is_said_before_the_first_reading() -> None:
    readings = np.zeros((50, 2))
    readings[:10] = np.nan
    assert (label_regimes(readings, RegimeModel(), 5)[:10] == -1).all()
    assert (label_regimes(readings, RegimeModel(), 5)[10:45] >= 0).all()
