"""Filter and smooth a hidden Markov chain with known parameters (Hamilton 1989, Econometrica 57(2); Kim 1994)."""

from collections.abc import Sequence

import numpy as np

__all__ = ["filter_states", "sticky_transitions", "student_evidence", "with_hindsight"]


def sticky_transitions(mean_durations: Sequence[float]) -> np.ndarray:
    """Return P(next state | state) `[state, state]`: geometric durations, each change going to any other state alike."""
    leave = 1 / np.asarray(mean_durations, dtype=np.float64)
    transitions = np.repeat(leave[:, None] / (len(leave) - 1), len(leave), axis=1)
    np.fill_diagonal(transitions, 1 - leave)
    return transitions


def student_evidence(distance: np.ndarray, scale: np.ndarray, degrees: float, dimensions: int = 1) -> np.ndarray:
    """Return the log-likelihood of each state, up to a constant, where noise is Student-t of a given scale.

    Args:
        distance: Squared Mahalanobis distance from each state's mean in units of `scale` `[time, state]`.
        scale: Standard deviation of each state `[state]`.
        degrees: Degrees of freedom; more than 2.
        dimensions: Numbers observed per bar.
    """
    return -dimensions * np.log(scale) - (degrees + dimensions) / 2 * np.log1p(distance / (degrees - 2))


def filter_states(evidence: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Return P(state of bar t | bars up to t) `[..., time, state]`; a bar of NaN evidence says nothing.

    Args:
        evidence: Log-likelihood of each bar under each state `[..., time, state]`, up to a constant per bar.
        transitions: P(next state | state) `[state, state]`.
    """
    likelihood = _likelihood(evidence)
    filtered = np.empty_like(likelihood)
    state = np.full(likelihood[..., 0, :].shape, 1 / len(transitions))
    for bar in range(likelihood.shape[-2]):
        state = (state @ transitions) * likelihood[..., bar, :]
        state /= state.sum(axis=-1, keepdims=True)
        filtered[..., bar, :] = state
    return filtered


def with_hindsight(filtered: np.ndarray, evidence: np.ndarray, transitions: np.ndarray, bars: int) -> np.ndarray:
    """Return P(state of bar t | bars up to t + `bars`) `[time, state]`; fewer bars where the series ends."""
    likelihood = _likelihood(evidence)
    ahead = np.ones_like(likelihood)
    for lag in range(min(bars, len(likelihood) - 1), 0, -1):
        ahead[:-lag] = (likelihood[lag:] * ahead[:-lag]) @ transitions.T
        ahead[:-lag] /= ahead[:-lag].sum(axis=1, keepdims=True)
    smoothed = filtered * ahead
    return smoothed / smoothed.sum(axis=1, keepdims=True)


def _likelihood(evidence: np.ndarray) -> np.ndarray:
    silent = np.isnan(evidence).any(axis=-1, keepdims=True)
    return np.exp(np.where(silent, 0.0, evidence - evidence.max(axis=-1, keepdims=True)))
