"""Whether the world has moved away from what a model knows: its inputs, its losses, its calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student

from cryptoml.evaluation.classification import expected_calibration_error
from cryptoml.evaluation.uncertainty import Interval, mean_interval
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.ensemble import Predictions

__all__ = ["Drift", "forecast_losses", "measure_drift", "past_stability", "population_stability", "shift_limits"]

SHIFTED = 0.25
"""The index below which no shift is called major (Siddiqi 2006, ch. 9); 0.1 to 0.25 is minor."""
SMALLEST_SHARE = 1e-4
SMALLEST_INDEX = 0.01
"""Added to an index before its logarithm is taken, as that of a constant is 0."""
SHIFT_CONFIDENCE = 0.95
PAST_PLACES = 12
LEAST_PLACES = 3


def population_stability(reference: np.ndarray, recent: np.ndarray, num_bins: int = 10) -> np.ndarray:
    """Return the population stability index of each column, sum((p - q) log(p / q)) over bins.

    Bins are the deciles of the reference, and one for missing values, so that an input that fails counts as a shift. A value
    that is as frequent as a decile has a bin of its own, and so has each value of a column of few: rare events and constants
    are seen to change.

    Args:
        reference: `[row, column]`, NaN where missing.
        recent: The same columns later.
        num_bins: Quantile bins of the reference.

    Returns:
        `[column]`; 0 for equal distributions.

    Raises:
        ValueError: The columns differ, or one side has no row.

    Source: Siddiqi, Credit Risk Scorecards (2006), ch. 9.
    """
    if reference.ndim != 2 or recent.ndim != 2 or reference.shape[1] != recent.shape[1] or not len(reference) or not len(recent):
        raise ValueError(f"reference and recent must be rows of the same columns, were {reference.shape} and {recent.shape}")
    return np.array([_stability(before, after, num_bins) for before, after in zip(reference.T, recent.T, strict=True)])


def _stability(before: np.ndarray, after: np.ndarray, num_bins: int) -> float:
    edges = _edges(before[~np.isnan(before)], num_bins)
    p, q = (_shares(values, edges) for values in (before, after))
    return float(((p - q) * np.log(p / q)).sum())


def _edges(present: np.ndarray, num_bins: int) -> np.ndarray:
    """Return where bins begin; one that holds a single value ends at the next number after it."""
    if not present.size:
        return present
    values, counts = np.unique(present, return_counts=True)
    few = len(values) <= 2 * num_bins
    single = values if few else values[counts * num_bins >= present.size]
    deciles = values[:0] if few else np.quantile(present, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.unique(np.concatenate([deciles, single, np.nextafter(single, np.inf)]))


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of rows in each bin, missing ones last; none is 0, as its logarithm is taken."""
    missing = np.isnan(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.maximum(np.bincount(bins, minlength=len(edges) + 2) / len(values), SMALLEST_SHARE)


def past_stability(features: np.ndarray, reference_bars: int, recent_bars: int, gap: int) -> np.ndarray:
    """Return how far features moved between stretches of the known past that lie as reference and newest bars do.

    Stretches of `recent_bars` go back from the end without overlap, each against the `reference_bars` before it; the oldest
    ones against what there is, but no less than as many bars as their own.

    Args:
        features: `[asset, time, feature]` that are known, NaN where missing.
        reference_bars: Length of a reference.
        recent_bars: Length of what is compared with it.
        gap: Bars between the two.

    Returns:
        Population stability `[place, feature]`, at most 12 places, the newest first; none where the past is too short.
    """
    starts = list(range(features.shape[1] - recent_bars, recent_bars + gap - 1, -recent_bars))[:PAST_PLACES]
    pairs = (
        (features[:, max(0, start - gap - reference_bars) : start - gap], features[:, start : start + recent_bars])
        for start in starts
    )
    rows = ((_present_rows(before), _present_rows(after)) for before, after in pairs)
    found = [population_stability(before, after) for before, after in rows if len(before) and len(after)]
    return np.array(found).reshape(len(found), features.shape[-1])


def shift_limits(past: np.ndarray) -> np.ndarray:
    """Return the index of each feature beyond which its shift is major, `[feature]`.

    It is 0.25, or more where the feature's own past moves more: the one-sided 95% prediction bound of one more draw from
    the logarithms (Hahn & Meeker, Statistical Intervals, 1991, ch. 4). Infinite with less than 3 places, which say nothing.

    Args:
        past: `past_stability`, `[place, feature]`.
    """
    count = len(past)
    if count < LEAST_PLACES:
        return np.full(past.shape[1], np.inf)
    logs = np.log(past + SMALLEST_INDEX)
    margin = student.ppf(SHIFT_CONFIDENCE, count - 1) * np.sqrt(1 + 1 / count) * logs.std(axis=0, ddof=1)
    return np.maximum(SHIFTED, np.exp(logs.mean(axis=0) + margin) - SMALLEST_INDEX)


def forecast_losses(predictions: Predictions, targets: Targets, bars: slice, config: TargetConfig) -> np.ndarray:
    """Return how wrong each forecast was `[asset, time]`: negative log likelihood of the direction plus the mean pinball loss.

    Returns and quantiles count in sigmas, so symbols and horizons weigh alike. NaN where forecast or label is missing.

    Args:
        predictions: On `bars`, `[asset, time, ...]`, in real units.
        targets: Labels of all bars.
        bars: Which of them.
        config: Horizons and quantile levels.
    """
    labels = targets.direction[:, bars]
    with np.errstate(divide="ignore", invalid="ignore"):
        chosen = np.take_along_axis(predictions.probabilities, np.maximum(labels, 0)[..., None].astype(int), axis=-1)[..., 0]
        surprise = np.where(labels >= 0, -np.log(np.maximum(chosen, 1e-12)), np.nan)
        scale = targets.sigma[:, bars, None] * np.sqrt(np.asarray(config.horizons, dtype=np.float64))
        error = (targets.log_return[:, bars, :, None] - predictions.quantiles) / scale[..., None]
    levels = np.asarray(config.quantiles)
    return surprise + np.maximum(levels * error, (levels - 1) * error).mean(axis=(2, 3))


@dataclass(frozen=True)
class Drift:
    """How the newest bars differ from the reference.

    Attributes:
        stability: Population stability index by feature, the largest against its limit first.
        shifted_share: Share of features beyond their limits.
        loss_before: Mean forecast loss on the reference bars, with its interval.
        loss_after: On the newest bars.
        calibration_before: Expected calibration error of the direction on the reference bars.
        calibration_after: On the newest bars.
        limits: `shift_limits` by feature.
    """

    stability: dict[str, float]
    shifted_share: float
    loss_before: Interval
    loss_after: Interval
    calibration_before: float
    calibration_after: float
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def loss_rose(self) -> bool:
        """Whether the loss rose beyond what both intervals allow."""
        return bool(self.loss_after.low > self.loss_before.high)

    def row(self, num_features: int = 10) -> dict[str, Any]:
        """Return plain values, with the features that shifted most."""
        most = list(self.stability)[:num_features]
        limits = {name: self.limits.get(name, np.inf) for name in most}
        return {
            "shifted_share": self.shifted_share,
            "most_shifted": {name: self.stability[name] for name in most},
            "limits": {name: limit if np.isfinite(limit) else None for name, limit in limits.items()},
            "loss_before": self.loss_before.row(),
            "loss_after": self.loss_after.row(),
            "loss_rose": self.loss_rose,
            "calibration_before": self.calibration_before,
            "calibration_after": self.calibration_after,
        }


def measure_drift(
    names: Sequence[str],
    features: tuple[np.ndarray, np.ndarray],
    losses: tuple[np.ndarray, np.ndarray],
    answers: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    limits: np.ndarray,
    label_bars: int,
) -> Drift:
    """Compare two stretches of bars, the reference first.

    Args:
        names: Of the features.
        features: `[asset, time, feature]`, NaN where missing.
        losses: `forecast_losses`, `[asset, time]`.
        answers: Probabilities `[asset, time, 3]` and labels `[asset, time]`, -1 where unknown.
        limits: `shift_limits`, `[feature]`.
        label_bars: Bars that a label spans.
    """
    index = population_stability(_present_rows(features[0]), _present_rows(features[1]))
    order = np.argsort(-index / np.where(np.isfinite(limits), limits, 1.0), kind="stable")
    before, after = (mean_interval(part, label_bars=label_bars) for part in losses)
    calibration = [expected_calibration_error(*part) for part in answers]
    stability, limit = ({names[place]: float(part[place]) for place in order} for part in (index, limits))
    return Drift(stability, float((index > limits).mean()), before, after, calibration[0], calibration[1], limit)


def _present_rows(features: np.ndarray) -> np.ndarray:
    rows = features.reshape(-1, features.shape[-1])
    return rows[~np.isnan(rows).all(axis=1)]
