"""How often a model of shuffled labels may be right by chance: as often as linear models of other shuffles are.

What learned from shuffled labels is a random function of the features. Features that tell of the future make random functions of
them right or wrong more often than coin tosses, and alike for months, so the control is judged against many such functions
(a permutation test: Ojala & Garriga 2010, Journal of Machine Learning Research 11): linear ones, of features as they are or
averaged over some bars, fitted closely or hardly at all, each giving every asset the classes that the control gave it as often.
"""

import numpy as np
from jaxtyping import Float32, Int
from scipy.signal import lfilter

from cryptoml.data.splits import Fold
from cryptoml.features.rolling import decay_of_halflife

__all__ = ["NUM_DRAWS", "chance_hits"]

NUM_DRAWS = 400
NUM_CLASSES = 3
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
        values, vectors = np.linalg.eigh(np.einsum("atf,atg->fg", known, known, optimize=True) / labels.size)
        for draw in np.flatnonzero(drawn == choice):
            order = rng.permutation(labels.shape[1])
            penalty = np.exp(rng.uniform(*np.log(PENALTIES)))
            moment = _moment(known, labels[:, order]) / labels.size
            weights = vectors @ ((vectors.T @ moment) / (np.maximum(values, 0.0) + penalty)[:, None])
            said = _of_the_same_mix(asked @ weights.astype(np.float32), answers)
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


def _moment(known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return `features.T @ (one-hot labels less their mean)` `[feature, class]`; rows without a label add nothing."""
    labelled = labels >= 0
    hot = (labels[..., None] == np.arange(NUM_CLASSES)).astype(np.float32)
    hot = np.where(labelled[..., None], hot - hot[labelled].mean(axis=0), np.float32(0))
    return np.asarray(known.reshape(-1, known.shape[-1]).T @ hot.reshape(-1, NUM_CLASSES), dtype=np.float64)


def _of_the_same_mix(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Give each asset UP where its score is highest against the others, then DOWN, as often as the answers have them."""
    said = np.where(answers >= 0, 1, -1)
    for row, score, given in zip(said, scores, answers, strict=True):
        free = np.flatnonzero(given >= 0)
        for label, lead in ((2, score[:, 2] - score[:, :2].max(axis=1)), (0, score[:, 0] - score[:, 1])):
            count = int((given == label).sum())
            ranked = free[np.argsort(-lead[free], kind="stable")]
            row[ranked[:count]] = label
            free = ranked[count:]
    return said
