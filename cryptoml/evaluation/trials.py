"""What a search tried: every trial's returns on the bars it was chosen on, and how much of the winner is luck."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryptoml.evaluation.selection import backtest_overfitting
from cryptoml.training.trial import SweepTrial

__all__ = ["TrialReturns", "selection_figures", "trial_returns"]


@dataclass(frozen=True, eq=False)
class TrialReturns:
    """Net returns per bar of every configuration that a search judged.

    Attributes:
        names: Of the trials.
        returns: `[time, trial]`, fractions of equity.
        num_ended: Configurations that were pruned, and left no returns; they count as tried.
    """

    names: tuple[str, ...]
    returns: np.ndarray
    num_ended: int = 0

    @property
    def num_trials(self) -> int:
        """Configurations judged, those that ended early included."""
        return len(self.names) + self.num_ended

    @property
    def sharpe_ratios(self) -> np.ndarray:
        """Sharpe ratio per bar `[trial]`, not annualised; 0 where returns never vary."""
        spread = self.returns.std(axis=0, ddof=1)
        return np.divide(self.returns.mean(axis=0), spread, out=np.zeros(len(spread)), where=spread > 1e-15)

    @property
    def sharpe_variance(self) -> float | None:
        """Variance of the trials' Sharpe ratios per bar (ddof 1), which the deflated Sharpe ratio takes; None for one trial."""
        return float(self.sharpe_ratios.var(ddof=1)) if len(self.names) > 1 else None


def trial_returns(returns: Mapping[int, np.ndarray], trials: Sequence[SweepTrial]) -> TrialReturns:
    """Put the returns of the configurations of a search side by side.

    A configuration counts once, however often it was started: by its first complete trial, else by one that was pruned. A
    trial that failed, as one does that is interrupted, was never judged, so the search could not have chosen it.

    Args:
        returns: Number of a trial -> net returns per bar `[time]` on the bars that the search judged its trials on.
        trials: All trials of the search.
    """
    judged = [trial for trial in trials if trial.state != "FAIL"]
    kept: dict[str, int] = {}
    for trial in judged:
        if trial.number in returns:
            kept.setdefault(_configuration(trial), trial.number)
    stacked = np.stack([returns[number] for number in kept.values()], axis=1).astype(np.float64) if kept else np.empty((0, 0))
    num_ended = len({_configuration(trial) for trial in judged} - set(kept))
    return TrialReturns(tuple(f"trial_{number}" for number in kept.values()), stacked, num_ended)


def _configuration(trial: SweepTrial) -> str:
    return json.dumps(trial.parameters, sort_keys=True, default=str)


def selection_figures(trials: TrialReturns, num_blocks: int = 16) -> dict[str, Any]:
    """Return the number of trials, the spread of their Sharpe ratios, and the probability of backtest overfitting.

    Fewer blocks are taken where the span is short (`num_blocks` is the most); the probability is NaN with fewer than two
    trials or eight bars.
    """
    num_bars = len(trials.returns)
    num_blocks = min(num_blocks, num_bars // 4 * 2)
    figures: dict[str, Any] = {
        "num_trials": trials.num_trials,
        "num_ended": trials.num_ended,
        "num_bars": num_bars,
        "sharpe_variance_per_bar": trials.sharpe_variance,
        "best_sharpe_per_bar": float(trials.sharpe_ratios.max()) if trials.names else float("nan"),
    }
    if len(trials.names) < 2 or num_blocks < 4:
        return figures | {"overfitting_probability": float("nan"), "degradation": float("nan"), "num_splits": 0}
    result = backtest_overfitting(trials.returns, num_blocks)
    return figures | {
        "overfitting_probability": result.probability,
        "degradation": result.degradation,
        "num_splits": len(result.logits),
    }
