"""What a search tried: every trial's returns on the bars it was chosen on, and how much of the winner is luck."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryptoml.evaluation.selection import backtest_overfitting

__all__ = ["TrialReturns", "selection_figures", "trial_returns"]


@dataclass(frozen=True, eq=False)
class TrialReturns:
    """Net returns per bar of every configuration that a search tried.

    Attributes:
        names: Of the trials.
        returns: `[time, trial]`, fractions of equity.
        num_ended: Trials that were pruned or failed, and left no returns; they count as tried.
    """

    names: tuple[str, ...]
    returns: np.ndarray
    num_ended: int = 0

    @property
    def num_trials(self) -> int:
        """Configurations tried, those that ended early included."""
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


def trial_returns(returns: Mapping[int, np.ndarray], num_trials: int) -> TrialReturns:
    """Put the returns of the trials of a search side by side.

    Args:
        returns: Number of a trial -> net returns per bar `[time]` on the bars that the search judged its trials on.
        num_trials: Configurations tried in all.
    """
    stacked = np.stack(list(returns.values()), axis=1).astype(np.float64) if returns else np.empty((0, 0))
    return TrialReturns(tuple(f"trial_{number}" for number in returns), stacked, num_trials - len(returns))


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
