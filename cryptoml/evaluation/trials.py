"""What a search tried: every trial's returns on the bars it was chosen on, and how much of the winner is luck."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryptoml.evaluation.candidates import Candidate, EvaluationInput
from cryptoml.evaluation.protocol import trade
from cryptoml.evaluation.selection import backtest_overfitting

__all__ = ["TrialReturns", "selection_figures", "trial_returns"]


@dataclass(frozen=True, eq=False)
class TrialReturns:
    """Net returns per bar of every configuration that a search tried.

    Attributes:
        names: Of the trials.
        returns: `[time, trial]`, fractions of equity.
        num_failed: Trials that left no forecasts; they count as tried.
    """

    names: tuple[str, ...]
    returns: np.ndarray
    num_failed: int = 0

    @property
    def num_trials(self) -> int:
        """Configurations tried, failed ones included."""
        return len(self.names) + self.num_failed

    @property
    def sharpe_ratios(self) -> np.ndarray:
        """Sharpe ratio per bar `[trial]`, not annualised; 0 where returns never vary."""
        spread = self.returns.std(axis=0, ddof=1)
        return np.divide(self.returns.mean(axis=0), spread, out=np.zeros(len(spread)), where=spread > 1e-15)

    @property
    def sharpe_variance(self) -> float | None:
        """Variance of the trials' Sharpe ratios per bar (ddof 1), which the deflated Sharpe ratio takes; None for one trial."""
        return float(self.sharpe_ratios.var(ddof=1)) if len(self.names) > 1 else None


def trial_returns(inputs: EvaluationInput, trials: Sequence[Candidate]) -> TrialReturns:
    """Trade every trial's forecasts by the decision path.

    Args:
        inputs: `test` is the span that the search judged its trials on: the validation span, never the test.
        trials: One candidate each; those that were skipped count as tried.
    """
    made = [trial for trial in trials if trial.skipped is None]
    nets = [trade(inputs, trial)[1].net for trial in made]
    returns = np.stack(nets, axis=1) if nets else np.empty((inputs.test[1] - inputs.test[0], 0))
    return TrialReturns(tuple(trial.name for trial in made), returns, len(trials) - len(made))


def selection_figures(trials: TrialReturns, num_blocks: int = 16) -> dict[str, Any]:
    """Return the number of trials, the spread of their Sharpe ratios, and the probability of backtest overfitting.

    Fewer blocks are taken where the span is short (`num_blocks` is the most); the probability is NaN with fewer than two
    trials or eight bars.
    """
    num_bars = len(trials.returns)
    num_blocks = min(num_blocks, num_bars // 4 * 2)
    figures: dict[str, Any] = {
        "num_trials": trials.num_trials,
        "num_failed": trials.num_failed,
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
