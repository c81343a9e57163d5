"""One symbol in depth, computed where the model and the kept bars are."""

import asyncio
from typing import NamedTuple

import numpy as np

from cryptoml.features.targets import REGIMES
from cryptoml.live.inputs import Question
from serve.bar_keeper import BarKeeper
from serve.explaining import Look, listened_to, looked_at
from serve.forecasting import ServedModel
from serve.windows import PAST_BARS

__all__ = ["Depth", "Revision", "graph_weights", "symbol_depth"]

MOST_FORECASTS = 1200
"""Forecasts that one look may cost, so that with many symbols it shows fewer bars."""


class Depth(NamedTuple):
    """What is told of one symbol beside its forecast.

    Attributes:
        regimes: Most probable regime forecast at each of the newest bars, oldest first; None where there is no forecast.
        looks: Attention of the members.
    """

    regimes: list[str | None]
    looks: list[Look]


class Revision(NamedTuple):
    """What changes when anything does that a page shows."""

    model: str
    bars: int
    last_bar: str | None
    adaptations: int


async def symbol_depth(keeper: BarKeeper, model: ServedModel, symbol: str) -> Depth:
    """Return one symbol's past regimes and the members' attention; empty where it cannot be forecast."""
    assets = len(model.predictor.symbols)
    past = max(1, min(PAST_BARS, MOST_FORECASTS // assets) - 1)
    _, window = await keeper.window(model.version, model.predictor, None, past)
    if window is None or symbol not in window.question.intake.usable:
        return Depth([], [])
    kept = len((await keeper.bars((symbol,)))[symbol])

    def look() -> Depth:
        return Depth(_regimes(model, window.question, symbol, kept), looked_at(model, window.question, symbol))

    return await asyncio.to_thread(look)


async def graph_weights(keeper: BarKeeper, model: ServedModel) -> list[list[float | None]] | None:
    """Return the learned graph at the newest bar, None without one or without fresh bars."""
    _, window = await keeper.window(model.version, model.predictor, None)
    if window is None or not window.question.intake.usable:
        return None
    weights = await asyncio.to_thread(listened_to, model, window.question)
    if weights is None:
        return None
    return [[None if np.isnan(value) else float(value) for value in row] for row in weights]


def _regimes(model: ServedModel, question: Question, symbol: str, kept: int) -> list[str | None]:
    """Return the regime forecast at each of its bars that is asked about, None before the symbol had enough history."""
    context, row = model.bundle.context_bars, model.predictor.symbols.index(symbol)
    predictions = model.bundle.ensemble.predict(question.features, question.sigma, context).on_bars(slice(context - 1, None))
    rows = predictions.regime[row][question.present[row]]
    known = ~np.isnan(rows).any(axis=1) & (np.arange(len(rows))[::-1] <= kept - model.predictor.history_bars)
    return [REGIMES[int(one.argmax())] if there else None for one, there in zip(rows, known, strict=True)]
