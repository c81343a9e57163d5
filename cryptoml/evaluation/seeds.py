"""The same experiment with other seeds: how much of a figure is luck of the training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cryptoml.evaluation.protocol import Evaluation

__all__ = ["SEED_FIGURES", "seed_table"]

SEED_FIGURES: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("direction", "accuracy", "value"),
    "sign_accuracy": ("direction", "sign_accuracy", "value"),
    "auc": ("direction", "auc", "value"),
    "rank_ic": ("ranking", "rank_ic", "value"),
    "log_loss": ("direction", "log_loss"),
    "expected_calibration_error": ("direction", "expected_calibration_error"),
    "pinball_loss": ("quantiles", "pinball_loss"),
    "qlike": ("volatility", "qlike", "value"),
    "sharpe_ratio": ("trading", "sharpe_ratio", "value"),
    "max_drawdown": ("trading", "max_drawdown"),
    "total_return": ("trading", "total_return"),
}
"""Name -> where it stands in a candidate's figures."""


def seed_table(runs: Mapping[str, Evaluation] | Sequence[Evaluation]) -> dict[str, Any]:
    """Return the main figures of every run, their mean and their standard deviation (ddof 1).

    A figure that a run does not have is NaN there and left out of the mean; one run has no deviation (NaN).

    Args:
        runs: Seed -> evaluation on the same test bars, or the evaluations alone, numbered from 0.

    Returns:
        `per_seed` (seed -> figure -> value), `mean` and `sd` (figure -> value).

    Raises:
        ValueError: No run.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {str(number): run for number, run in enumerate(runs)}
    if not named:
        raise ValueError("runs must hold at least one evaluation, was empty")
    per_seed = {seed: {name: _value(run, path) for name, path in SEED_FIGURES.items()} for seed, run in named.items()}
    columns = {name: np.array([row[name] for row in per_seed.values()]) for name in SEED_FIGURES}
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return {
        "per_seed": per_seed,
        "mean": {name: float(values.mean()) if values.size else float("nan") for name, values in known.items()},
        "sd": {name: float(values.std(ddof=1)) if values.size > 1 else float("nan") for name, values in known.items()},
    }


def _value(run: Evaluation, path: tuple[str, ...]) -> float:
    value: Any = run.figures
    for step in path:
        value = None if value is None else value[step]
    return float("nan") if value is None else float(value)
