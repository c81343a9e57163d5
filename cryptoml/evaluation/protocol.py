"""One evaluation for every candidate: the same bars, labels, costs and figures for an ensemble and for a baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cryptoml.evaluation import breakdowns, figures
from cryptoml.evaluation.account import Account
from cryptoml.evaluation.backtest import BacktestConfig, backtest
from cryptoml.evaluation.candidates import Candidate, EvaluationInput
from cryptoml.evaluation.funding import funding_rates
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.positions import plan_trades
from cryptoml.trading.signals import Signals

__all__ = ["Evaluation", "evaluate", "evaluate_all", "evaluate_forecasts", "trade"]


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
    backtest: Account

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
    signals, account, with_other_stops = trade(inputs, candidate)
    sections = evaluate_forecasts(inputs, candidate.forecasts, candidate.quantiles)
    sections["trading"] = figures.trading_figures(inputs, account, inputs.num_trials_of(candidate.name))
    if with_other_stops is not None:
        name = "without_stops" if inputs.backtest.use_stops else "with_stops"
        sections["trading"][name] = figures.stop_figures(inputs, with_other_stops)
    sections["per_symbol"] = breakdowns.symbol_breakdown(inputs, candidate.forecasts, account)
    sections["per_year"] = breakdowns.year_breakdown(inputs, candidate.forecasts, account)
    sections["per_regime"] = breakdowns.regime_breakdown(inputs, candidate.forecasts, account)
    return Evaluation(candidate, sections, signals, account)


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


def trade(inputs: EvaluationInput, candidate: Candidate) -> tuple[Signals | None, Account, Account | None]:
    """Trade a candidate over the test bars with costs, limits and funding.

    Returns:
        The decisions, the account, and the account of the same decisions with stops the other way (simulated where
        `inputs.backtest` leaves them out, left out where it simulates them). A rule has neither decisions nor stops.

    Raises:
        ValueError: The candidate has neither forecasts nor positions.
    """
    panel, config = inputs.test_panel, inputs.backtest
    run = partial(backtest, panel=panel, trading=inputs.trading, funding=funding_rates(panel))
    if candidate.target is not None:
        return None, run(candidate.target), None
    if candidate.forecasts is None:
        raise ValueError(f"candidate {candidate.name} has nothing to trade on: {candidate.skipped}")
    plan = plan_trades(candidate.forecasts, inputs.trading)
    run = partial(run, plan.target, stop_loss_pct=plan.stop_loss_pct, take_profit_pct=plan.take_profit_pct)
    return plan.signals, run(config=config), run(config=BacktestConfig(use_stops=not config.use_stops))
