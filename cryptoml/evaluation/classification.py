"""Metrics of class probabilities: accuracy, AUC, calibration.

Labels are integer classes with -1 for "missing"; a row counts where its label is not -1 and its probabilities (or
score) are not NaN. Arrays of any leading shape are accepted and flattened. An empty sample gives NaN.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "ConfidenceBucket",
    "accuracy",
    "auc",
    "brier_score",
    "confidence_buckets",
    "confidence_groups",
    "expected_calibration_error",
    "independence_accuracy",
    "likeliest",
    "log_loss",
    "log_losses",
    "macro_auc",
    "majority_share",
    "sign_accuracy",
    "top_confidence_accuracy",
]


@dataclass(frozen=True)
class ConfidenceBucket:
    """Forecasts whose confidence lies in `[low, high)`: is 0.65 right 65% of the time?"""

    low: float
    high: float
    count: int
    mean_confidence: float
    accuracy: float


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose likeliest class is the label. `[..., class]`, `[...]`."""
    probabilities, labels = _valid(probabilities, labels)
    return _mean(probabilities.argmax(axis=-1) == labels)


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Return the likeliest class of each row `[...]` of `[..., class]`, -1 where a probability is missing."""
    known = ~np.isnan(probabilities).any(axis=-1)
    return np.where(known, np.nan_to_num(probabilities).argmax(axis=-1), -1)


def independence_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy that the same mix of answers would have if it had nothing to do with the labels.

    `sum_k P(answer = k) P(label = k)` over the rows that count: the chance level of a forecaster that cannot know the
    majority class of the test span. NaN without rows.
    """
    probabilities, labels = _valid(probabilities, labels)
    if not len(labels):
        return float("nan")
    answers = np.bincount(probabilities.argmax(axis=-1), minlength=probabilities.shape[-1]) / len(labels)
    return float(answers @ (np.bincount(labels.astype(np.int64), minlength=len(answers)) / len(labels)))


def majority_share(labels: np.ndarray, num_classes: int | None = None) -> float:
    """Return the share of the most frequent class: what always naming it would have scored, known only afterwards."""
    labels = np.asarray(labels).ravel()
    known = labels[labels >= 0]
    return float(np.bincount(known, minlength=num_classes or 0).max() / known.size) if known.size else float("nan")


def sign_accuracy(score: np.ndarray, realised: np.ndarray) -> float:
    """Return the share of rows where score and realised return have the same sign; zeros on either side are left out."""
    product = np.sign(np.asarray(score, dtype=np.float64)) * np.sign(np.asarray(realised, dtype=np.float64))
    decided = product[np.isfinite(product) & (product != 0)]
    return _mean(decided > 0)


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve by ranks (Mann-Whitney), ties counted half.

    Args:
        score: Larger means "positive" is likelier; NaN rows are left out.
        positive: Bool, or 0/1 with -1 for missing, same shape.
    """
    score, positive = np.asarray(score, dtype=np.float64).ravel(), np.asarray(positive).ravel().astype(np.int8)
    known = np.isfinite(score) & (positive >= 0)
    score, positive = score[known], positive[known] == 1
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    rank_sum = rankdata(score)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean one-against-rest AUC over the classes that occur."""
    probabilities, labels = _valid(probabilities, labels)
    areas = [auc(probabilities[:, column], labels == column) for column in range(probabilities.shape[-1])]
    known = [area for area in areas if np.isfinite(area)]
    return float(np.mean(known)) if known else float("nan")


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of `log_losses` over the rows that count."""
    losses = log_losses(probabilities, labels)
    return _mean(losses[np.isfinite(losses)])


def log_losses(probabilities: np.ndarray, labels: np.ndarray, floor: float = 1e-12) -> np.ndarray:
    """Return the negative log probability of each label `[...]`, in nats; NaN for a row that does not count.

    Args:
        probabilities: `[..., class]`; those below `floor` count as `floor`.
        labels: `[...]`.
        floor: Least probability.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    known = (labels >= 0) & ~np.isnan(probabilities).any(axis=-1)
    of_label = np.take_along_axis(probabilities, np.maximum(labels, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.where(known, -np.log(np.maximum(np.where(known, of_label, 1.0), floor)), np.nan)


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the multi-class Brier score, in [0, 2] (Brier 1950)."""
    probabilities, labels = _valid(probabilities, labels)
    hits = labels[:, None] == np.arange(probabilities.shape[-1])
    return _mean(((probabilities - hits) ** 2).sum(axis=-1))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equally wide bins (Guo et al. 2017, eq. 3)."""
    buckets = confidence_buckets(probabilities, labels, num_bins=num_bins)
    total = sum(bucket.count for bucket in buckets)
    if not total:
        return float("nan")
    return sum(bucket.count * abs(bucket.accuracy - bucket.mean_confidence) for bucket in buckets) / total


def confidence_buckets(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> list[ConfidenceBucket]:
    """Return accuracy and mean confidence per equally wide confidence bin; empty bins are left out."""
    probabilities, labels = _valid(probabilities, labels)
    confidence = probabilities.max(axis=-1) if labels.size else np.empty(0)
    right = probabilities.argmax(axis=-1) == labels
    position = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(position, minlength=num_bins)
    confidences = np.bincount(position, weights=confidence, minlength=num_bins)
    rights = np.bincount(position, weights=right, minlength=num_bins)
    return [
        ConfidenceBucket(
            index / num_bins,
            (index + 1) / num_bins,
            int(counts[index]),
            float(confidences[index] / counts[index]),
            float(rights[index] / counts[index]),
        )
        for index in np.flatnonzero(counts)
    ]


def confidence_groups(probabilities: np.ndarray, labels: np.ndarray, num_groups: int = 10) -> list[ConfidenceBucket]:
    """Return accuracy by rank of confidence: equally full groups, least confident first; empty ones are left out."""
    probabilities, labels = _valid(probabilities, labels)
    if not labels.size:
        return []
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    return [
        ConfidenceBucket(
            float(confidence[rows].min()),
            float(confidence[rows].max()),
            len(rows),
            float(confidence[rows].mean()),
            float(right[rows].mean()),
        )
        for rows in np.array_split(np.argsort(confidence, kind="stable"), num_groups)
        if len(rows)
    ]


def top_confidence_accuracy(probabilities: np.ndarray, labels: np.ndarray, share: float = 0.1) -> float:
    """Return the accuracy on the most confident `share` of the rows (at least one row)."""
    probabilities, labels = _valid(probabilities, labels)
    if not labels.size:
        return float("nan")
    confidence = probabilities.max(axis=-1)
    chosen = np.argsort(-confidence, kind="stable")[: max(1, round(share * labels.size))]
    return _mean(probabilities[chosen].argmax(axis=-1) == labels[chosen])


def _valid(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 `[row, class]` and int `[row]` of the rows that count."""
    probabilities = np.asarray(probabilities)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    labels = np.asarray(labels).ravel().astype(np.int64)
    known = (labels >= 0) & ~np.isnan(flat).any(axis=-1)
    return flat[known].astype(np.float64), labels[known]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else float("nan")
