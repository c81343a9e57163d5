"""One evaluation for every candidate: the same bars, labels, costs and figures for an ensemble and for a baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryptoml.evaluation import figures
from cryptoml.evaluation.backtest import BacktestResult, backtest, funding_rates
from cryptoml.evaluation.candidates import Candidate, EvaluationInput
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import Signals, decide
from cryptoml.trading.sizing import overlap_tranches

__all__ = ["Evaluation", "evaluate", "evaluate_all", "evaluate_forecasts", "evaluate_positions"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out for one candidate on the test bars.

    Attributes:
        candidate: What was judged.
        figures: Sections of plain values, ready for JSON but for NaN.
        signals: Decisions `[asset, time]`; None where a rule trades by itself.
        backtest: The trades and returns.
    """

    candidate: Candidate
    figures: dict[str, Any]
    signals: Signals | None
    backtest: BacktestResult

    @property
    def name(self) -> str:
        """Name of the candidate."""
        return self.candidate.name


def evaluate(inputs: EvaluationInput, candidate: Candidate) -> Evaluation:
    """Judge one candidate: forecasts by their own metrics, and what trading on them earns after costs.

    Raises:
        ValueError: The candidate was skipped, or its arrays do not cover the test bars.
    """
    if candidate.forecasts is None:
        raise ValueError(f"candidate {candidate.name} has no forecasts to evaluate: {candidate.skipped}")
    shape = inputs.test_panel.present.shape
    if candidate.forecasts.volatility.shape != shape:
        raise ValueError(f"forecasts must cover the test bars {shape}, was {candidate.forecasts.volatility.shape}")
    signals = None if candidate.target is not None else decide(candidate.forecasts, inputs.trading)
    result = evaluate_positions(inputs, candidate.target if signals is None else signals)
    sections = evaluate_forecasts(inputs, candidate.forecasts, candidate.quantiles)
    sections["trading"] = figures.trading_figures(inputs, result)
    sections["per_symbol"] = figures.symbol_breakdown(inputs, candidate.forecasts, result)
    sections["per_regime"] = figures.regime_breakdown(inputs, candidate.forecasts, result)
    return Evaluation(candidate, sections, signals, result)


def evaluate_all(
    inputs: EvaluationInput, candidates: Sequence[Candidate], on_candidate: Callable[[str], object] | None = None
) -> dict[str, Evaluation]:
    """Judge every candidate that was not skipped, by name, in order."""
    done = {}
    for candidate in candidates:
        if candidate.skipped is None:
            if on_candidate is not None:
                on_candidate(candidate.name)
            done[candidate.name] = evaluate(inputs, candidate)
    return done


def evaluate_forecasts(inputs: EvaluationInput, forecasts: Forecasts, quantiles: np.ndarray | None = None) -> dict[str, Any]:
    """Return the sections that need no trading: direction, ranking, volatility, regime, quantiles.

    A section is None where the candidate forecasts nothing of the kind.
    """
    return {
        "direction": figures.direction_figures(inputs, forecasts),
        "ranking": figures.ranking_figures(inputs, forecasts),
        "volatility": figures.volatility_figures(inputs, forecasts),
        "regime": figures.regime_figures(inputs, forecasts),
        "quantiles": None if quantiles is None else figures.quantile_figures(inputs, quantiles),
    }


def evaluate_positions(inputs: EvaluationInput, decisions: Signals | np.ndarray | None) -> BacktestResult:
    """Trade signals, or plain target positions `[asset, time]`, over the test bars with costs and funding.

    Signals are tranches held for `holding_bars`; plain positions are traded as they are.
    """
    panel, config = inputs.test_panel, inputs.trading
    stops: dict[str, np.ndarray] = {}
    if isinstance(decisions, Signals):
        target = overlap_tranches(decisions.target_position, config.holding_bars or inputs.horizon_bars)
        stops = {"stop_loss_pct": decisions.stop_loss_pct, "take_profit_pct": decisions.take_profit_pct}
    else:
        target = np.zeros(panel.present.shape) if decisions is None else decisions
    return backtest(target, panel, config.costs, inputs.backtest, funding=funding_rates(panel), **stops)
