"""One candidate against another on the same rows: paired differences with their intervals.

A difference is `candidate - reference`. Both are resampled by the same blocks of bars, so what moves both cancels and the
interval is that of the difference itself. Rows that either side does not forecast are left out of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation import classification, forecast
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.protocol import Evaluation
from cryptoml.evaluation.statistics import (
    Statistic,
    accuracy_statistic,
    auc_statistic,
    pooled_mean_statistic,
    rank_ic_statistic,
    sharpe_statistic,
)
from cryptoml.evaluation.uncertainty import difference_interval
from cryptoml.trading.forecasts import Forecasts

__all__ = ["MEASURES", "Measure", "compare", "judge_refit", "seed_spread"]

Rows = np.ndarray


@dataclass(frozen=True)
class Measure:
    """A figure that two candidates are compared by.

    Attributes:
        name: As in `report.json`.
        label: As the page shows it.
        style: Format of its differences, after `scale`.
        higher_is_better: Which way is good.
        known: Rows `[asset, time]` that a candidate can be judged on, or None where it says nothing of the kind.
        statistic: The figure on given rows.
        scale: What the page multiplies it by, such as 10,000 for bps.
    """

    name: str
    label: str
    style: str
    higher_is_better: bool
    known: Callable[[EvaluationInput, Evaluation], Rows | None]
    statistic: Callable[[EvaluationInput, Evaluation, Rows], Statistic]
    scale: float = 1.0


def compare(inputs: EvaluationInput, candidate: Evaluation, reference: Evaluation) -> dict[str, dict[str, Any]]:
    """Return `candidate - reference` for every measure that both can be judged by.

    Returns:
        Measure -> `value`, `low`, `high` of the difference, `better` (True or False where the interval excludes zero, else
        None), in the order of `MEASURES`; a measure whose difference cannot be said on these rows is left out.
    """
    found = {}
    for measure in MEASURES:
        sides = [measure.known(inputs, side) for side in (candidate, reference)]
        if sides[0] is None or sides[1] is None:
            continue
        rows = sides[0] & sides[1]
        first, second = (measure.statistic(inputs, side, rows) for side in (candidate, reference))
        difference = difference_interval(first, second, **inputs.resampling)
        if not np.isfinite(difference.value):
            continue
        found[measure.name] = {**difference._asdict(), "better": _verdict(difference.low, difference.high, measure)}
    return found


def seed_spread(inputs: EvaluationInput, runs: Sequence[Evaluation]) -> dict[str, float]:
    """Return how much each measure changes by another seed alone; nothing for one run.

    That is the half-width of the interval, at the level of all intervals, in which the difference between two fits with other
    seeds lies: Student's t times the deviation over the runs times the root of 2. Two runs say little, so theirs is wide.

    Args:
        inputs: The test bars.
        runs: One model with other seeds.
    """
    changes = [compare(inputs, run, runs[0]) for run in runs[1:]]
    shared = [name for name in changes[0] if all(name in change for change in changes)] if changes else []
    values = {name: [0.0, *(change[name]["value"] for change in changes)] for name in shared}
    factor = np.sqrt(2) * student_t.ppf((1 + inputs.bootstrap.level) / 2, max(1, len(changes)))
    return {name: float(factor * np.std(found, ddof=1)) for name, found in values.items()}


def judge_refit(changes: Mapping[str, Mapping[str, Any]], spread: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return differences between two fits of one initialisation each, judged by what another initialisation changes.

    Their intervals cover the test bars alone, so `better` stands only where the difference exceeds the spread too. Where that
    is not known, or zero because seeds happen to agree to the last answer, there is no verdict.

    Args:
        changes: From `compare`.
        spread: From `seed_spread`; empty where no other seed was fitted.
    """
    judged = {}
    for name, change in changes.items():
        beyond = 0 < spread.get(name, 0.0) < abs(change["value"])
        judged[name] = {**change, "better": change["better"] if beyond else None, "seed_spread": spread.get(name)}
    return judged


def _verdict(low: float, high: float, measure: Measure) -> bool | None:
    if low > 0 or high < 0:
        return bool((low > 0) == measure.higher_is_better)
    return None


def _forecasts(evaluation: Evaluation) -> Forecasts:
    assert evaluation.candidate.forecasts is not None
    return evaluation.candidate.forecasts


def _labels(inputs: EvaluationInput) -> np.ndarray:
    return inputs.targets.direction[:, inputs.bars]


def _labelled(inputs: EvaluationInput, evaluation: Evaluation) -> Rows | None:
    return _any((_labels(inputs) >= 0) & np.isfinite(_forecasts(evaluation).tilt))


def _returned(inputs: EvaluationInput, evaluation: Evaluation) -> Rows | None:
    return _any(np.isfinite(inputs.realised) & np.isfinite(_forecasts(evaluation).tilt))


def _ranged(inputs: EvaluationInput, evaluation: Evaluation) -> Rows | None:
    return _any(np.isfinite(_volatility_losses(inputs, evaluation)))


def _fanned(inputs: EvaluationInput, evaluation: Evaluation) -> Rows | None:
    return None if evaluation.candidate.quantiles is None else _any(np.isfinite(_quantile_losses(inputs, evaluation)))


def _traded(_inputs: EvaluationInput, evaluation: Evaluation) -> Rows | None:
    return _any(np.broadcast_to(evaluation.backtest.turnover.any(), evaluation.backtest.position.shape))


def _any(rows: Rows) -> Rows | None:
    return rows if rows.any() else None


def _volatility_losses(inputs: EvaluationInput, evaluation: Evaluation) -> np.ndarray:
    return forecast.qlike_losses(_forecasts(evaluation).volatility, inputs.targets.volatility[:, inputs.bars])


def _quantile_losses(inputs: EvaluationInput, evaluation: Evaluation) -> np.ndarray:
    assert evaluation.candidate.quantiles is not None
    config = inputs.target_config
    outcome = inputs.targets.log_return[:, inputs.bars]
    return forecast.pinball_losses(evaluation.candidate.quantiles, outcome, config.quantiles).mean(axis=-1)


def _accuracy(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    right = np.nan_to_num(_forecasts(evaluation).probabilities).argmax(axis=-1) == _labels(inputs)
    return accuracy_statistic(right, rows)


def _log_loss(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    losses = classification.log_losses(_forecasts(evaluation).probabilities, _labels(inputs))
    return pooled_mean_statistic(np.where(rows, losses, np.nan))


def _auc(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    return auc_statistic(_forecasts(evaluation).tilt, np.where(rows, inputs.realised > 0, -1))


def _rank_ic(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    return rank_ic_statistic(np.where(rows, _forecasts(evaluation).tilt, np.nan), inputs.realised)


def _qlike(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    return pooled_mean_statistic(np.where(rows, _volatility_losses(inputs, evaluation), np.nan))


def _pinball(inputs: EvaluationInput, evaluation: Evaluation, rows: Rows) -> Statistic:
    return pooled_mean_statistic(np.where(rows, _quantile_losses(inputs, evaluation), np.nan))


def _sharpe(inputs: EvaluationInput, evaluation: Evaluation, _rows: Rows) -> Statistic:
    return sharpe_statistic(evaluation.backtest.net, bars_per_year(inputs.panel.timeframe))


MEASURES = (
    Measure("accuracy", "accuracy", "+.2%", True, _labelled, _accuracy),
    Measure("auc", "AUC", "+.4f", True, _returned, _auc),
    Measure("rank_ic", "rank IC", "+.4f", True, _returned, _rank_ic),
    Measure("log_loss", "log loss", "+.4f", False, _labelled, _log_loss),
    Measure("pinball_loss", "pinball, bps", "+.2f", False, _fanned, _pinball, 1e4),
    Measure("qlike", "QLIKE", "+.4f", False, _ranged, _qlike),
    Measure("sharpe_ratio", "net Sharpe", "+.2f", True, _traded, _sharpe),
)
"""In the order of the tables."""
