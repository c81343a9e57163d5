"""Rolling kernels whose value depends on the window's bars alone.

Every kernel folds a window by doubling: the statistic of 2k bars is merged from those of the recent k and the older k
bars, so `log2(window)` vectorised merges replace a running sum. Nothing outside the window ever enters, hence no drift
after a spike, sharding gives the same bits as the whole series, and a NaN spoils only the windows that hold it. Means
and variances are merged as in Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
sample variances": no cancellation, and a constant series has exactly zero variance.

All kernels work along the last axis, take float64 arrays `[..., time]` and return the same shape, with NaN in the first
`window - 1` places.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.trace import Series, elementwise

__all__ = [
    "FOLD_OF",
    "FORGOTTEN",
    "decay_of_halflife",
    "decay_of_span",
    "decay_of_wilder",
    "decayed_sum",
    "delay",
    "ema",
    "ema_window",
    "rolling_comoment",
    "rolling_max",
    "rolling_mean",
    "rolling_min",
    "rolling_moments",
    "rolling_slope",
    "rolling_std",
    "rolling_sum",
    "rolling_wma",
    "safe_ratio",
    "span_ema",
    "span_window",
    "wilder",
    "wilder_window",
    "zscore",
]

FloatArray = NDArray[np.float64]
State = tuple[FloatArray, ...]
Merge = Callable[[State, State, int, int], State]
ArrayMerge = Callable[[FloatArray, FloatArray, int, int], FloatArray]
Folds = dict[int, Any]

FORGOTTEN = 1e-8
"""Share of an exponential average's weight that may lie beyond its declared window."""


def _fold(state: State, window: int, merge: Merge) -> State:
    """Merge `window` consecutive single-bar states; the result has `window - 1` fewer bars, aligned to the end."""
    folded, size = state, 1
    for bit in bin(window)[3:]:
        folded = merge(tuple(part[..., size:] for part in folded), tuple(part[..., :-size] for part in folded), size, size)
        size *= 2
        if bit == "1":
            folded = merge(tuple(part[..., size:] for part in state), tuple(part[..., :-1] for part in folded), 1, size)
            size += 1
    return folded


def _aligned(folded: FloatArray, like: FloatArray) -> FloatArray:
    """Return `folded` padded with leading NaN to the shape of `like`."""
    if folded.shape == like.shape:
        return folded
    out = np.empty(like.shape)
    first = like.shape[-1] - folded.shape[-1]
    out[..., :first] = np.nan
    out[..., first:] = folded
    return out


def _roll(values: FloatArray, window: int, merge: ArrayMerge, folds: Folds | None) -> FloatArray:
    """Fold a state of one array, taking up what is already in `folds`."""
    folds = {} if folds is None else folds
    folded, size = values, 1
    for bit in bin(window)[3:]:
        total = 2 * size + (bit == "1")
        if total not in folds:
            folded = merge(folded[..., size:], folded[..., :-size], size, size)
            folds[total] = merge(values[..., 2 * size :], folded[..., :-1], 1, 2 * size) if bit == "1" else folded
        folded, size = folds[total], total
    return _aligned(folded, values)


def _roll_overlapping(values: FloatArray, window: int, merge: np.ufunc, folds: Folds | None) -> FloatArray:
    """Fold by a merge that does not mind counting a bar twice, so that the last step may overlap."""
    folds = {} if folds is None else folds
    folded, size = values, 1
    while size < window:
        step = min(size, window - size)
        if size + step not in folds:
            folds[size + step] = merge(folded[..., step:], folded[..., :-step])
        folded, size = folds[size + step], size + step
    return _aligned(folded, values)


def rolling_sum(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Sum over the last `window` bars, by pairwise addition."""
    return _roll(values, window, lambda recent, older, n, m: recent + older, folds)


def rolling_max(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Largest value of the last `window` bars."""
    return _roll_overlapping(values, window, np.maximum, folds)


def rolling_min(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Smallest value of the last `window` bars."""
    return _roll_overlapping(values, window, np.minimum, folds)


@elementwise
def _merge_mean(recent: FloatArray, older: FloatArray, share: float) -> FloatArray:
    """Return `recent + (older - recent) * share` in one temporary array."""
    merged = older - recent
    merged *= share
    merged += recent
    return merged


def rolling_mean(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Mean of the last `window` bars; exact for a constant series."""
    return _roll(values, window, lambda recent, older, n, m: _merge_mean(recent, older, m / (n + m)), folds)


def decayed_sum(values: FloatArray, decay: float, window: int) -> FloatArray:
    """Sum of `decay**k * values[t - k]` for `k < window`."""
    return _roll(values, window, lambda recent, older, n, m: recent + decay**n * older, None)


def decay_of_span(span: float) -> float:
    """Return the weight ratio of neighbouring bars in an EMA of `span` bars: `1 - 2 / (span + 1)`."""
    return 1.0 - 2.0 / (span + 1.0)


def decay_of_wilder(period: float) -> float:
    """Return the weight ratio of Wilder's smoothing: `1 - 1 / period`."""
    return 1.0 - 1.0 / period


def decay_of_halflife(halflife: float) -> float:
    """Return the weight ratio after which `halflife` bars halve a weight."""
    return 0.5 ** (1.0 / halflife)


def ema_window(decay: float) -> int:
    """Return the bars an exponential average keeps: all but `FORGOTTEN` of its weight, rounded up to three binary digits."""
    if decay <= 0.0:
        return 1
    needed = math.ceil(math.log(FORGOTTEN) / math.log(decay))
    unit = 2 ** max(needed.bit_length() - 3, 0)
    return -(-needed // unit) * unit


def ema(values: FloatArray, decay: float, window: int | None = None) -> FloatArray:
    """Exponential mean over exactly `ema_window(decay)` bars: weights `decay**k`, renormalised to sum to one.

    Cutting the tail makes the contract exact: the value depends on the declared window and nothing older, at the price
    of a relative difference of `FORGOTTEN` from the endless recursion.
    """

    def merge(recent: FloatArray, older: FloatArray, n: int, m: int) -> FloatArray:
        old_weight = decay**n * (1.0 - decay**m)
        return _merge_mean(recent, older, old_weight / (1.0 - decay**n + old_weight))

    return _roll(values, window or ema_window(decay), merge, None)


def span_window(span: int) -> int:
    """Return the bars that an EMA of `span` bars keeps."""
    return ema_window(decay_of_span(span))


def wilder_window(period: int) -> int:
    """Return the bars that Wilder's smoothing of `period` bars keeps."""
    return ema_window(decay_of_wilder(period))


def span_ema(values: FloatArray, span: int) -> FloatArray:
    """Exponential mean with `alpha = 2 / (span + 1)`, over `span_window(span)` bars."""
    return ema(values, decay_of_span(span))


def wilder(values: FloatArray, period: int) -> FloatArray:
    """Wilder's smoothing, `alpha = 1 / period`, over `wilder_window(period)` bars (Wilder 1978)."""
    return ema(values, decay_of_wilder(period))


def rolling_moments(values: FloatArray, window: int, folds: Folds | None = None) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the sum of squared deviations of the last `window` bars (Chan et al. 1979, eq. 2.1)."""
    folds = {} if folds is None else folds
    state, size = (values, 0.0 * values), 1
    for bit in bin(window)[3:]:
        total = 2 * size + (bit == "1")
        if total not in folds:
            folds[total] = _double_moments(values, state, size, total)
        state, size = folds[total], total
    return _aligned(state[0], values), _aligned(state[1], values)


def _double_moments(values: FloatArray, state: State, size: int, total: int) -> State:
    """Return the moments of `total` bars, twice `size` or one more, from those of `size` bars."""
    mean, squares = state
    recent, older = mean[..., size:], mean[..., :-size]
    doubled = _merge_squares(recent, older, size / 2.0)
    if size > 1:
        doubled += squares[..., size:] + squares[..., :-size]
    mean = _merge_mean(recent, older, 0.5)
    if total == 2 * size:
        return mean, doubled
    recent, older, share = values[..., 2 * size :], mean[..., :-1], (total - 1) / total
    return _merge_mean(recent, older, share), doubled[..., :-1] + _merge_squares(recent, older, share)


@elementwise
def _merge_squares(recent: FloatArray, older: FloatArray, weight: float) -> FloatArray:
    """Return the squares between two blocks with these means; the weight is `n m / (n + m)` for n and m bars."""
    between = older - recent
    between *= between
    between *= weight
    return between


@elementwise
def _merge_products(x: FloatArray, older_x: FloatArray, y: FloatArray, older_y: FloatArray, weight: float) -> FloatArray:
    """Return the products between two blocks with these means of x and y; see `_merge_squares`."""
    between = older_x - x
    between = between * (older_y - y)
    between *= weight
    return between


def rolling_std(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Sample standard deviation of the last `window` bars; zero for a single bar."""
    return np.sqrt(rolling_moments(values, window, folds)[1] / max(window - 1, 1))


def zscore(values: FloatArray, window: int, folds: Folds | None = None) -> FloatArray:
    """Deviation from the mean of the last `window` bars in standard deviations; zero where nothing moved."""
    mean, squares = rolling_moments(values, window, folds)
    return safe_ratio(values - mean, np.sqrt(squares / max(window - 1, 1)), 0.0)


def rolling_comoment(x: FloatArray, y: FloatArray, window: int) -> FloatArray:
    """Return the sum of products of deviations of x and y over the last `window` bars; y may be `[time]` for many x."""

    def merge(recent: State, older: State, n: int, m: int) -> State:
        products = _merge_products(recent[0], older[0], recent[1], older[1], n * m / (n + m))
        products += recent[2] + older[2]
        share = m / (n + m)
        return _merge_mean(recent[0], older[0], share), _merge_mean(recent[1], older[1], share), products

    none = 0.0 * x * y
    return _aligned(_fold((x, y, none), window, merge)[2], none)


def _products_with_time(values: FloatArray, window: int) -> FloatArray:
    """Return the sum of products of the deviations of values and of time, which runs forward, over the last `window` bars."""

    def merge(recent: State, older: State, n: int, m: int) -> State:
        products = recent[1] + older[1] + (recent[0] - older[0]) * (n * m / 2.0)
        return _merge_mean(recent[0], older[0], m / (n + m)), products

    return _aligned(_fold((values, 0.0 * values), window, merge)[1], values)


def rolling_slope(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Fit a line to the last `window` bars by least squares; return its slope per bar and its R squared (0 when flat)."""
    squares, products = rolling_moments(values, window)[1], _products_with_time(values, window)
    time_squares = window * (window * window - 1.0) / 12.0
    return products / time_squares, safe_ratio(products * products, squares * time_squares, 0.0)


def rolling_wma(values: FloatArray, window: int) -> FloatArray:
    """Linearly weighted mean: the newest bar weighs `window`, the oldest 1."""
    weight = 2.0 / (window * (window + 1.0))
    return rolling_mean(values, window) + _products_with_time(values, window) * weight


FOLD_OF = {
    rolling_sum: "sum",
    rolling_max: "max",
    rolling_min: "min",
    rolling_mean: "mean",
    rolling_std: "moments",
    rolling_moments: "moments",
    zscore: "moments",
}
"""Kernels that take `folds`, and whose states they may share where the series is the same."""


def delay(values: FloatArray, bars: int) -> FloatArray:
    """Return the series `bars` earlier; NaN in the first `bars` places."""
    if isinstance(values, Series):
        return values.tape.delay(values, bars)
    out = np.empty_like(values)
    out[..., :bars] = np.nan
    out[..., bars:] = values[..., : values.shape[-1] - bars] if bars < values.shape[-1] else out[..., bars:]
    return out


@elementwise
def safe_ratio(numerator: FloatArray, denominator: FloatArray, undefined: float = np.nan) -> FloatArray:
    """Return `numerator / denominator`, and `undefined` where the denominator is zero; NaN stays NaN."""
    if np.count_nonzero(denominator) == np.size(denominator):
        return numerator / denominator
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), undefined)
    return np.divide(numerator, denominator, out=out, where=denominator != 0.0)
