"""How the newest bar's features are worked out: most by replaying what their formulas did once, the rest by running them."""

from collections.abc import Sequence
from types import FunctionType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.features.bars import Bars
from cryptoml.features.contract import Feature
from cryptoml.features.replay import Program
from cryptoml.features.trace import Series, Tape, UntraceableError

__all__ = ["LivePlan"]

IntArray = NDArray[np.int64]


class LivePlan:
    """What the live features of every symbol have in common.

    Attributes:
        timeframe: Length of a bar.
        features: The features of a row.
        columns: The candle columns, and the external ones that the features read.
        program: Replays the formulas that could be recorded.
        replayed: Places of their features, in the order of the program's outputs.
        direct: Each lookback of the other features, with their places.
        keep: Bars that the hungriest feature needs.
    """

    def __init__(self, features: Sequence[Feature], timeframe: str) -> None:
        """Record the formulas."""
        self.timeframe = timeframe
        self.features = tuple(features)
        external = {name for one in features for name in one.inputs} - set(CANDLE_FIELDS)
        self.columns = (*CANDLE_FIELDS, *sorted(external))
        self.keep = max((one.lookback for one in features), default=1)
        tape = Tape()
        bars = _TracedBars(tape, timeframe)
        traced = {index: series.place for index, one in enumerate(features) if (series := _trace(one, bars)) is not None}
        self.program = Program(tape.steps, list(traced.values()))
        self.replayed = np.array(list(traced), dtype=np.int64)
        self.direct: dict[int, list[int]] = {}
        for index, one in enumerate(features):
            if index not in traced:
                self.direct.setdefault(one.lookback, []).append(index)
        self._plan_readiness()

    def _plan_readiness(self) -> None:
        kinds = list({one.inputs: None for one in self.features})
        rows = [[self.columns.index(name) for name in kind or ("close",)] for kind in kinds]
        self._close = self.columns.index("close")
        self._inputs_of = np.array([row for kind in rows for row in kind], dtype=np.int64)
        self._inputs_from = np.cumsum([0, *(len(kind) for kind in rows)])[:-1]
        self._inputs_at = np.array([kinds.index(one.inputs) for one in self.features], dtype=np.int64)
        self._input_runs = np.array([one.input_run or one.lookback for one in self.features])
        self._close_runs = np.array([one.lookback if one.input_run else 1 for one in self.features])

    def ready(self, runs: IntArray) -> NDArray[np.bool_]:
        """Tell for each feature whether its inputs have been present for long enough; see `Feature.__call__`.

        Args:
            runs: `[column]` the bars in a row, up to the newest, in which each column is present.
        """
        shared = np.minimum.reduceat(runs[self._inputs_of], self._inputs_from)
        return (shared[self._inputs_at] >= self._input_runs) & (runs[self._close] >= self._close_runs)


class _TracedBars(Bars):
    """Bars whose columns are series on a tape."""

    def __init__(self, tape: Tape, timeframe: str) -> None:
        super().__init__(pd.DatetimeIndex([]), timeframe, {})
        self._tape = tape

    def __len__(self) -> int:
        raise UntraceableError("traced bars have no length")

    @property
    def timestamps(self) -> pd.DatetimeIndex:
        raise UntraceableError("traced bars have no stamps")

    def column(self, name: str) -> Series:  # type: ignore[override]
        return self._tape.column(name)


def _trace(one: Feature, bars: _TracedBars) -> Series | None:
    """Return what a formula makes of traced bars, None where it does more than can be recorded.

    A method is not recorded: its object may change later.
    """
    if not isinstance(one.function, FunctionType):
        return None
    try:
        result = one.function(bars, *one.arguments)
    except (TypeError, AttributeError, ValueError, IndexError):
        return None
    return result if isinstance(result, Series) else None
