"""Market tasks stay inside their span, keep support before query, and purge the labels between."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.errors import DataError
from cryptoml.features.targets import Targets
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.maml import MetaLearningMAML
from cryptoml.training.tasks import MarketTaskSampler, RegimePeriod, TaskConfig, forecast_loss, regime_periods
from tests.training.conftest import NUM_BARS, TARGETS

SMALL = TaskConfig(context_bars=6, support_shots=4, query_shots=3, max_gap_bars=2)


def with_regimes(targets: Targets, seed: int, flip: float) -> Targets:
    """The same labels with drawn regimes: each bar keeps the regime of the bar before, or takes a new one."""
    random = np.random.default_rng(seed)
    regime = np.zeros_like(targets.regime)
    for asset in range(len(regime)):
        changes = random.random(NUM_BARS) < flip
        drawn = random.integers(-1, 4, NUM_BARS)
        regime[asset] = drawn[np.maximum.accumulate(np.where(changes, np.arange(NUM_BARS), 0))]
    return replace(targets, regime=regime)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 250), st.integers(40, 150), st.floats(0.01, 0.2), st.integers(0, 9))
def test_tasks_stay_inside_their_span_and_purge_labels(market, seed, start, length, flip, label_bars):
    features, targets = market
    targets = replace(with_regimes(targets, seed, flip), label_bars=label_bars)
    span = (start, start + length)
    try:
        sampler = MarketTaskSampler(features, targets, span, TARGETS, SMALL, seed=seed)
    except DataError:  # no period of these random ones is long enough
        return
    for task in sampler.draw(20):
        assert (len(task.support), len(task.query)) == (4, 3)
        assert list(task.support + task.query) == sorted(set(task.support + task.query))
        assert task.support[0] - SMALL.context_bars + 1 >= span[0]
        assert task.query[-1] + label_bars < span[1]
        assert task.support[-1] + label_bars < task.query[0]
        own = targets.regime[task.period.asset, list(task.support + task.query)]
        assert (own == task.period.regime).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=40), st.integers(0, 4))
def test_periods_hold_every_labelled_bar_once_in_its_own_regime(labels: list[int], max_gap: int):
    regime = np.array([labels], dtype=np.int8)
    periods = regime_periods(regime, 0, len(labels), max_gap)
    for bar, label in enumerate(labels):
        own = [period for period in periods if period.regime == label and period.start <= bar < period.stop]
        assert len(own) == (label >= 0)
    for period in periods:
        assert labels[period.start] == labels[period.stop - 1] == period.regime


def test_periods_by_hand():
    regime = np.array([[0, 0, 1, 0, 3, 3, 3, -1]])
    assert regime_periods(regime, 0, 8, 1) == [RegimePeriod(0, 0, 0, 4), RegimePeriod(0, 1, 2, 3), RegimePeriod(0, 3, 4, 7)]
    assert regime_periods(regime, 1, 5, 0) == [
        RegimePeriod(0, 0, 1, 2),
        RegimePeriod(0, 0, 3, 4),
        RegimePeriod(0, 1, 2, 3),
        RegimePeriod(0, 3, 4, 5),
    ]


def test_rare_regimes_are_drawn_as_often_as_common_ones(market):
    features, targets = market
    regime = np.where(np.arange(NUM_BARS) < 360, 2, 0).astype(np.int8) * np.ones((2, 1), np.int8)
    sampler = MarketTaskSampler(features, replace(targets, regime=regime), (0, NUM_BARS), TARGETS, SMALL)
    drawn = np.bincount([task.period.regime for task in sampler.draw(1000)], minlength=3)
    assert drawn[1] == 0
    assert abs(int(drawn[0]) - int(drawn[2])) < 150


def test_windows_and_labels_are_those_of_the_origins(market):
    features, targets = market
    sampler = MarketTaskSampler(features, with_regimes(targets, 1, 0.01), (50, 390), TARGETS, SMALL)
    tasks = sampler.draw(3)
    batch = sampler.gather(tasks)
    (x, mask), (labels, carried) = batch.query_x, batch.query_y
    assert x.shape == mask.shape == (3, 3, 2, 6, 3)
    for row, task in enumerate(tasks):
        for shot, origin in enumerate(task.query):
            window = features[:, origin - 5 : origin + 1]
            assert np.array_equal(x[row, shot].numpy(), np.nan_to_num(window))
            assert np.array_equal(mask[row, shot].numpy(), ~np.isnan(window))
            assert np.array_equal(labels["direction"][row, shot].numpy(), targets.direction[:, origin])
            assert carried[row, shot].nonzero().flatten().tolist() == [task.period.asset]


def test_forecasters_learn_across_market_tasks(market):
    features, targets = market
    sampler = MarketTaskSampler(features, with_regimes(targets, 1, 0.01), (50, 390), TARGETS, SMALL)
    torch.manual_seed(0)
    config = ForecasterConfig(
        architecture="tcn", num_features=3, num_assets=2, hidden_size=4, num_heads=2, lookback=6, horizons=TARGETS.horizons
    )
    learner = MetaLearningMAML(build_forecaster(config), 0.01, 1)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    batch, loss = sampler.sample(4), forecast_loss(config.quantiles)
    losses = [learner.outer_step(*batch, loss, optimizer).item() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert learner.batching == "vmap"
    first = {name: values[0] for name, values in batch.support_y[0].items()}
    adapted = learner.eval().adapt(tuple(part[0] for part in batch.support_x), (first, batch.support_y[1][0]), loss)
    assert adapted.adaptation == learner.last_adaptation


def test_bad_input_is_named(market):
    features, targets = market
    with pytest.raises(DataError, match=r"span must lie within the 400 bars, was \(0, 500\)"):
        MarketTaskSampler(features, targets, (0, 500), TARGETS, SMALL)
    with pytest.raises(DataError, match="regime period of about 11 bars"):
        MarketTaskSampler(features, targets, (50, 56), TARGETS, SMALL)
    sampler = MarketTaskSampler(features, with_regimes(targets, 1, 0.01), (50, 390), TARGETS, SMALL)
    with pytest.raises(ValueError, match="tasks must be at least 1, was 0"):
        sampler.draw(0)
