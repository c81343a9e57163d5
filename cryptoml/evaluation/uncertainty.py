"""Intervals by the stationary block bootstrap (Politis & Romano 1994), and of means of few bars by Student's t.

Blocks of time are resampled whole, with geometric lengths and wrapping round the end, so that serial dependence
(overlapping labels) and dependence across assets (one bar of all assets moves together) both survive.

Every statistic here is a function of sums over bars, so a draw costs one look-up per block in prefix sums, not one
per bar: 1,000 draws of 20,000 bars take milliseconds.

The bootstrap is too sure of itself where only a few blocks fit into the sample; `mean_interval` is not.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from cryptoml.evaluation.statistics import Statistic, pooled_mean_statistic

__all__ = [
    "Interval",
    "block_sums",
    "difference_interval",
    "interval",
    "least_bars",
    "mean_interval",
    "stationary_blocks",
    "stationary_indices",
]


_DRAWS_AT_ONCE = 100  # bounds the memory of wide statistics
_LABELS_PER_COSINE = 3  # slower waves are free of what overlapping labels share, so each one is an independent reading of noise
_LEAST_COSINES = 2


class Interval(NamedTuple):
    """A figure with its percentile interval; NaN where the sample cannot say."""

    value: float
    low: float
    high: float

    def row(self) -> dict[str, float | None]:
        """Return plain values for a result file, None for NaN."""
        return {name: None if np.isnan(one) else one for name, one in self._asdict().items()}


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
    starts, lengths, begins = _resamples(num_bars, mean_block, num_draws, seed)
    for first in range(0, num_draws, _DRAWS_AT_ONCE):
        last = min(first + _DRAWS_AT_ONCE, num_draws)
        some = slice(begins[first], begins[last])
        whole, rest = np.divmod(lengths[some], num_bars)
        blocks = twice[starts[some] + rest] - twice[starts[some]]
        if whole.any():
            blocks += whole[:, None] * twice[num_bars]
        sums[first:last] = np.add.reduceat(blocks, begins[first:last] - begins[first], axis=0)
    return sums


@lru_cache(maxsize=4)
def _resamples(num_bars: int, mean_block: float, num_draws: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw all resamples: starts and lengths of all blocks, and where each resample begins among them.

    The figures of one evaluation share them, so differences between candidates are paired.
    """
    rng = np.random.default_rng(seed)
    drawn = [stationary_blocks(num_bars, mean_block, rng) for _ in range(num_draws)]
    begins = np.cumsum([0, *(len(starts) for starts, _ in drawn)])
    return np.concatenate([starts for starts, _ in drawn]), np.concatenate([lengths for _, lengths in drawn]), begins


def interval(statistic: Statistic, *, mean_block: float, num_draws: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Return a figure with its percentile interval.

    Args:
        statistic: The figure.
        mean_block: Mean block length in bars; at least the label's length where labels overlap.
        num_draws: Resamples.
        level: Share of resamples inside the interval.
        seed: Of the resampling.
    """
    if len(statistic.columns) < 2:
        return Interval(float("nan"), float("nan"), float("nan"))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic.of_sums(statistic.columns.sum(axis=0)))
        sums = block_sums(statistic.columns, max(1.0, min(mean_block, len(statistic.columns))), num_draws, seed)
        drawn = statistic.of_sums(sums)
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def difference_interval(
    first: Statistic, second: Statistic, *, mean_block: float, num_draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return `first - second` with its interval; both are resampled by the same bars, so what they share cancels."""
    split = first.columns.shape[1]
    paired = Statistic(
        np.concatenate([first.columns, second.columns], axis=1),
        lambda sums: first.of_sums(sums[..., :split]) - second.of_sums(sums[..., split:]),
    )
    return interval(paired, mean_block=mean_block, num_draws=num_draws, level=level, seed=seed)


def mean_interval(values: np.ndarray, *, label_bars: int, level: float = 0.95) -> Interval:
    """Return the mean of all finite `values` `[asset, time]` with an interval that few bars of overlapping labels keep.

    The variance of the mean is read off the B slowest cosines of the series of bars, each an independent reading of one
    degree of freedom, and the quantile is that of Student's t with B degrees: the equal-weighted cosine test of Lazarus,
    Lewis, Stock & Watson 2018, "HAR Inference: Recommendations for Practice". B is their 0.4 T^(2/3), but at most one per
    three label lengths. NaN bounds where that leaves less than two: under `least_bars` bars.

    Args:
        values: What to average; bars without any are left out.
        label_bars: Bars that a label spans.
        level: Confidence.
    """
    total, counted = pooled_mean_statistic(values).columns.T
    seen = counted > 0
    num_bars = int(seen.sum())
    if num_bars == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(total.sum() / counted.sum())
    num_cosines = _num_cosines(num_bars, label_bars)
    if num_cosines < _LEAST_COSINES:
        return Interval(value, float("nan"), float("nan"))
    error = (total - value * counted)[seen] / counted[seen].mean()
    waves = np.cos(np.pi * np.arange(1, num_cosines + 1)[:, None] * (np.arange(num_bars) + 0.5) / num_bars)
    variance = 2 / num_bars * ((waves @ error) ** 2).mean()
    margin = float(student.ppf((1 + level) / 2, num_cosines) * np.sqrt(variance / num_bars))
    return Interval(value, value - margin, value + margin)


def least_bars(label_bars: int) -> int:
    """Return the bars that `mean_interval` needs."""
    num_bars = _LEAST_COSINES * _LABELS_PER_COSINE * label_bars
    while _num_cosines(num_bars, label_bars) < _LEAST_COSINES:
        num_bars += 1
    return num_bars


def _num_cosines(num_bars: int, label_bars: int) -> int:
    return min(num_bars // (_LABELS_PER_COSINE * label_bars), int(0.4 * num_bars ** (2 / 3)))
