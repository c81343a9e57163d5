"""Why a model forecasts what it does: inputs that moved it, bars that it looked at, assets that it listened to."""

from typing import NamedTuple

import numpy as np

from cryptoml.evaluation.explanation import asset_graph, input_influence, temporal_attention
from cryptoml.live.inputs import Question
from cryptoml.live.wire import TopFeature
from serve.forecasting import ServedModel

__all__ = ["Look", "listened_to", "looked_at", "top_features"]

MOST_FEATURES = 10


class Look(NamedTuple):
    """Where one member looked.

    Attributes:
        member: Place and architecture.
        weights: Attention by bars ago, the newest first; sums to 1.
    """

    member: str
    weights: list[float]


def top_features(model: ServedModel, question: Question, symbol: str) -> list[TopFeature]:
    """Return the inputs that moved a symbol's forecast most, each with its signed share of all influence."""
    row, ensemble = model.predictor.symbols.index(symbol), model.bundle.ensemble
    window = np.ascontiguousarray(_window(model, question, row))
    influence = input_influence(ensemble.members, ensemble.weights, window, row)
    total = np.abs(influence).sum() or 1.0
    order = np.argsort(-np.abs(influence), kind="stable")[:MOST_FEATURES]
    names = model.bundle.feature_names
    return [TopFeature(name=names[place], contribution=float(influence[place] / total)) for place in order if influence[place]]


def looked_at(model: ServedModel, question: Question, symbol: str) -> list[Look]:
    """Return the attention of each member that has one, for one symbol at its newest bar."""
    row = model.predictor.symbols.index(symbol)
    members = model.bundle.ensemble.members
    named = {f"{place} {member.config.architecture}": member for place, member in enumerate(members)}
    window = np.full_like(_window(model, question, row), np.nan)
    window[row] = _window(model, question, row)[row]
    found = temporal_attention(named, window, model.bundle.context_bars)
    return [Look(name, [float(weight) for weight in weights]) for name, weights in found.items()]


def listened_to(model: ServedModel, question: Question) -> np.ndarray | None:
    """Return the learned graph at the newest bar `[asset, asset]`: how much each row listens to each column; None without."""
    ensemble, context = model.bundle.ensemble, model.bundle.context_bars
    newest = np.ascontiguousarray(question.features[:, -context:])
    return asset_graph(ensemble.members, ensemble.weights, newest, context)


def _window(model: ServedModel, question: Question, row: int) -> np.ndarray:
    """Return the bars that the forecast of one asset read: up to its own newest one."""
    late = question.present.shape[1] - 1 - int(np.flatnonzero(question.present[row])[-1])
    stop = question.features.shape[1] - late
    return question.features[:, stop - model.bundle.context_bars : stop]
