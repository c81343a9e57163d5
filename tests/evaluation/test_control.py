"""The control's chance: honest random functions of the features lie inside, what knew the labels lies outside."""

import numpy as np
import pytest
from scipy.signal import lfilter

from cryptoml.data.splits import Fold, Span
from cryptoml.evaluation.candidates import Candidate
from cryptoml.evaluation.control import NUM_DRAWS, chance_hits
from cryptoml.evaluation.findings import control_table
from cryptoml.evaluation.protocol import evaluate
from cryptoml.trading.forecasts import Forecasts

FOLD = Fold(train=Span(0, 2400), validation=Span(2410, 2800), test=Span(2810, 4000))
NUM_ASSETS, NUM_BARS, NUM_FEATURES, LOOKBACK = 3, 4000, 12, 32


@pytest.fixture(scope="module")
def market() -> tuple[np.ndarray, np.ndarray]:
    """Features that last for a day, and classes that two of them tell of."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((NUM_ASSETS, NUM_BARS, NUM_FEATURES))
    features = lfilter([0.28], [1, -0.96], noise, axis=1).astype(np.float32)
    move = features[..., 0] - features[..., 1] + rng.standard_normal(features.shape[:2])
    return features, np.digitize(move, (-0.5, 0.5))


def answers_of(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (features[:, FOLD.test.bars] @ weights).argmax(axis=-1)


def judged(market: tuple[np.ndarray, np.ndarray], answers: np.ndarray, **settings: int) -> tuple[bool, np.ndarray]:
    features, direction = market
    right = (answers == direction[:, FOLD.test.bars]).sum()
    drawn = chance_hits(features, direction, FOLD, answers, LOOKBACK, **settings)
    low, high = np.quantile(drawn, [0.005, 0.995])
    return bool(low <= right <= high), drawn


@pytest.mark.parametrize("steps", [1, 8])
def test_networks_that_know_nothing_lie_inside(market, steps) -> None:
    features, inside = lfilter(np.ones(steps) / steps, [1], market[0], axis=1), 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        hidden = np.tanh(features[:, FOLD.test.bars] @ rng.standard_normal((NUM_FEATURES, 16)) / 3)
        said = (hidden @ rng.standard_normal((16, 3)) + 0.5 * rng.standard_normal(3)).argmax(axis=-1)
        inside += judged(market, said, num_draws=100, seed=seed)[0]
    assert inside >= 18


def test_what_learned_from_the_true_labels_lies_outside(market) -> None:
    features, direction = market
    train = features[:, FOLD.train.bars].reshape(-1, NUM_FEATURES)
    hot = np.eye(3)[direction[:, FOLD.train.bars].reshape(-1)]
    weights = np.linalg.lstsq(train, hot - hot.mean(axis=0), rcond=None)[0]
    said = answers_of(features, weights)
    inside, drawn = judged(market, said)
    assert not inside
    mixes = [np.bincount(one.ravel(), minlength=3) / one.size for one in (said, direction[:, FOLD.test.bars])]
    assert drawn.mean() / said.size == pytest.approx(mixes[0] @ mixes[1], abs=0.05)


def test_answers_that_saw_a_share_of_the_test_labels_lie_outside(market) -> None:
    rng, truth = np.random.default_rng(1), market[1][:, FOLD.test.bars]
    said = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, 3, truth.shape))
    assert not judged(market, said)[0]


def test_one_answer_hits_its_class_whatever_the_function(market) -> None:
    features, direction = market
    said = np.ones((NUM_ASSETS, len(FOLD.test)), dtype=int)
    said[0, :100] = -1
    known = (direction[:, FOLD.test.bars] == 1) & (said >= 0)
    np.testing.assert_array_equal(chance_hits(features, direction, FOLD, said, LOOKBACK, num_draws=20), known.sum())


def test_rows_without_a_label_never_count(market) -> None:
    features, direction = market
    hidden = direction.copy()
    hidden[:, FOLD.test.start :] = -1
    said = np.zeros((NUM_ASSETS, len(FOLD.test)), dtype=int)
    assert (chance_hits(features, hidden, FOLD, said, LOOKBACK, num_draws=20) == 0).all()


def test_the_same_seed_gives_the_same_and_missing_features_do_no_harm(market) -> None:
    features, direction = market
    gaps = features.copy()
    gaps[:, ::7, 2] = np.nan
    said = answers_of(features, np.random.default_rng(2).standard_normal((NUM_FEATURES, 3)))
    first, again, other = (chance_hits(gaps, direction, FOLD, said, LOOKBACK, num_draws=20, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_control_that_names_one_class_throughout_cannot_tell(planted):
    inputs = planted[0]
    probabilities = np.zeros((*inputs.test_panel.present.shape, 3))
    probabilities[..., 1] = 1.0
    forecasts = Forecasts.of(probabilities, inputs.ewma_volatility, horizon_bars=inputs.horizon_bars, timeframe="1h")
    labels = inputs.targets.direction[:, inputs.bars]
    hits = np.full(NUM_DRAWS, int((labels == 1).sum()))
    table = control_table(inputs, evaluate(inputs, Candidate("shuffled_labels", forecasts)), hits)
    assert table["low"] == table["high"]
    assert table["found nothing"].startswith("cannot tell")
    spread = hits + np.arange(NUM_DRAWS) - NUM_DRAWS // 2
    assert control_table(inputs, evaluate(inputs, Candidate("shuffled_labels", forecasts)), spread)["found nothing"] is True
