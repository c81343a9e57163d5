"""The best possible direction forecast of the built-in market, by Monte Carlo from its true state."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cryptoml.data.synthetic.dynamics import Dynamics, Path

__all__ = ["DirectionCeiling", "direction_ceiling"]

CHUNK_CELLS = 1_500_000
"""Cells of bar x path x asset simulated at once; some fifteen float32 arrays of this size exist together (100 MB)."""


@dataclass(frozen=True)
class DirectionCeiling:
    """What a forecaster that knows the true state and the true equations attains.

    Attributes:
        bars: int `[bar]`, the sampled forecast origins.
        probabilities: float32 `[asset, bar, 3]` of DOWN, SIDEWAYS, UP.
        up_probability: float32 `[asset, bar]`, that the forward return is positive.
        accuracy: Expected share of right classes. Cross-fitted: the class is chosen on one half of the paths and scored
            on the other, so finite sampling can only make it too low.
        sign_accuracy: The same for the sign of the forward return.
        majority_share: Share of the commonest realised class on these bars: what chance attains.
        realised_accuracy: Share of realised classes that the oracle's choice hit.
        realised_sign_accuracy: Share of realised signs that it hit.
        num_labels: Number of asset-bars that were scored (finite threshold, label inside the data).
    """

    bars: np.ndarray
    probabilities: np.ndarray
    up_probability: np.ndarray
    accuracy: float
    sign_accuracy: float
    majority_share: float
    realised_accuracy: float
    realised_sign_accuracy: float
    num_labels: int

    def share_of_ceiling(self, accuracy: float) -> float:
        """Return how far an accuracy lies on the way from chance (0) to the ceiling (1)."""
        return (accuracy - self.majority_share) / (self.accuracy - self.majority_share)


def direction_ceiling(
    dynamics: Dynamics,
    path: Path,
    horizon_bars: int,
    threshold: np.ndarray,
    bars: np.ndarray,
    num_paths: int,
    rng: np.random.Generator,
) -> DirectionCeiling:
    """Score the oracle at the given bars, all of which must have their label inside the data.

    Args:
        dynamics: Equations of the market.
        path: The history whose states are the starting points.
        horizon_bars: Bars ahead.
        threshold: `[asset, time]` log-return beyond which a move is UP or DOWN; NaN excludes an asset-bar.
        bars: int `[bar]`, forecast origins.
        num_paths: Simulated futures per bar, even.
        rng: Source of randomness.
    """
    limits = threshold[:, bars]
    realised = path.deviation[bars + horizon_bars].T - path.deviation[bars].T
    counts = _count_outcomes(dynamics, path, horizon_bars, limits, bars, num_paths, rng)
    scored = np.isfinite(limits)
    labels = np.where(realised < -limits, 0, np.where(realised > limits, 2, 1))
    probabilities = counts.classes.sum(axis=0) / np.float32(num_paths)
    up = counts.ups.sum(axis=0) / np.float32(num_paths)
    shares = np.bincount(labels[scored], minlength=3) / scored.sum()
    return DirectionCeiling(
        bars=bars,
        probabilities=np.where(scored[..., None], probabilities, np.float32(np.nan)),
        up_probability=up,
        accuracy=_cross_fitted(counts.classes, scored),
        sign_accuracy=_cross_fitted(np.stack([num_paths // 2 - counts.ups, counts.ups], axis=-1), scored),
        majority_share=float(shares.max()),
        realised_accuracy=float((probabilities.argmax(axis=-1) == labels)[scored].mean()),
        realised_sign_accuracy=float(((up > 0.5) == (realised > 0))[scored].mean()),
        num_labels=int(scored.sum()),
    )


class _Counts(NamedTuple):
    """Simulated outcomes by half of the paths: `classes` `[half, asset, bar, 3]` and `ups` `[half, asset, bar]`."""

    classes: np.ndarray
    ups: np.ndarray


def _count_outcomes(
    dynamics: Dynamics,
    path: Path,
    horizon_bars: int,
    limits: np.ndarray,
    bars: np.ndarray,
    num_paths: int,
    rng: np.random.Generator,
) -> _Counts:
    chunk = max(1, CHUNK_CELLS // (num_paths * len(limits)))
    counts = _Counts(np.zeros((2, *limits.shape, 3), np.float32), np.zeros((2, *limits.shape), np.float32))
    for first in range(0, len(bars), chunk):
        part = slice(first, first + chunk)
        moves = _simulate_moves(dynamics, path, horizon_bars, bars[part], num_paths, rng)
        limit = limits[:, part].T[:, None]
        for half, block in enumerate(np.split(moves, 2, axis=1)):
            down, up = (block < -limit).sum(axis=1).T, (block > limit).sum(axis=1).T
            counts.classes[half, :, part] = np.stack([down, block.shape[1] - down - up, up], axis=-1)
            counts.ups[half, :, part] = (block > 0).sum(axis=1).T
    return counts


def _simulate_moves(
    dynamics: Dynamics, path: Path, horizon_bars: int, bars: np.ndarray, num_paths: int, rng: np.random.Generator
) -> np.ndarray:
    """Return simulated log-returns over the horizon, float32 `[bar, path, asset]`."""
    shape = (len(bars), num_paths, path.flow.shape[1])
    start = [np.broadcast_to(state[bars, None].astype(np.float32), shape) for state in _states(path)]
    flow, log_volatility, trail, first_deviation = start
    regimes = np.broadcast_to(path.regimes[bars, None], shape[:2])
    deviation = first_deviation
    std = dynamics.config.log_volatility_std
    for _ in range(horizon_bars):
        volatility = dynamics.volatility(log_volatility, regimes).astype(np.float32)
        z = dynamics.mean(flow, trail, deviation, volatility, regimes).astype(np.float32) + _noise(dynamics, shape, rng)
        deviation = deviation + volatility * z
        trail = dynamics.next_trail(trail, z)
        flow = _autoregress(flow, dynamics.flow_decay, 1.0, rng)
        log_volatility = _autoregress(log_volatility, dynamics.volatility_decay, std, rng)
        regimes = dynamics.next_regimes(rng, regimes)
    return deviation - first_deviation


def _states(path: Path) -> tuple[np.ndarray, ...]:
    return path.flow, path.log_volatility, path.trail, path.deviation


def _autoregress(state: np.ndarray, decay: float, std: float, rng: np.random.Generator) -> np.ndarray:
    shocks = rng.standard_normal(state.shape, dtype=np.float32)
    shocks *= std * (1 - decay**2) ** 0.5
    shocks += np.float32(decay) * state
    return shocks


def _noise(dynamics: Dynamics, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw market and own shocks as the history's, float32 `[bar, path, asset]`."""
    share = dynamics.config.market_share
    degrees = dynamics.config.tail_degrees
    noise = _student(degrees, shape, rng)
    noise *= (1 - share) ** 0.5
    noise += share**0.5 * _student(degrees, (*shape[:2], 1), rng)
    return noise


def _student(degrees: float, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw Student-t of unit variance as normal over root chi-square: numpy's own has no float32 form."""
    chi_square = rng.standard_gamma(degrees / 2, shape, dtype=np.float32)
    chi_square *= 2 / (degrees - 2)
    np.sqrt(chi_square, out=chi_square)
    return rng.standard_normal(shape, dtype=np.float32) / chi_square


def _cross_fitted(counts: np.ndarray, scored: np.ndarray) -> float:
    """Choose by one half of `[half, asset, bar, class]`, score on the other, both ways."""
    shares = counts / counts.sum(axis=-1, keepdims=True)
    choices = counts.argmax(axis=-1)[..., None]
    hits = [np.take_along_axis(shares[1 - half], choices[half], axis=-1)[..., 0][scored].mean() for half in (0, 1)]
    return float(np.mean(hits))
