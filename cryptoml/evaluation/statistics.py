"""Figures as functions of sums over bars, the form in which the bootstrap resamples them.

A draw of the block bootstrap then costs one look-up per block in prefix sums, whatever the figure. Panels are
`[asset, time]`; a pair counts where `rows` says so and both sides are known.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

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


def sharpe_statistic(returns: np.ndarray, bars_per_year: float, counted: np.ndarray | None = None) -> Statistic:
    """Return the annualised Sharpe ratio of returns `[time]`; NaN returns count as 0.

    Args:
        returns: Per bar.
        bars_per_year: Of that length.
        counted: Bool `[time]`, the bars that it is of; all where None.
    """
    counted = np.ones(len(returns), dtype=bool) if counted is None else counted
    returns = np.where(counted, np.nan_to_num(returns), 0.0)

    def ratio(sums: np.ndarray) -> np.ndarray:
        number = sums[..., 2]
        mean = sums[..., 0] / number
        variance = (sums[..., 1] - number * mean**2) / np.maximum(number - 1, 1)
        varies = variance > 1e-30 + 1e-12 * mean**2  # less is the rounding of one bar drawn again and again
        return np.where(varies, mean / np.sqrt(np.where(varies, variance, 1.0)), np.nan) * np.sqrt(bars_per_year)

    return Statistic(np.stack([returns, returns**2, counted], axis=1), ratio)


def auc_statistic(score: np.ndarray, positive: np.ndarray) -> Statistic:
    """Return the AUC, exact over all bars and linear around that: the sum of its structural components.

    Every positive row counts the share of negatives below it and every negative one the share of positives above (DeLong,
    DeLong & Clarke-Pearson 1988, eq. 4 and 5; ties half); a resample averages both and takes the AUC of the sample off.

    Args:
        score: `[asset, time]`, NaN where missing.
        positive: 0/1 with -1 for missing `[asset, time]`.
    """
    known = np.isfinite(score) & (positive >= 0)
    yes, no = known & (positive > 0), known & ~(positive > 0)
    below, above = np.zeros(score.shape), np.zeros(score.shape)
    num_yes, num_no = int(yes.sum()), int(no.sum())
    if num_yes and num_no:
        ranks = np.zeros(score.shape)
        ranks[known] = rankdata(score[known])
        below[yes] = (ranks[yes] - rankdata(score[yes])) / num_no
        above[no] = 1 - (ranks[no] - rankdata(score[no])) / num_yes
    area = below.sum() / num_yes if num_yes and num_no else np.nan
    columns = np.stack([side.sum(axis=0) for side in (below, yes, above, no)], axis=1).astype(np.float64)
    return Statistic(columns, lambda sums: _ratio(sums) + _ratio(sums[..., 2:]) - area)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]
