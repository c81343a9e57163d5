"""Features of one symbol's newest bars, carried on from bar to bar."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.live import LiveFeatures
from serve.kept_bars import BarArrays, KeptBars

__all__ = ["SymbolRows"]

FloatArray = NDArray[np.float32]
_MOST_STEPS = 8
"""Bars in a row that are computed one by one; more of them are computed at once."""
_UNKNOWN = -1


class SymbolRows:
    """The rows that forecasts at a symbol's newest bar, and a few before it, read.

    Bars that follow without a gap cost one live row each; everything else (many bars, a gap, a symbol begun again) is computed
    anew from the kept bars. Both give the same bits.

    Args:
        engineer: The features; those over a panel are left out.
        kept: The bars.
        symbol: Whose.
        num_rows: How many of the newest rows to keep.
        history_bars: Bars that the rows read, together.
    """

    def __init__(self, engineer: AdvancedFeatureEngineer, kept: KeptBars, symbol: str, num_rows: int, history_bars: int) -> None:
        self._engineer, self._kept, self._symbol = engineer, kept, symbol
        self._num_bars, self._num_rows = history_bars, num_rows
        self._edition, self._newest = _UNKNOWN, 0
        self._live: LiveFeatures | None = None
        self._values = np.empty((0, len(engineer.features)), np.float32)

    def rows(self) -> FloatArray:
        """Return float32 `[bar, feature]` up to the newest kept bar; there must be one."""
        bars, edition = self._kept.bars(self._symbol), self._kept.edition(self._symbol)
        if edition == self._edition and bars.stamps[-1] == self._newest:
            return self._values
        first = int(np.searchsorted(bars.stamps, self._newest, side="right")) if edition == self._edition else 0
        self._edition = _UNKNOWN  # until all of it is done
        if first and self._follows(bars, first):
            self._values = np.concatenate([self._values, self._next(bars, first)])[-self._num_rows :]
        else:
            self._live = None
            self._values = self._engineer.compute(bars_from_panel(self._panel(bars), self._symbol))[-self._num_rows :].copy()
        self._edition, self._newest = edition, int(bars.stamps[-1])
        return self._values

    def _follows(self, bars: BarArrays, first: int) -> bool:
        """Tell whether the bars from `first` on are few and follow the one before them without a gap."""
        steps = np.diff(bars.stamps[first - 1 :])
        return len(steps) <= _MOST_STEPS and bool((steps == self._kept.step).all())

    def _next(self, bars: BarArrays, first: int) -> FloatArray:
        """Return the rows of the bars from `first` on."""
        if self._live is None:
            self._live = self._engineer.live_from(self._panel(BarArrays(bars.stamps[:first], bars.values[:first])))
        return np.stack([self._live.update(_candle(bars, place)) for place in range(first, len(bars))])

    def _panel(self, bars: BarArrays) -> Panel:
        newest = int(bars.stamps[-1])
        return self._kept.panel((self._symbol,), {self._symbol: newest}, newest, self._num_bars)


def _candle(bars: BarArrays, place: int) -> dict[str, float | pd.Timestamp]:
    values = zip(CANDLE_FIELDS, bars.values[place].tolist(), strict=True)
    stamp = pd.Timestamp(int(bars.stamps[place]), unit="us", tz="UTC")
    return {"timestamp": stamp, **{name: value for name, value in values if np.isfinite(value)}}
