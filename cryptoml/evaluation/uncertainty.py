"""Intervals by the stationary block bootstrap (Politis & Romano 1994).

Blocks of time are resampled whole, with geometric lengths and wrapping round the end, so that serial dependence
(overlapping labels) and dependence across assets (one bar of all assets moves together) both survive.

Every statistic here is a function of sums over bars, so a draw costs one look-up per block in prefix sums, not one
per bar: 1,000 draws of 20,000 bars take milliseconds.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "accuracy_interval",
    "block_sums",
    "bootstrap_interval",
    "chance_interval",
    "mean_interval",
    "sharpe_interval",
    "stationary_blocks",
    "stationary_indices",
]


_DRAWS_AT_ONCE = 100  # bounds the memory of wide statistics


class Interval(NamedTuple):
    """A figure with its percentile interval; NaN where the sample cannot say."""

    value: float
    low: float
    high: float


def stationary_blocks(num_bars: int, mean_block: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one resample as blocks: starts and lengths `[block]`, lengths summing to `num_bars`.

    Args:
        num_bars: Bars of the series.
        mean_block: Mean block length in bars, at least 1.
        rng: Source of randomness.
    """
    expected = int(num_bars / mean_block) + 1
    lengths = rng.geometric(min(1.0, 1 / mean_block), size=expected + 6 * int(np.sqrt(expected)) + 8)
    while lengths.sum() < num_bars:
        lengths = np.concatenate([lengths, rng.geometric(min(1.0, 1 / mean_block), size=expected)])
    ends = np.cumsum(lengths)
    count = int(np.searchsorted(ends, num_bars)) + 1
    lengths = lengths[:count]
    lengths[-1] -= ends[count - 1] - num_bars
    return rng.integers(0, num_bars, size=count), lengths


def stationary_indices(num_bars: int, mean_block: float, rng: np.random.Generator) -> np.ndarray:
    """Draw one resample as bar indices `[time]`."""
    starts, lengths = stationary_blocks(num_bars, mean_block, rng)
    offset = np.arange(num_bars) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return (np.repeat(starts, lengths) + offset) % num_bars


def block_sums(values: np.ndarray, mean_block: float, num_draws: int, seed: int) -> np.ndarray:
    """Return the column sums of each resample `[draw, column]` of `values` `[time, column]` (finite)."""
    num_bars = len(values)
    twice = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(np.concatenate([values, values]), axis=0)])
    sums = np.empty((num_draws, values.shape[1]))
    drawn = _resamples(num_bars, mean_block, num_draws, seed)
    for first in range(0, num_draws, _DRAWS_AT_ONCE):
        some = drawn[first : first + _DRAWS_AT_ONCE]
        starts, lengths = (np.concatenate(parts) for parts in zip(*some, strict=True))
        whole, rest = np.divmod(lengths, num_bars)
        blocks = twice[starts + rest] - twice[starts]
        if whole.any():
            blocks += whole[:, None] * twice[num_bars]
        begins = np.cumsum([0, *(len(part) for part, _ in some[:-1])])
        sums[first : first + len(some)] = np.add.reduceat(blocks, begins, axis=0)
    return sums


@lru_cache(maxsize=4)
def _resamples(num_bars: int, mean_block: float, num_draws: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Draw all resamples; figures of one evaluation share them, so differences between candidates are paired."""
    rng = np.random.default_rng(seed)
    return tuple(stationary_blocks(num_bars, mean_block, rng) for _ in range(num_draws))


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    mean_block: float,
    num_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of column sums with its percentile interval.

    Args:
        values: Per-bar quantities `[time, column]`, finite.
        statistic: Maps sums `[..., column]` to `[...]`; may return NaN for a degenerate resample.
        mean_block: Mean block length in bars; at least the label's length where labels overlap.
        num_draws: Resamples.
        level: Share of resamples inside the interval.
        seed: Of the resampling.
    """
    if len(values) < 2:
        return Interval(float("nan"), float("nan"), float("nan"))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(values.sum(axis=0)))
        drawn = statistic(block_sums(values, max(1.0, min(mean_block, len(values))), num_draws, seed))
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def accuracy_interval(correct: np.ndarray, counted: np.ndarray, *, mean_block: float, **options: float) -> Interval:
    """Return the share of correct forecasts with its interval.

    Args:
        correct: Bool `[asset, time]`.
        counted: Bool `[asset, time]`: the forecast and its outcome exist.
        mean_block: Mean block length in bars.
        options: `num_draws`, `level`, `seed` of `bootstrap_interval`.
    """
    per_bar = np.stack([(correct & counted).sum(axis=0), counted.sum(axis=0)], axis=1).astype(np.float64)
    return bootstrap_interval(per_bar, lambda sums: sums[..., 0] / sums[..., 1], mean_block=mean_block, **options)  # type: ignore[arg-type]


def mean_interval(series: np.ndarray, *, mean_block: float, **options: float) -> Interval:
    """Return the mean of a series `[time]` with its interval; NaN bars are left out."""
    known = np.isfinite(series)
    per_bar = np.stack([np.where(known, series, 0.0), known], axis=1).astype(np.float64)
    return bootstrap_interval(per_bar, lambda sums: sums[..., 0] / sums[..., 1], mean_block=mean_block, **options)  # type: ignore[arg-type]


def sharpe_interval(returns: np.ndarray, bars_per_year: float, *, mean_block: float, **options: float) -> Interval:
    """Return the annualised Sharpe ratio with its interval; NaN returns count as 0."""
    returns = np.nan_to_num(returns)
    num_bars = len(returns)

    def ratio(sums: np.ndarray) -> np.ndarray:
        mean = sums[..., 0] / num_bars
        variance = (sums[..., 1] - num_bars * mean**2) / (num_bars - 1)
        return np.where(variance > 1e-30, mean / np.sqrt(np.maximum(variance, 1e-30)), np.nan) * np.sqrt(bars_per_year)

    return bootstrap_interval(np.stack([returns, returns**2], axis=1), ratio, mean_block=mean_block, **options)  # type: ignore[arg-type]


def chance_interval(
    answers: np.ndarray, labels: np.ndarray, *, min_shift: int, num_draws: int = 1000, level: float = 0.99, seed: int = 0
) -> Interval:
    """Return the accuracy that these answers reach by chance, with the interval in which it lies.

    The answers are turned against the labels in time, all assets together, by random shifts (a circular-shift surrogate
    test, Theiler et al. 1992): both keep their mix and their persistence, which a test of independent rows, or of short
    blocks, would miss, and lose whatever they had to do with each other.

    Args:
        answers: Class of every forecast `[asset, time]`, -1 where there is none.
        labels: True classes `[asset, time]`, -1 where unknown.
        min_shift: Least distance from the true alignment in bars, either way; at least the length of a label.
        num_draws: Shifts to draw, at most as many as there are.
        level: Share of the shifts inside the interval.
        seed: Of the drawing.
    """
    num_bars = answers.shape[1]
    shifts = np.arange(min_shift, num_bars - min_shift + 1)
    if not len(shifts):
        return Interval(float("nan"), float("nan"), float("nan"))
    if len(shifts) > num_draws:
        shifts = np.random.default_rng(seed).choice(shifts, num_draws, replace=False)
    drawn = np.array([_shifted_accuracy(answers, labels, int(shift)) for shift in shifts])
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.nanmean(drawn)), float(low), float(high))


def _shifted_accuracy(answers: np.ndarray, labels: np.ndarray, shift: int) -> float:
    turned = np.roll(answers, shift, axis=1)
    counted = (turned >= 0) & (labels >= 0)
    return float((turned == labels)[counted].mean()) if counted.any() else float("nan")
