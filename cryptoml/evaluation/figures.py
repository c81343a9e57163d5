"""The figures of one candidate, section by section, as plain dictionaries.

A figure with an interval is `{"value", "low", "high"}`; NaN means "cannot be said" and becomes null in the report.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation import classification, forecast, performance
from cryptoml.evaluation.backtest import BacktestResult
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.selection import deflated_sharpe_of_returns
from cryptoml.evaluation.uncertainty import Interval, accuracy_interval, bootstrap_interval, mean_interval, sharpe_interval
from cryptoml.features.targets import REGIMES
from cryptoml.trading.forecasts import DOWN, UP, Forecasts

__all__ = [
    "direction_figures",
    "quantile_figures",
    "ranking_figures",
    "regime_breakdown",
    "regime_figures",
    "symbol_breakdown",
    "trading_figures",
    "volatility_figures",
]

Figures = dict[str, Any]
_AUC_BINS = 50


def direction_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures:
    """Accuracy against the majority class, AUC, calibration, accuracy by confidence."""
    probabilities, labels = forecasts.probabilities, inputs.targets.direction[:, inputs.bars]
    score, realised = _tilt(forecasts), inputs.realised
    counted = _counted(probabilities, labels)
    moved = np.isfinite(score) & np.isfinite(realised) & (score != 0) & (realised != 0)
    shown = np.where(counted, labels, -1)
    return {
        "num_forecasts": int(counted.sum()),
        "accuracy": _interval(inputs, accuracy_interval, _right(probabilities, labels), counted),
        "majority_share": classification.majority_share(shown, 3),
        "independence_accuracy": classification.independence_accuracy(probabilities, shown),
        "sign_accuracy": _interval(inputs, accuracy_interval, np.sign(score) == np.sign(realised), moved),
        "sign_majority_share": classification.majority_share(np.where(moved, realised > 0, -1), 2),
        "auc": _auc_figure(inputs, score, np.where(np.isfinite(realised), realised > 0, -1)),
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
    score, realised = _tilt(forecasts), inputs.realised
    figures: Figures = {
        "pooled_ic": forecast.information_coefficient(score, realised),
        "pooled_rank_ic": forecast.rank_information_coefficient(score, realised),
    }
    for name, ranked in (("ic", False), ("rank_ic", True)):
        per_bar = forecast.cross_sectional_ic(score, realised, ranked=ranked)
        figures[name] = _interval(inputs, mean_interval, per_bar)
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
            "median_absolute_error": forecast.mean_absolute_error(levels[..., len(config.quantiles) // 2], outcome),
        }
    losses = [figures["pinball_loss"] for figures in by_horizon.values()]
    return {"pinball_loss": float(np.mean(losses)), "by_horizon": by_horizon}


def volatility_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures:
    """QLIKE and absolute error against the EWMA estimate on the same rows."""
    realised = np.where(np.isfinite(forecasts.volatility), inputs.targets.volatility[:, inputs.bars], np.nan)
    return {
        "qlike": forecast.qlike(forecasts.volatility, realised),
        "ewma_qlike": forecast.qlike(inputs.ewma_volatility, realised),
        "mean_absolute_error": forecast.mean_absolute_error(forecasts.volatility, realised),
        "ewma_mean_absolute_error": forecast.mean_absolute_error(inputs.ewma_volatility, realised),
    }


def regime_figures(inputs: EvaluationInput, forecasts: Forecasts) -> Figures | None:
    """Accuracy of the regime forecast against its majority; None where the candidate forecasts no regime."""
    labels = inputs.targets.regime[:, inputs.bars]
    counted = _counted(forecasts.regime, labels)
    if not counted.any():
        return None
    return {
        "accuracy": _interval(inputs, accuracy_interval, _right(forecasts.regime, labels), counted),
        "majority_share": classification.majority_share(np.where(counted, labels, -1), len(REGIMES)),
        "macro_auc": classification.macro_auc(forecasts.regime, labels),
    }


def trading_figures(inputs: EvaluationInput, result: BacktestResult) -> Figures:
    """Sharpe ratio with its interval and deflation, drawdown, trades, turnover, break-even cost, cost sweep."""
    per_year = bars_per_year(inputs.panel.timeframe)
    net, trades = result.net, result.trade_returns()
    return {
        "sharpe_ratio": _interval(inputs, sharpe_interval, net, per_year),
        "gross_sharpe_ratio": performance.sharpe_ratio(result.gross, per_year),
        "deflated_sharpe_ratio": deflated_sharpe_of_returns(net, inputs.num_trials, inputs.trial_sharpe_variance),
        "num_trials": inputs.num_trials,
        "total_return": float(result.equity[-1] - 1),
        "annual_return": performance.annual_return(net, per_year),
        "annual_volatility": performance.annual_volatility(net, per_year),
        "max_drawdown": performance.max_drawdown(net),
        "num_trades": int(trades.size),
        "win_rate": performance.win_rate(trades),
        "payoff_ratio": performance.payoff_ratio(trades),
        "annual_turnover": float(result.turnover.mean() * per_year),
        "mean_gross_exposure": float(np.abs(result.position).sum(axis=0).mean()),
        "side_cost_bps": result.side_bps,
        "total_cost": float(result.turnover.sum() * result.side_bps * 1e-4),
        "total_funding": float(result.funding.sum()),
        "break_even_cost_bps": performance.break_even_cost_bps(result.gross, result.turnover),
        "cost_sweep": [_swept(result, bps, per_year) for bps in range(0, 31, 5)],
    }


def symbol_breakdown(inputs: EvaluationInput, forecasts: Forecasts, result: BacktestResult) -> dict[str, Figures]:
    """The main figures of every symbol."""
    per_year = bars_per_year(inputs.panel.timeframe)
    breakdown = {}
    for row, symbol in enumerate(inputs.panel.symbols):
        only = slice(row, row + 1)
        figures = _slice_figures(inputs, forecasts, only, np.ones(result.position[only].shape, dtype=bool))
        figures["sharpe_ratio"] = _interval(inputs, sharpe_interval, result.asset_net[row], per_year)
        figures["net_return"] = float(result.asset_net[row].sum())
        figures["turnover"] = float(result.asset_turnover[row].sum())
        breakdown[symbol] = figures
    return breakdown


def regime_breakdown(inputs: EvaluationInput, forecasts: Forecasts, result: BacktestResult) -> dict[str, Figures]:
    """The main figures by the regime that followed (known only afterwards)."""
    regime = inputs.targets.regime[:, inputs.bars]
    breakdown = {}
    for code, name in enumerate(REGIMES):
        inside = regime == code
        figures = _slice_figures(inputs, forecasts, slice(None), inside)
        figures["share_of_bars"] = float(inside.sum() / max((regime >= 0).sum(), 1))
        # the position that a decision at bar t opens earns from bar t + 1 on
        following = np.roll(inside, 1, axis=1)
        following[:, 0] = False
        figures["net_return"] = float(result.asset_net[following].sum())
        breakdown[name] = figures
    return breakdown


def _slice_figures(inputs: EvaluationInput, forecasts: Forecasts, assets: slice, inside: np.ndarray) -> Figures:
    probabilities = forecasts.probabilities[assets]
    labels = np.where(inside, inputs.targets.direction[assets, inputs.bars], -1)
    realised = np.where(inside, inputs.realised[assets], np.nan)
    counted = _counted(probabilities, labels)
    return {
        "num_forecasts": int(counted.sum()),
        "accuracy": _interval(inputs, accuracy_interval, _right(probabilities, labels), counted),
        "majority_share": classification.majority_share(np.where(counted, labels, -1), 3),
        "auc": classification.auc(_tilt(forecasts)[assets], np.where(np.isfinite(realised), realised > 0, -1)),
        "rank_ic": forecast.rank_information_coefficient(_tilt(forecasts)[assets], realised),
    }


def _swept(result: BacktestResult, side_bps: float, per_year: float) -> Figures:
    net = result.net_at(side_bps)
    return {
        "side_cost_bps": side_bps,
        "sharpe_ratio": performance.sharpe_ratio(net, per_year),
        "total_return": float(performance.equity_curve(net)[-1] - 1),
    }


def _tilt(forecasts: Forecasts) -> np.ndarray:
    return forecasts.probabilities[..., UP] - forecasts.probabilities[..., DOWN]


def _counted(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (labels >= 0) & ~np.isnan(probabilities).any(axis=-1)


def _right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(probabilities).argmax(axis=-1) == labels


def _interval(inputs: EvaluationInput, make: Callable[..., Interval], *arguments: Any) -> Figures:
    config = inputs.bootstrap
    options = {"num_draws": config.num_draws, "level": config.level, "seed": config.seed}
    return make(*arguments, mean_block=inputs.mean_block, **options)._asdict()


def _auc_figure(inputs: EvaluationInput, score: np.ndarray, positive: np.ndarray) -> Figures:
    """Return the exact AUC; its interval comes from scores in 50 equally full bins, whose counts add up over bars."""
    config = inputs.bootstrap
    value = classification.auc(score, positive)
    counts = _binned_counts(score, positive)
    if counts is None:
        return Interval(value, float("nan"), float("nan"))._asdict()
    draws = min(config.num_draws, 400)
    drawn = bootstrap_interval(
        counts, _auc_of_counts, mean_block=inputs.mean_block, num_draws=draws, level=config.level, seed=config.seed
    )
    return drawn._replace(value=value)._asdict()


def _binned_counts(score: np.ndarray, positive: np.ndarray) -> np.ndarray | None:
    """Return `[time, 2 * bin]`: negatives then positives per score bin at every bar."""
    known = np.isfinite(score) & (positive >= 0)
    if not known.any():
        return None
    edges = np.unique(np.quantile(score[known], np.linspace(0, 1, _AUC_BINS + 1)[1:-1]))
    column = np.searchsorted(edges, score[known], side="right") + np.where(positive[known] > 0, _AUC_BINS, 0)
    counts = np.zeros((score.shape[1], 2 * _AUC_BINS))
    np.add.at(counts, (np.nonzero(known)[1], column), 1)
    return counts


def _auc_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return the AUC of `[..., 2 * bin]` counts, pairs in one bin counted half."""
    negative, positive = counts[..., :_AUC_BINS], counts[..., _AUC_BINS:]
    below = np.cumsum(negative, axis=-1) - negative / 2
    return (positive * below).sum(axis=-1) / (positive.sum(axis=-1) * negative.sum(axis=-1))
