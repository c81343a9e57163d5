"""Where a forecast may not be given: too little history of a symbol, or no training on it. Live and offline alike."""

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
from jaxtyping import Bool

from cryptoml.models.ensemble import Predictions

__all__ = ["forget", "history_bars", "young_bars"]


def history_bars(feature_lookbacks: Iterable[int], context_bars: int, sigma_window_bars: int) -> int:
    """Return how far back a forecast reaches, its own bar included.

    Args:
        feature_lookbacks: Bars that each feature reads.
        context_bars: Bars of features that a forecast reads.
        sigma_window_bars: Bars that the volatility at a bar reads.
    """
    return max(max(feature_lookbacks) + context_bars - 1, sigma_window_bars)


def young_bars(present: Bool[np.ndarray, "asset time"], needed_bars: int) -> Bool[np.ndarray, "asset time"]:
    """Return the bars at which a symbol has fewer than `needed_bars` bars since its first one, gaps included."""
    num_bars = present.shape[1]
    first = np.where(present.any(axis=1), present.argmax(axis=1), num_bars)
    return np.arange(num_bars) < first[:, None] + needed_bars - 1


def forget(predictions: Predictions, rows: Bool[np.ndarray, "asset time"]) -> Predictions:
    """Make the forecasts of `rows` missing, in place, and return the predictions."""
    for part in fields(predictions):
        getattr(predictions, part.name)[rows] = np.nan
    return predictions
