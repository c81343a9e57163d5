"""Fit a hidden Markov chain with Gaussian readings by expectation maximisation (Baum et al. 1970; Hamilton 1990)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["GaussianStates", "fit_states"]

SEGMENT_BARS = 500
_SMALLEST = 1e-3
_RISE = 1e-6  # of the log-likelihood per bar


@dataclass(frozen=True)
class GaussianStates:
    """A chain whose every state shows independent normal readings.

    Attributes:
        means: `[state, reading]`.
        deviations: Standard deviations `[state, reading]`.
        transitions: P(next state | state) `[state, state]`.
    """

    means: np.ndarray
    deviations: np.ndarray
    transitions: np.ndarray

    def evidence(self, readings: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of each state `[..., state]`, up to a constant; NaN where a reading `[..., reading]` is."""
        shocks = (readings[..., None, :] - self.means) / self.deviations
        return -(shocks**2 / 2 + np.log(self.deviations)).sum(axis=-1)

    def in_order(self, order: list[int]) -> "GaussianStates":
        """Return the same chain with its states in another order."""
        return GaussianStates(self.means[order], self.deviations[order], self.transitions[np.ix_(order, order)])


def fit_states(
    readings: np.ndarray,
    starts: Sequence[GaussianStates],
    *,
    prior_bars: float,
    shared: tuple[int, ...] = (),
    max_steps: int = 100,
) -> GaussianStates:
    """Raise the posterior of a chain's parameters from each start until it hardly rises any more; return the likeliest chain.

    The series is worked through in segments of `SEGMENT_BARS` side by side, each as if nothing was known before it.

    Args:
        readings: `[time, reading]`; a bar with NaN says nothing.
        starts: Where to start; their transitions are the prior of the transitions too (Dirichlet).
        prior_bars: Bars of each state that the prior is worth.
        shared: Readings whose deviation is the same in all states.
        max_steps: Steps at most, from each start.
    """
    segments = _segments(readings)
    found = [_climb(segments, start, prior_bars, shared, max_steps) for start in starts]
    return max(found, key=lambda one: one[1])[0]


def _climb(
    segments: np.ndarray, start: GaussianStates, prior_bars: float, shared: tuple[int, ...], max_steps: int
) -> tuple[GaussianStates, float]:
    """Return the chain at the top and the likelihood there."""
    states, last = start, -np.inf
    for _ in range(max_steps):
        seen, moves, likelihood = _expected(segments, states)
        if likelihood - last < _RISE * segments[..., 0].size:
            break
        last = likelihood
        transitions = moves + prior_bars * start.transitions
        states = replace(_moments(segments, seen, shared), transitions=transitions / transitions.sum(axis=1, keepdims=True))
    return states, last


def _segments(readings: np.ndarray) -> np.ndarray:
    """Return `[segment, bar, reading]`, filled up with NaN."""
    count = -(-len(readings) // SEGMENT_BARS)
    whole = np.full((count * SEGMENT_BARS, readings.shape[1]), np.nan)
    whole[: len(readings)] = readings
    return whole.reshape(count, SEGMENT_BARS, -1)


def _expected(segments: np.ndarray, states: GaussianStates) -> tuple[np.ndarray, np.ndarray, float]:
    """Return P(state | all) `[segment, bar, state]`, the expected number of moves `[state, state]`, and the log-likelihood."""
    evidence = states.evidence(segments)
    evidence = np.where(np.isnan(evidence), 0.0, evidence)
    best = evidence.max(axis=-1, keepdims=True)
    likelihood, transitions = np.exp(evidence - best), states.transitions
    forward, scale = _forward(likelihood, transitions)
    posterior, moves = np.empty_like(forward), np.zeros_like(transitions)
    backward = np.ones_like(forward[:, 0])
    for bar in range(SEGMENT_BARS - 1, -1, -1):
        posterior[:, bar] = forward[:, bar] * backward
        if bar:
            ahead = likelihood[:, bar] * backward / scale[:, bar, None]
            moves += transitions * (forward[:, bar - 1].T @ ahead)
            backward = ahead @ transitions.T
    return posterior, moves, float(np.log(scale).sum() + best.sum())


def _forward(likelihood: np.ndarray, transitions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return P(state | bars so far) and the likelihood of each bar given those before it."""
    filtered, scale = np.empty_like(likelihood), np.empty(likelihood.shape[:-1])
    state = np.full_like(likelihood[:, 0], 1 / likelihood.shape[-1])
    for bar in range(likelihood.shape[1]):
        state = (state @ transitions) * likelihood[:, bar]
        scale[:, bar] = state.sum(axis=-1)
        state = state / scale[:, bar, None]
        filtered[:, bar] = state
    return filtered, scale


def _moments(segments: np.ndarray, posterior: np.ndarray, shared: tuple[int, ...]) -> GaussianStates:
    """Return weighted means and deviations; the transitions are left empty."""
    known = np.isfinite(segments).all(axis=-1)
    values, weights = segments[known], posterior[known]
    total = weights.sum(axis=0)[:, None] + _SMALLEST
    means = weights.T @ values / total
    squares = np.einsum("bk,bkr->kr", weights, (values[:, None] - means) ** 2)
    variances = squares / total
    for reading in shared:
        variances[:, reading] = squares[:, reading].sum() / total.sum()
    return GaussianStates(means, np.sqrt(np.maximum(variances, _SMALLEST**2)), np.empty((0, 0)))
