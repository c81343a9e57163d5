"""How often a model of shuffled labels may be right by chance: as often as linear models of other shuffles are.

What learned from shuffled labels is a random function of the features. Features that tell of the future make random functions of
them right or wrong more often than coin tosses, and alike for months, so the control is judged against many such functions
(a permutation test: Ojala & Garriga 2010, Journal of Machine Learning Research 11): linear ones, of features as they are or
averaged over some bars, fitted closely or hardly at all, each giving every asset the classes that the control gave it as often.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int
from scipy.signal import lfilter

from cryptoml.data.splits import Fold
from cryptoml.features.rolling import decay_of_halflife

__all__ = ["NUM_DRAWS", "chance_hits"]

NUM_DRAWS = 400
NUM_CLASSES = 3
BATCH = 32
"""Models fitted at once: enough for the products to be limited by arithmetic, few enough for the memory of a laptop."""
MAX_TRAIN_ROWS = 100_000
AVERAGES = (0.0, 1 / 16, 1 / 4)
"""Half-lives of the features' averages as parts of the lookback; 0 leaves them as they are."""
PENALTIES = (1e-3, 1e2)
"""L2 penalties per row are drawn between, evenly on a log scale; features have about unit variance."""


def chance_hits(
    features: Float32[np.ndarray, "asset time feature"],
    direction: Int[np.ndarray, "asset time"],
    fold: Fold,
    answers: Int[np.ndarray, "asset test"],
    lookback: int,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Int[np.ndarray, " draw"]:
    """Return how many answers on the test bars are right when linear models of shuffled labels give them.

    Args:
        features: Scaled, of all bars; NaN counts as 0.
        direction: True classes of all bars, -1 where unknown.
        fold: Where the models learn and where they answer.
        answers: What the control said on the test bars, -1 where nothing.
        lookback: Bars of history that the control read.
        num_draws: Models, each of a shuffle of its own.
        seed: Of shuffles, averages and penalties.
    """
    rng = np.random.default_rng(seed)
    stride = max(1, -(-len(fold.train) * len(features) // MAX_TRAIN_ROWS))
    labels, truth = direction[:, fold.train.bars][:, ::stride], direction[:, fold.test.bars]
    drawn = rng.integers(0, len(AVERAGES), num_draws)
    hits = np.empty(num_draws, dtype=np.int64)
    for choice, share in enumerate(AVERAGES):
        smooth = (_averaged(one, share * lookback) for one in features)
        parts = [(one[fold.train.bars][::stride].copy(), one[fold.test.bars].copy()) for one in smooth]
        known, asked = (np.stack(part) for part in zip(*parts, strict=True))
        solve = _solver(known, labels)
        for draws in _batches(np.flatnonzero(drawn == choice)):
            shuffles = [(rng.permutation(labels.shape[1]), np.exp(rng.uniform(*np.log(PENALTIES)))) for _ in draws]
            scores = _scores(asked, solve(*(np.array(part) for part in zip(*shuffles, strict=True))))
            for place, draw in enumerate(draws):
                said = _of_the_same_mix(scores[:, :, place], answers)
                hits[draw] = ((said == truth) & (said >= 0) & (truth >= 0)).sum()
    return hits


def _averaged(values: np.ndarray, halflife: float) -> Float32[np.ndarray, "time feature"]:
    """Return exponential averages, brought back to the deviation that they had."""
    values = np.nan_to_num(values)
    if halflife <= 0:
        return values
    decay = decay_of_halflife(halflife)
    smooth = lfilter([1 - decay], [1, -decay], values, axis=0)
    spread = np.maximum(smooth.std(axis=0), 1e-6)
    return (smooth * (values.std(axis=0) / spread)).astype(np.float32)


def _batches(draws: np.ndarray) -> list[np.ndarray]:
    return [draws[start : start + BATCH] for start in range(0, len(draws), BATCH)]


def _solver(
    known: Float32[np.ndarray, "asset time feature"], labels: Int[np.ndarray, "asset time"]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of orders `[draw, time]` and penalties `[draw]` that fits ridge regressions of the labels so ordered.

    It returns weights `[feature, draw, class]`. All draws share one decomposition, and one product with the features.
    """
    rows = known.reshape(-1, known.shape[-1])
    values, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64) / labels.size)
    hot = _one_hot(labels)

    def solve(orders: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        shuffled = hot[:, orders.T].reshape(len(rows), -1)
        moments = (rows.T @ shuffled).astype(np.float64).reshape(-1, len(orders), NUM_CLASSES) / labels.size
        turned = np.tensordot(vectors.T, moments, 1) / (np.maximum(values, 0.0)[:, None, None] + penalties[:, None])
        return np.tensordot(vectors, turned, 1)

    return solve


def _one_hot(labels: Int[np.ndarray, "asset time"]) -> Float32[np.ndarray, "asset time class"]:
    """Return classes less their mean; bars without a label add nothing."""
    labelled = labels >= 0
    hot = (labels[..., None] == np.arange(NUM_CLASSES)).astype(np.float32)
    return np.where(labelled[..., None], hot - hot[labelled].mean(axis=0), np.float32(0))


def _scores(asked: Float32[np.ndarray, "asset test feature"], weights: np.ndarray) -> np.ndarray:
    """Return scores `[asset, test, draw, class]`."""
    return np.tensordot(asked, weights.astype(np.float32), 1)


def _of_the_same_mix(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Give each asset UP where its score is highest against the others, then DOWN, as often as the answers have them."""
    said = np.where(answers >= 0, 1, -1)
    for row, score, given in zip(said, scores, answers, strict=True):
        free = np.flatnonzero(given >= 0)
        for label, lead in ((2, score[:, 2] - score[:, :2].max(axis=1)), (0, score[:, 0] - score[:, 1])):
            count = int((given == label).sum())
            ranked = free[np.argpartition(-lead[free], count)] if 0 < count < len(free) else free
            row[ranked[:count]] = label
            free = ranked[count:]
    return said
