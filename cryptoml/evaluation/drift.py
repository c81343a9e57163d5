"""Whether the world has moved away from what a model knows: its inputs, its losses, its calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryptoml.evaluation.classification import expected_calibration_error
from cryptoml.evaluation.statistics import pooled_mean_statistic
from cryptoml.evaluation.uncertainty import Interval, interval
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.ensemble import Predictions

__all__ = ["Drift", "forecast_losses", "measure_drift", "population_stability"]

SHIFTED = 0.25
"""The index from which a shift is called major (Siddiqi 2006, ch. 9); 0.1 to 0.25 is minor."""
SMALLEST_SHARE = 1e-4


def population_stability(reference: np.ndarray, recent: np.ndarray, num_bins: int = 10) -> np.ndarray:
    """Return the population stability index of each column, sum((p - q) log(p / q)) over bins.

    Bins are the deciles of the reference, and one for missing values, so that an input that fails counts as a shift.

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
    present = before[~np.isnan(before)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, num_bins + 1)[1:-1])) if present.size else np.zeros(0)
    p, q = (_shares(values, edges) for values in (before, after))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of rows in each bin, missing ones last; none is 0, as its logarithm is taken."""
    missing = np.isnan(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.maximum(np.bincount(bins, minlength=len(edges) + 2) / len(values), SMALLEST_SHARE)


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
        stability: Population stability index by feature, largest first.
        shifted_share: Share of features with a major shift.
        loss_before: Mean forecast loss on the reference bars, with its interval.
        loss_after: On the newest bars.
        calibration_before: Expected calibration error of the direction on the reference bars.
        calibration_after: On the newest bars.
    """

    stability: dict[str, float]
    shifted_share: float
    loss_before: Interval
    loss_after: Interval
    calibration_before: float
    calibration_after: float

    @property
    def loss_rose(self) -> bool:
        """Whether the loss rose beyond what both intervals allow."""
        return bool(self.loss_after.low > self.loss_before.high)

    def row(self, num_features: int = 10) -> dict[str, Any]:
        """Return plain values, with the features that shifted most."""
        return {
            "shifted_share": self.shifted_share,
            "most_shifted": dict(list(self.stability.items())[:num_features]),
            "loss_before": self.loss_before._asdict(),
            "loss_after": self.loss_after._asdict(),
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
    mean_block: float,
) -> Drift:
    """Compare two stretches of bars, the reference first.

    Args:
        names: Of the features.
        features: `[asset, time, feature]`, NaN where missing.
        losses: `forecast_losses`, `[asset, time]`.
        answers: Probabilities `[asset, time, 3]` and labels `[asset, time]`, -1 where unknown.
        mean_block: Mean bootstrap block in bars; at least the label's length.
    """
    index = population_stability(_present_rows(features[0]), _present_rows(features[1]))
    order = np.argsort(-index, kind="stable")
    before, after = (interval(pooled_mean_statistic(part), mean_block=mean_block) for part in losses)
    calibration = [expected_calibration_error(*part) for part in answers]
    stability = {names[place]: float(index[place]) for place in order}
    return Drift(stability, float((index > SHIFTED).mean()), before, after, calibration[0], calibration[1])


def _present_rows(features: np.ndarray) -> np.ndarray:
    rows = features.reshape(-1, features.shape[-1])
    return rows[~np.isnan(rows).all(axis=1)]
