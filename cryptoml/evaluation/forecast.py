"""Metrics of numeric forecasts: information coefficients, quantiles, volatility.

Panels are `[asset, time]`. A pair counts where both numbers are finite; an empty sample gives NaN.
"""

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "coverage",
    "cross_sectional_ic",
    "ic_summary",
    "information_coefficient",
    "interval_coverage",
    "mean_absolute_error",
    "pinball_loss",
    "qlike",
    "rank_information_coefficient",
]


def information_coefficient(score: np.ndarray, realised: np.ndarray) -> float:
    """Return the Pearson correlation of score and realised return, pooled over everything."""
    score, realised = _pairs(score, realised)
    return _correlation(score, realised)


def rank_information_coefficient(score: np.ndarray, realised: np.ndarray) -> float:
    """Return the Spearman correlation of score and realised return, pooled over everything, ties averaged."""
    score, realised = _pairs(score, realised)
    return _correlation(rankdata(score), rankdata(realised))


def cross_sectional_ic(score: np.ndarray, realised: np.ndarray, *, ranked: bool = False, min_assets: int = 3) -> np.ndarray:
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
    """Return the mean pinball loss over rows and levels, in the unit of the return (Koenker & Bassett 1978).

    Args:
        quantiles: `[..., quantile]`.
        realised: `[...]`.
        levels: Level of each quantile, in (0, 1).
    """
    error = np.asarray(realised, dtype=np.float64)[..., None] - quantiles
    level = np.asarray(levels)
    loss = np.maximum(level * error, (level - 1) * error)
    rows = loss[np.isfinite(loss).all(axis=-1)]
    return float(rows.mean()) if rows.size else float("nan")


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
    """Return the mean QLIKE loss of variance forecasts, `v/f - log(v/f) - 1` with v realised and f forecast variance.

    Robust to noise in the realised variance (Patton 2011, eq. 24 up to a constant). Zero is perfect. Rows with a forecast
    or an outcome of zero or less are left out.

    Args:
        volatility: Forecast volatility (not variance).
        realised: Realised volatility over the same bars.
    """
    volatility, realised = _pairs(volatility, realised)
    usable = (volatility > 0) & (realised > 0)
    ratio = (realised[usable] / volatility[usable]) ** 2
    return float(np.mean(ratio - np.log(ratio) - 1)) if ratio.size else float("nan")


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
