"""Metrics of numeric forecasts: information coefficients, quantiles, volatility.

Panels are `[asset, time]`. A pair counts where both numbers are finite; an empty sample gives NaN.
"""

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "MIN_ASSETS",
    "coverage",
    "cross_sectional_ic",
    "ic_summary",
    "information_coefficient",
    "interval_coverage",
    "mean_absolute_error",
    "pinball_loss",
    "pinball_losses",
    "qlike",
    "qlike_losses",
    "rank_information_coefficient",
]

MIN_ASSETS = 3
"""Fewest assets whose correlation is worth a name."""


def information_coefficient(score: np.ndarray, realised: np.ndarray) -> float:
    """Return the Pearson correlation of score and realised return, pooled over everything."""
    score, realised = _pairs(score, realised)
    return _correlation(score, realised)


def rank_information_coefficient(score: np.ndarray, realised: np.ndarray) -> float:
    """Return the Spearman correlation of score and realised return, pooled over everything, ties averaged."""
    score, realised = _pairs(score, realised)
    return _correlation(rankdata(score), rankdata(realised))


def cross_sectional_ic(
    score: np.ndarray, realised: np.ndarray, *, ranked: bool = False, min_assets: int = MIN_ASSETS
) -> np.ndarray:
    """Return the correlation across assets at every bar `[time]`.

    NaN at bars with fewer than `min_assets` pairs, or where either side is constant.

    Args:
        score: `[asset, time]`.
        realised: `[asset, time]`.
        ranked: Spearman, ties averaged, instead of Pearson.
        min_assets: Fewest assets that make a correlation worth a name.
    """
    score, realised = np.asarray(score, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    both = np.isfinite(score) & np.isfinite(realised)
    left, right = np.where(both, score, np.nan), np.where(both, realised, np.nan)
    if ranked:
        left, right = (rankdata(side, axis=0, nan_policy="omit") for side in (left, right))
    return np.where(both.sum(axis=0) >= min_assets, _column_correlation(left, right, both), np.nan)


def ic_summary(per_bar: np.ndarray) -> tuple[float, float]:
    """Return mean IC and ICIR, the mean over the standard deviation of the per-bar ICs (not annualised)."""
    known = per_bar[np.isfinite(per_bar)]
    if known.size < 2:
        return float("nan"), float("nan")
    spread = known.std(ddof=1)
    return float(known.mean()), float(known.mean() / spread) if spread > 0 else float("nan")


def pinball_loss(quantiles: np.ndarray, realised: np.ndarray, levels: tuple[float, ...]) -> float:
    """Return the mean of `pinball_losses` over the rows that have one."""
    losses = pinball_losses(quantiles, realised, levels)
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")


def pinball_losses(quantiles: np.ndarray, realised: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return the pinball loss of every row, mean over its levels, in the unit of the return (Koenker & Bassett 1978).

    NaN where a quantile or the outcome is missing.

    Args:
        quantiles: `[..., quantile]`.
        realised: `[...]`.
        levels: Level of each quantile, in (0, 1).
    """
    error = np.asarray(realised, dtype=np.float64)[..., None] - quantiles
    level = np.asarray(levels)
    return np.maximum(level * error, (level - 1) * error).mean(axis=-1)


def coverage(quantile: np.ndarray, realised: np.ndarray) -> float:
    """Return the share of outcomes at or below the forecast quantile; a calibrated 0.1 quantile gives 0.1."""
    quantile, realised = _pairs(quantile, realised)
    return float(np.mean(realised <= quantile)) if realised.size else float("nan")


def interval_coverage(low: np.ndarray, high: np.ndarray, realised: np.ndarray) -> float:
    """Return the share of outcomes inside `[low, high]`."""
    low, high, realised = np.broadcast_arrays(low, high, realised)
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(realised)
    inside = (realised >= low) & (realised <= high)
    return float(inside[known].mean()) if known.any() else float("nan")


def qlike(volatility: np.ndarray, realised: np.ndarray) -> float:
    """Return the mean of `qlike_losses` over the rows that have one."""
    losses = qlike_losses(volatility, realised)
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")


def qlike_losses(volatility: np.ndarray, realised: np.ndarray) -> np.ndarray:
    """Return `x - ln x - 1` with `x = realised variance / forecast variance`, shape as given.

    Robust to noise in the realised variance (Patton 2011, eq. 24 up to a constant). 0 is perfect; too low a forecast costs
    more than too high a one. NaN where a side is missing, zero or less.

    Args:
        volatility: Forecast volatility (not variance).
        realised: Realised volatility over the same bars.
    """
    volatility, realised = np.asarray(volatility, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    ratio = np.full(volatility.shape, np.nan)
    np.divide(realised, volatility, out=ratio, where=(volatility > 0) & (realised > 0))
    return ratio**2 - 2 * np.log(ratio) - 1


def mean_absolute_error(forecast: np.ndarray, realised: np.ndarray) -> float:
    """Return the mean absolute error in the unit of the data."""
    forecast, realised = _pairs(forecast, realised)
    return float(np.abs(forecast - realised).mean()) if realised.size else float("nan")


def _pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(left, dtype=np.float64).ravel(), np.asarray(right, dtype=np.float64).ravel()
    known = np.isfinite(left) & np.isfinite(right)
    return left[known], right[known]


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    if left.size < 2:
        return float("nan")
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / scale) if scale > 0 else float("nan")


def _column_correlation(left: np.ndarray, right: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation down each column, over the rows that `both` marks."""
    count = np.maximum(both.sum(axis=0), 1)
    left, right = np.where(both, left, 0.0), np.where(both, right, 0.0)
    left = np.where(both, left - left.sum(axis=0) / count, 0.0)
    right = np.where(both, right - right.sum(axis=0) / count, 0.0)
    scale = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    return np.divide((left * right).sum(axis=0), scale, out=np.full(scale.shape, np.nan), where=scale > 1e-30)
