"""Fit ensemble weights, a temperature and quantile shifts on validation predictions: pure functions of arrays."""

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import minimize_scalar

__all__ = ["conformal_shifts", "convex_weights", "fit_temperature", "log_loss", "prudent_weights", "tempered"]

_SMALLEST = 1e-12
_MAX_STEPS = 2000
_TOLERANCE = 1e-10


def log_loss(probabilities: Float[np.ndarray, "sample class"], labels: Integer[np.ndarray, " sample"]) -> float:
    """Mean negative log probability of the labels, in nats."""
    return float(-np.mean(np.log(np.maximum(_of_labels(probabilities, labels), _SMALLEST))))


def tempered(probabilities: Float[np.ndarray, "*lead class"], temperature: float) -> Float[np.ndarray, "*lead class"]:
    """Flatten (temperature above 1) or sharpen (below 1) probabilities: softmax of log p / temperature. NaN passes through."""
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def convex_weights(
    member_probabilities: Float[np.ndarray, "member sample class"], labels: Integer[np.ndarray, " sample"]
) -> Float[np.ndarray, " member"]:
    """Weights of the mixture of members with the least log loss: at least 0, summing to 1.

    The loss is convex in the weights; expectation maximisation lowers it at every step from equal weights. Never worse on
    these samples than equal weights or than any single member.

    Raises:
        ValueError: shapes that do not fit, no sample, or labels outside the classes.
    """
    probabilities = np.asarray(member_probabilities, dtype=np.float64)
    if probabilities.ndim != 3:
        raise ValueError(f"member_probabilities must have shape [member, sample, class], was {list(probabilities.shape)}")
    likelihood = np.maximum(np.stack([_of_labels(member, labels) for member in probabilities]), _SMALLEST)
    count = len(likelihood)
    candidates = [_mixture_weights(likelihood), np.full(count, 1.0 / count), *np.eye(count)]
    losses = [-np.mean(np.log(weights @ likelihood)) for weights in candidates]
    return candidates[int(np.argmin(losses))]


def prudent_weights(
    member_probabilities: Float[np.ndarray, "member asset time class"],
    labels: Integer[np.ndarray, "asset time"],
    block_bars: int,
) -> Float[np.ndarray, " member"]:
    """Equal weights, unless those of `convex_weights` have a lower log loss beyond noise.

    Fitted weights follow the noise of a short validation span, so that equal ones forecast better out of sample unless
    members differ much: the forecast combination puzzle (Smith & Wallis 2009, Oxford Bulletin of Economics and Statistics
    71). The gain must exceed twice its standard error over blocks of bars, as labels of neighbouring bars overlap.

    Args:
        member_probabilities: On validation bars; NaN where there is no forecast.
        labels: -1 where missing.
        block_bars: Length of a block, at least that of a label.

    Raises:
        ValueError: shapes that do not fit, or no sample.
    """
    known = (labels >= 0) & np.isfinite(member_probabilities).all(axis=(0, -1))
    fitted = convex_weights(member_probabilities[:, known], labels[known])
    equal = np.full(len(fitted), 1.0 / len(fitted))
    likelihood = np.stack([_of_labels(member[known], labels[known]) for member in member_probabilities])
    gain = np.zeros(labels.shape)
    gain[known] = np.log(np.maximum(fitted @ likelihood, _SMALLEST)) - np.log(np.maximum(equal @ likelihood, _SMALLEST))
    per_bar = gain.sum(axis=0)
    count = len(per_bar) // block_bars
    if count < 2:
        return equal
    blocks = per_bar[: count * block_bars].reshape(count, block_bars).sum(axis=1)
    return fitted if blocks.mean() > 2.0 * blocks.std(ddof=1) / np.sqrt(count) else equal


def fit_temperature(probabilities: Float[np.ndarray, "sample class"], labels: Integer[np.ndarray, " sample"]) -> float:
    """Temperature that minimises log loss (Guo et al. 2017, section 4.2), between 0.05 and 20."""
    _of_labels(probabilities, labels)
    values = np.asarray(probabilities, dtype=np.float64)
    found = minimize_scalar(
        lambda exponent: log_loss(tempered(values, np.exp(exponent)), labels),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def conformal_shifts(
    quantiles: Float[np.ndarray, "sample horizon quantile"],
    outcomes: Float[np.ndarray, "sample horizon"],
    levels: tuple[float, ...],
) -> Float[np.ndarray, "horizon quantile"]:
    """Shift per quantile that gives each central interval its nominal coverage on these samples.

    Conformalised quantile regression in its symmetric form (Romano et al. 2019, eq. 5 and theorem 1): of each pair of
    levels (a, 1 - a) the lower one moves down and the upper one up by one distance (which may be negative, but never so
    far that they cross). The median and levels without a partner stay: moving them would fit the market's drift over the
    validation span. Samples with NaN are left out.

    Raises:
        ValueError: shapes that do not fit, or a horizon without any sample.
    """
    if quantiles.ndim != 3 or quantiles.shape[:2] != outcomes.shape or quantiles.shape[2] != len(levels):
        raise ValueError(
            f"quantiles must have shape [sample, horizon, {len(levels)}] for outcomes of shape {list(outcomes.shape)}, "
            f"was {list(quantiles.shape)}"
        )
    shifts = np.zeros(quantiles.shape[1:])
    for horizon in range(quantiles.shape[1]):
        values = quantiles[:, horizon].astype(np.float64)
        known = np.isfinite(outcomes[:, horizon]) & np.isfinite(values).all(axis=-1)
        if not known.any():
            raise ValueError("quantiles and outcomes must share at least one finite sample per horizon, had none")
        for low, high in _central_pairs(levels):
            widening = _widening(values[known], outcomes[known, horizon], low, high, levels[high] - levels[low])
            shifts[horizon, low], shifts[horizon, high] = -widening, widening
    return shifts


def _central_pairs(levels: tuple[float, ...]) -> list[tuple[int, int]]:
    """Positions of the pairs of levels (a, 1 - a) with a below one half."""
    pairs = [(low, high) for low in range(len(levels)) for high in range(low + 1, len(levels))]
    return [(low, high) for low, high in pairs if abs(levels[low] + levels[high] - 1.0) < 1e-9]


def _widening(values: np.ndarray, outcomes: np.ndarray, low: int, high: int, coverage: float) -> float:
    """Distance by which both ends move out so that `coverage` of the outcomes lie between them."""
    outside = np.sort(np.maximum(values[:, low] - outcomes, outcomes - values[:, high]))
    rank = int(np.clip(np.ceil((len(outside) + 1) * coverage), 1, len(outside)))
    return float(max(outside[rank - 1], -0.5 * (values[:, high] - values[:, low]).min()))


def _mixture_weights(likelihood: Float[np.ndarray, "member sample"]) -> Float[np.ndarray, " member"]:
    weights = np.full(len(likelihood), 1.0 / len(likelihood))
    for _ in range(_MAX_STEPS):
        updated = weights * (likelihood / (weights @ likelihood)).mean(axis=1)
        if np.abs(updated - weights).max() < _TOLERANCE:
            break
        weights = updated / updated.sum()
    return weights


def _of_labels(probabilities: Float[np.ndarray, "sample class"], labels: Integer[np.ndarray, " sample"]) -> np.ndarray:
    """Return the probability that each sample gives to its label."""
    samples, classes = np.shape(probabilities)
    if np.shape(labels) != (samples,) or not samples:
        raise ValueError(f"labels must have shape [{samples}] with at least one sample, was {list(np.shape(labels))}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be within 0 and {classes - 1}, was {labels.min()} to {labels.max()}")
    return np.asarray(probabilities, dtype=np.float64)[np.arange(samples), labels]
