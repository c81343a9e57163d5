"""The control's chance: persistent answers are judged by their own persistence."""

import numpy as np
import pytest

from cryptoml.evaluation.uncertainty import chance_interval


def persistent(rng: np.random.Generator, num_bars: int, stay: float) -> np.ndarray:
    """Classes `[asset, time]` that stay as they are for `1 / (1 - stay)` bars on average."""
    moves = rng.random((2, num_bars)) > stay
    draws = rng.integers(0, 3, (2, num_bars))
    source = np.maximum.accumulate(np.where(moves, np.arange(num_bars), 0), axis=1)
    return np.take_along_axis(draws, source, axis=1)


@pytest.mark.parametrize("stay", [0.0, 0.99])
def test_unrelated_answers_lie_inside(stay: float) -> None:
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        answers, labels = persistent(rng, 2000, stay), persistent(rng, 2000, stay)
        found = chance_interval(answers, labels, min_shift=10, num_draws=300)
        inside += found.low <= (answers == labels).mean() <= found.high
    assert inside >= 37


def test_related_answers_lie_outside() -> None:
    rng = np.random.default_rng(0)
    labels = persistent(rng, 2000, 0.95)
    answers = np.where(rng.random(labels.shape) < 0.3, labels, rng.integers(0, 3, labels.shape))
    found = chance_interval(answers, labels, min_shift=50)
    assert found.value == pytest.approx(1 / 3, abs=0.02)
    assert (answers == labels).mean() > found.high


def test_missing_rows_do_not_count() -> None:
    answers, labels = np.zeros((1, 100), dtype=int), np.zeros((1, 100), dtype=int)
    labels[0, ::2] = -1
    assert chance_interval(answers, labels, min_shift=5) == (1.0, 1.0, 1.0)


def test_too_few_bars_cannot_say() -> None:
    assert np.isnan(chance_interval(np.zeros((1, 8), int), np.zeros((1, 8), int), min_shift=5).value)
