"""Small tables of a run that stand beside the figures: the ensemble, the control, the known ceiling."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cryptoml.data.synthetic import REGIMES, SyntheticMarket
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.classification import accuracy, auc, likeliest, majority_share
from cryptoml.evaluation.protocol import Evaluation
from cryptoml.models.ensemble import Ensemble

__all__ = ["ceiling_table", "control_table", "ensemble_table", "planted_table"]

CEILING_BARS = 2000
_ROUNDING = 1e-9


def ensemble_table(names: Sequence[str], ensemble: Ensemble) -> dict[str, Any]:
    """Return the members' weights, the temperature, and the correlation of each pair's errors on validation data."""
    table = {f"weight of {name}": weight for name, weight in zip(names, ensemble.weights, strict=True)}
    table["temperature"] = ensemble.calibration.temperature
    errors = ensemble.error_correlation
    if errors is not None:
        for first, second in combinations(range(len(names)), 2):
            table[f"error correlation of {names[first]} and {names[second]}"] = float(errors[first, second])
    return table


def control_table(inputs: EvaluationInput, control: Evaluation, chance_hits: np.ndarray, level: float = 0.99) -> dict[str, Any]:
    """Return what the run on shuffled labels hit, and the interval in which random functions of the features hit.

    It found nothing where its accuracy lies inside. It cannot tell, which `found nothing` says in words, where no answer has a
    label, or where the interval is one point: a control that names one class of each symbol throughout is right as often as any
    function with that mix of answers, whatever it learned. The level is 99% because the control is one of many runs: at 95%
    every twentieth honest one would be accused.

    Args:
        inputs: The test bars.
        control: The run on shuffled labels.
        chance_hits: Right answers of each random function there, from `cryptoml.evaluation.control`.
        level: Share of the random functions inside the interval.
    """
    counted = int(((_answers(control) >= 0) & (inputs.targets.direction[:, inputs.bars] >= 0)).sum())
    drawn = chance_hits / counted if counted else np.full(len(chance_hits), np.nan)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    accuracy = control.figures["direction"]["accuracy"]["value"]
    return {
        "accuracy": accuracy,
        "chance of its answers": float(drawn.mean()),
        "low": float(low),
        "high": float(high),
        "level": level,
        "found nothing": _nothing_found(accuracy, float(low), float(high)) if counted else "cannot tell: no answer has a label",
    }


def _nothing_found(accuracy: float, low: float, high: float) -> bool | str:
    if high - low <= _ROUNDING:
        return "cannot tell: it names one class throughout, which is right as often whatever was learned"
    return low - _ROUNDING <= accuracy <= high + _ROUNDING


def ceiling_table(market: SyntheticMarket, inputs: EvaluationInput, ensemble: Evaluation) -> dict[str, float]:
    """Return how far the ensemble went from chance to the best possible accuracy of the built-in market.

    All figures are of the same test bars, evenly spread, at most `CEILING_BARS` of them. What the answers were expected to hit,
    given the true state at each bar, lacks the luck of what came then; ceilings are expected too.
    """
    ceiling = market.direction_ceiling(inputs.horizon_bars, inputs.targets.threshold, inputs.bars, max_bars=CEILING_BARS)
    answers, labels = _answers(ensemble)[:, ceiling.bars - inputs.test[0]], inputs.targets.direction[:, ceiling.bars]
    counted = (answers >= 0) & (labels >= 0)
    accuracy = float((answers == labels)[counted].mean())
    likely = np.take_along_axis(ceiling.probabilities, np.maximum(answers, 0)[..., None], axis=-1)[..., 0]
    expected = float(likely[counted].mean(dtype=np.float64))
    return {
        "direction: accuracy": accuracy,
        "direction: accuracy expected of these answers": expected,
        "direction: chance (majority class)": ceiling.majority_share,
        "direction: ceiling (true state known)": ceiling.accuracy,
        "direction: share of the way": ceiling.share_of_ceiling(accuracy),
        "direction: share of the way, expected": ceiling.share_of_ceiling(expected),
    }


def planted_table(
    market: SyntheticMarket, inputs: EvaluationInput, ensemble: Evaluation, graph: np.ndarray | None
) -> dict[str, float]:
    """Return how well what was planted in the built-in market is recovered.

    Args:
        market: Knows the truth.
        inputs: The test bars.
        ensemble: Its forecasts of the regime are compared with the true state of the market.
        graph: Weight with which each asset (row) listens to each (column); None leaves the edges out.
    """
    found: dict[str, float] = {}
    pairs = ~np.eye(len(market.adjacency), dtype=bool)
    if graph is not None and market.adjacency[pairs].any():
        found["leaders: AUC of the learned graph's edges"] = auc(graph[pairs], market.adjacency[pairs])
    forecasts = ensemble.candidate.forecasts
    if forecasts is not None and forecasts.regime is not None:
        regime = np.broadcast_to(market.regimes[inputs.bars], forecasts.regime.shape[:2])
        known = regime[np.isfinite(forecasts.regime).all(axis=-1)]
        found["regime: accuracy against the planted one"] = accuracy(forecasts.regime, regime)
        found["regime: chance (commonest one)"] = majority_share(known, len(REGIMES))
        found["regime: ceiling (all but the regime known)"] = market.regime_ceiling(inputs.bars)
    return found


def _answers(evaluation: Evaluation) -> np.ndarray:
    """Return the likeliest class of every forecast `[asset, time]`, -1 where there is none."""
    forecasts = evaluation.candidate.forecasts
    assert forecasts is not None
    return likeliest(forecasts.probabilities)
