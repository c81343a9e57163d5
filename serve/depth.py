"""One symbol in depth, computed where the model and the kept bars are."""

import asyncio
from typing import NamedTuple

import numpy as np
import pandas as pd

from cryptoml.features.targets import REGIMES
from cryptoml.live.intake import panel_of
from serve.bar_keeper import BarKeeper
from serve.explaining import Look, listened_to, looked_at
from serve.forecasting import ServedModel

__all__ = ["Depth", "Revision", "graph_weights", "symbol_depth"]

PAST_BARS = 48


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
    _, window = await keeper.window(model.version, model.predictor, None)
    if window is None or symbol not in window.question.intake.usable:
        return Depth([], [])
    kept = await keeper.bars(tuple(window.question.intake.usable))
    needed = model.predictor.history_bars + PAST_BARS
    frames = {name: bars.tail(needed).frame() for name, bars in kept.items()}

    def look() -> Depth:
        return Depth(_regimes(model, frames, symbol), looked_at(model, window.question, symbol))

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


def _regimes(model: ServedModel, frames: dict[str, pd.DataFrame], symbol: str) -> list[str | None]:
    predictor = model.predictor
    panel = panel_of(predictor.symbols, frames, predictor.timeframe)
    predictions, _ = predictor.decide_bars(panel, PAST_BARS)
    rows = predictions.regime[predictor.symbols.index(symbol)]
    return [None if np.isnan(row).any() else REGIMES[int(row.argmax())] for row in rows]
