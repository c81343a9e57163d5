"""Join what the refits of a walk-forward said about their own test bars."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from cryptoml.evaluation.candidates import Candidate
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.forecasts import Forecasts

__all__ = ["join_candidates", "join_predictions"]


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Join consecutive stretches of bars along time."""
    return Predictions(
        **{name.name: np.concatenate([getattr(part, name.name) for part in parts], axis=1) for name in fields(parts[0])}
    )


def join_candidates(folds: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """Join the candidates of consecutive folds by name; one that any fold had to skip is skipped."""
    return [_joined([by_name[candidate.name] for by_name in map(_named, folds)]) for candidate in folds[0]]


def _named(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in candidates}


def _joined(parts: Sequence[Candidate]) -> Candidate:
    first = parts[0]
    forecasts = [part.forecasts for part in parts if part.forecasts is not None]
    if len(forecasts) < len(parts):
        return next(part for part in parts if part.forecasts is None)
    return Candidate(
        first.name,
        _join_forecasts(forecasts),
        None if first.quantiles is None else np.concatenate([part.quantiles for part in parts], axis=1),
        None if first.target is None else np.concatenate([part.target for part in parts], axis=1),
    )


def _join_forecasts(parts: Sequence[Forecasts]) -> Forecasts:
    def along_time(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=1)

    return replace(
        parts[0],
        probabilities=along_time("probabilities"),
        volatility=along_time("volatility"),
        quantiles=along_time("quantiles"),
        regime=along_time("regime"),
    )
