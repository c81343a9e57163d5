"""The figures of one candidate, section by section, as plain dictionaries.

A figure with an interval is `{"value", "low", "high"}`; NaN means "cannot be said" and becomes null in the report.
"""

from typing import Any

import numpy as np

from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation import classification, forecast, performance
from cryptoml.evaluation.account import Account
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.selection import deflated_sharpe_of_returns
from cryptoml.evaluation.statistics import (
    Statistic,
    accuracy_statistic,
    auc_statistic,
    mean_statistic,
    pooled_mean_statistic,
    sharpe_statistic,
)
from cryptoml.evaluation.uncertainty import interval
from cryptoml.features.targets import REGIMES
from cryptoml.trading.forecasts import Forecasts

__all__ = [
    "counted_rows",
    "direction_figures",
    "figure",
    "quantile_figures",
    "ranking_figures",
    "regime_figures",
    "right_rows",
    "stop_figures",
    "trading_figures",
    "volatility_figures",
]

Figures = dict[str, Any]


def direction_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures:
    """Accuracy against the majority class, AUC, calibration, accuracy by confidence."""
    probabilities, labels = forecasts.probabilities, inputs.targets.direction[:, inputs.bars]
    score, realised = forecasts.tilt, inputs.realised
    counted = counted_rows(probabilities, labels)
    moved = np.isfinite(score) & np.isfinite(realised) & (score != 0) & (realised != 0)
    shown = np.where(counted, labels, -1)
    return {
        "num_forecasts": int(counted.sum()),
        "accuracy": figure(inputs, accuracy_statistic(right_rows(probabilities, labels), counted)),
        "majority_share": classification.majority_share(shown, 3),
        "independence_accuracy": classification.independence_accuracy(probabilities, shown),
        "sign_accuracy": figure(inputs, accuracy_statistic(np.sign(score) == np.sign(realised), moved)),
        "sign_majority_share": classification.majority_share(np.where(moved, realised > 0, -1), 2),
        "auc": figure(inputs, auc_statistic(score, np.where(np.isfinite(realised), realised > 0, -1))),
        "macro_auc": classification.macro_auc(probabilities, labels),
        "log_loss": classification.log_loss(probabilities, labels),
        "brier_score": classification.brier_score(probabilities, labels),
        "expected_calibration_error": classification.expected_calibration_error(probabilities, labels),
        "top_tenth_accuracy": classification.top_confidence_accuracy(probabilities, labels, 0.1),
        "by_confidence": [vars(bucket) for bucket in classification.confidence_buckets(probabilities, labels, 20)],
        "by_confidence_rank": [vars(group) for group in classification.confidence_groups(probabilities, labels, 10)],
    }


def ranking_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures:
    """IC, rank IC and ICIR of `p_up - p_down` against the return over the primary horizon."""
    score, realised = forecasts.tilt, inputs.realised
    figures: Figures = {
        "pooled_ic": forecast.information_coefficient(score, realised),
        "pooled_rank_ic": forecast.rank_information_coefficient(score, realised),
    }
    for name, ranked in (("ic", False), ("rank_ic", True)):
        per_bar = forecast.cross_sectional_ic(score, realised, ranked=ranked)
        figures[name] = figure(inputs, mean_statistic(per_bar))
        figures[f"{name}_ir"] = forecast.ic_summary(per_bar)[1]
    return figures


def quantile_figures(inputs: EvaluationInput, quantiles: np.ndarray) -> Figures:
    """Pinball loss, coverage and median error per horizon; `quantiles` are `[asset, time, horizon, quantile]`."""
    config = inputs.target_config
    realised = inputs.targets.log_return[:, inputs.bars]
    by_horizon: dict[str, Figures] = {}
    for index, horizon in enumerate(config.horizons):
        levels, outcome = quantiles[:, :, index], realised[:, :, index]
        by_horizon[str(horizon)] = {
            "pinball_loss": forecast.pinball_loss(levels, outcome, config.quantiles),
            "coverage": {
                f"{level:g}": forecast.coverage(levels[..., column], outcome) for column, level in enumerate(config.quantiles)
            },
            "interval_coverage": forecast.interval_coverage(levels[..., 0], levels[..., -1], outcome),
            "interval_nominal": config.quantiles[-1] - config.quantiles[0],
            "median_absolute_error": forecast.mean_absolute_error(_median(levels, config.quantiles), outcome),
        }
    losses = [figures["pinball_loss"] for figures in by_horizon.values()]
    return {"pinball_loss": float(np.mean(losses)), "by_horizon": by_horizon}


def volatility_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures:
    """QLIKE and absolute error, and those of the EWMA estimate on the same rows."""
    realised = np.where(np.isfinite(forecasts.volatility), inputs.targets.volatility[:, inputs.bars], np.nan)
    losses = {"": forecasts.volatility, "ewma_": inputs.ewma_volatility}
    return {
        **{
            f"{name}qlike": figure(inputs, pooled_mean_statistic(forecast.qlike_losses(v, realised)))
            for name, v in losses.items()
        },
        **{f"{name}mean_absolute_error": forecast.mean_absolute_error(v, realised) for name, v in losses.items()},
    }


def regime_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures | None:
    """Accuracy of the regime forecast against its majority; None where the candidate forecasts no regime."""
    labels = inputs.targets.regime[:, inputs.bars]
    counted = counted_rows(forecasts.regime, labels)
    if not counted.any():
        return None
    return {
        "accuracy": figure(inputs, accuracy_statistic(right_rows(forecasts.regime, labels), counted)),
        "majority_share": classification.majority_share(np.where(counted, labels, -1), len(REGIMES)),
        "macro_auc": classification.macro_auc(forecasts.regime, labels),
    }


def trading_figures(inputs: EvaluationInput, account: Account, num_trials: int = 1) -> Figures:
    """Sharpe ratio with its interval and deflation, drawdown, trades, turnover, break-even cost, cost sweep.

    Args:
        inputs: Shared by all candidates.
        account: What trading left.
        num_trials: Configurations tried before this candidate was chosen, for the deflated Sharpe ratio.
    """
    per_year = bars_per_year(inputs.panel.timeframe)
    net, trades = account.net, account.trade_returns()
    return {
        "sharpe_ratio": figure(inputs, sharpe_statistic(net, per_year)),
        "gross_sharpe_ratio": performance.sharpe_ratio(account.gross, per_year),
        "deflated_sharpe_ratio": deflated_sharpe_of_returns(net, num_trials, inputs.trial_sharpe_variance),
        "num_trials": num_trials,
        "total_return": float(account.equity[-1] - 1),
        "annual_return": performance.annual_return(net, per_year),
        "annual_volatility": performance.annual_volatility(net, per_year),
        "max_drawdown": performance.max_drawdown(net),
        "num_trades": int(trades.size),
        "win_rate": performance.win_rate(trades),
        "payoff_ratio": performance.payoff_ratio(trades),
        "annual_turnover": float(account.turnover.mean() * per_year),
        "mean_gross_exposure": float(np.abs(account.position).sum(axis=0).mean()),
        "side_cost_bps": account.side_bps,
        "total_cost": float(account.turnover.sum() * account.side_bps * 1e-4),
        "total_funding": float(account.funding.sum()),
        "break_even_cost_bps": performance.break_even_cost_bps(account.gross, account.turnover),
        "cost_sweep": [_swept(account, bps, per_year) for bps in range(0, 31, 5)],
    }


def stop_figures(inputs: EvaluationInput, account: Account) -> Figures:
    """What the same decisions earn where the stops of their signals are simulated, or where they are not."""
    per_year = bars_per_year(inputs.panel.timeframe)
    return {
        "sharpe_ratio": figure(inputs, sharpe_statistic(account.net, per_year)),
        "total_return": float(account.equity[-1] - 1),
        "max_drawdown": performance.max_drawdown(account.net),
        "num_exits": int((account.exited > 0).sum()),
    }


def _swept(account: Account, side_bps: float, per_year: float) -> Figures:
    net = account.net_at(side_bps)
    return {
        "side_cost_bps": side_bps,
        "sharpe_ratio": performance.sharpe_ratio(net, per_year),
        "total_return": float(performance.equity_curve(net)[-1] - 1),
    }


def counted_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return bool `[asset, time]`: there is a forecast and its label is known."""
    return (labels >= 0) & ~np.isnan(probabilities).any(axis=-1)


def right_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return bool `[asset, time]`: the likeliest class is the label."""
    return np.nan_to_num(probabilities).argmax(axis=-1) == labels


def _median(quantiles: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return the 0.5 quantile of `[..., quantile]`; NaN where that level was not forecast."""
    matches = [column for column, level in enumerate(levels) if abs(level - 0.5) < 1e-9]
    return quantiles[..., matches[0]] if matches else np.full(quantiles.shape[:-1], np.nan)


def figure(inputs: EvaluationInput, statistic: Statistic) -> Figures:
    """Return a figure with its interval as plain values."""
    return interval(statistic, **inputs.resampling)._asdict()
