"""Figures as functions of sums over bars, the form in which the bootstrap resamples them.

A draw of the block bootstrap then costs one look-up per block in prefix sums, whatever the figure. Panels are
`[asset, time]`; a pair counts where `rows` says so and both sides are known.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cryptoml.evaluation import forecast

__all__ = [
    "Statistic",
    "accuracy_statistic",
    "auc_statistic",
    "mean_statistic",
    "pooled_mean_statistic",
    "rank_ic_statistic",
    "sharpe_statistic",
]

_AUC_BINS = 50


class Statistic(NamedTuple):
    """A figure of a stretch of bars.

    Attributes:
        columns: Finite per-bar quantities `[time, column]`.
        of_sums: Maps their sums `[..., column]` to the figure `[...]`; NaN where it cannot be said.
    """

    columns: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]


def pooled_mean_statistic(values: np.ndarray) -> Statistic:
    """Return the mean over all finite `values` `[asset, time]`; the bars are what is resampled."""
    known = np.isfinite(values)
    columns = np.stack([np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)], axis=1)
    return Statistic(columns.astype(np.float64), _ratio)


def accuracy_statistic(correct: np.ndarray, counted: np.ndarray) -> Statistic:
    """Return the share of `correct` among `counted`, both bool `[asset, time]`."""
    columns = np.stack([(correct & counted).sum(axis=0), counted.sum(axis=0)], axis=1)
    return Statistic(columns.astype(np.float64), _ratio)


def mean_statistic(series: np.ndarray) -> Statistic:
    """Return the mean of a series `[time]`; NaN bars are left out."""
    return pooled_mean_statistic(series[None])


def rank_ic_statistic(score: np.ndarray, realised: np.ndarray, *, ranked: bool = True) -> Statistic:
    """Return the mean over bars of the correlation across assets; Spearman unless not `ranked`."""
    return mean_statistic(forecast.cross_sectional_ic(score, realised, ranked=ranked))


def sharpe_statistic(returns: np.ndarray, bars_per_year: float) -> Statistic:
    """Return the annualised Sharpe ratio of returns `[time]`; NaN returns count as 0."""
    returns = np.nan_to_num(returns)
    num_bars = len(returns)

    def ratio(sums: np.ndarray) -> np.ndarray:
        mean = sums[..., 0] / num_bars
        variance = (sums[..., 1] - num_bars * mean**2) / max(num_bars - 1, 1)
        return np.where(variance > 1e-30, mean / np.sqrt(np.maximum(variance, 1e-30)), np.nan) * np.sqrt(bars_per_year)

    return Statistic(np.stack([returns, returns**2], axis=1), ratio)


def auc_statistic(score: np.ndarray, positive: np.ndarray) -> Statistic:
    """Return the AUC of scores in 50 equally full bins, whose counts add up over bars; pairs in one bin count half.

    Args:
        score: `[asset, time]`, NaN where missing.
        positive: 0/1 with -1 for missing `[asset, time]`.
    """
    known = np.isfinite(score) & (positive >= 0)
    counts = np.zeros((score.shape[1], 2 * _AUC_BINS))
    if known.any():
        edges = np.unique(np.quantile(score[known], np.linspace(0, 1, _AUC_BINS + 1)[1:-1]))
        column = np.searchsorted(edges, score[known], side="right") + np.where(positive[known] > 0, _AUC_BINS, 0)
        np.add.at(counts, (np.nonzero(known)[1], column), 1)
    return Statistic(counts, _auc_of_counts)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _auc_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return the AUC of `[..., 2 * bin]` counts, negatives first."""
    negative, positive = counts[..., :_AUC_BINS], counts[..., _AUC_BINS:]
    below = np.cumsum(negative, axis=-1) - negative / 2
    return (positive * below).sum(axis=-1) / (positive.sum(axis=-1) * negative.sum(axis=-1))
