"""One symbol's rows on a regular grid, and the derived series that features share."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.features.rolling import FOLD_OF, delay

__all__ = ["Bars"]

FloatArray = NDArray[np.float64]


class Bars:
    """One symbol's rows on a regular grid: candle columns and external series already joined as-of per bar.

    Columns are read filled forward, so that formulas only ever see numbers; `Feature.__call__` takes out every value
    whose lookback touches a filled row. Derived series that several features share are computed once.

    Attributes:
        timeframe: Length of a bar, such as `"1h"`.
    """

    def __init__(self, timestamps: pd.DatetimeIndex, timeframe: str, columns: Mapping[str, FloatArray]) -> None:
        """Keep references to the columns; nothing is copied."""
        self.timeframe = timeframe
        self._timestamps = timestamps
        self._columns = dict(columns)
        self._memo: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._timestamps)

    @property
    def timestamps(self) -> pd.DatetimeIndex:
        """`[time]` opens of the bars, UTC."""
        return self._timestamps

    @property
    def columns(self) -> Mapping[str, FloatArray]:
        """Name to float64 `[time]`, NaN where absent."""
        return self._columns

    def slice(self, start: int, stop: int) -> "Bars":
        """Return rows [start, stop) as views, without the derived series."""
        cut = {name: values[start:stop] for name, values in self.columns.items()}
        return Bars(self.timestamps[start:stop], self.timeframe, cut)

    def has(self, name: str) -> bool:
        """Tell whether a column has any value at all."""
        return name in self.columns and self.memo(("has", name), lambda: bool(np.isfinite(self.columns[name]).any()))

    def memo(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, evaluated once per key for these bars. The result is shared: never write into it."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def column(self, name: str) -> FloatArray:
        """Return a column `[time]`, filled forward (leading gaps take the first value; all NaN when there is none)."""
        return self.memo(("column", name), lambda: _filled(self.columns[name]))

    def rolled(self, kernel: Callable[..., Any], series: str, *arguments: float) -> Any:
        """Return `kernel(self.<series>, *arguments)`, shared by all features that ask for the same."""

        def compute() -> Any:
            if kernel not in FOLD_OF:
                return kernel(getattr(self, series), *arguments)
            folds: dict[int, Any] = self.memo(("folds", FOLD_OF[kernel], series), dict)
            return kernel(getattr(self, series), *arguments, folds=folds)

        return self.memo((kernel, series, arguments), compute)

    def run_length(self, inputs: tuple[str, ...]) -> NDArray[np.int64]:
        """Return `[time]` the number of consecutive rows up to and including each in which all inputs are present."""
        return self.memo(("run", inputs), lambda: _run_length([self.columns[name] for name in inputs], len(self)))

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """`[time]` whether the bar exists."""
        return np.isfinite(self.columns["close"])

    @cached_property
    def open(self) -> FloatArray:
        """First price of each bar."""
        return self.column("open")

    @cached_property
    def high(self) -> FloatArray:
        """Highest price of each bar."""
        return self.column("high")

    @cached_property
    def low(self) -> FloatArray:
        """Lowest price of each bar."""
        return self.column("low")

    @cached_property
    def close(self) -> FloatArray:
        """Last price of each bar."""
        return self.column("close")

    @cached_property
    def volume(self) -> FloatArray:
        """Base-asset volume of each bar."""
        return self.column("volume")

    @cached_property
    def taker_buy_volume(self) -> FloatArray:
        """Base-asset volume of each bar that takers bought."""
        return self.column("taker_buy_volume")

    @cached_property
    def num_trades(self) -> FloatArray:
        """Number of trades of each bar."""
        return self.column("num_trades")

    @cached_property
    def log_close(self) -> FloatArray:
        """Natural logarithm of the close."""
        return np.log(self.close)

    @cached_property
    def log_return(self) -> FloatArray:
        """`ln(close_t / close_{t-1})`, two rows; exactly zero where the price stood still."""
        return self.log_close - delay(self.log_close, 1)

    @cached_property
    def absolute_return(self) -> FloatArray:
        """Absolute log return, two rows."""
        return np.abs(self.log_return)

    @cached_property
    def squared_return(self) -> FloatArray:
        """Squared log return, two rows."""
        return self.log_return**2

    @cached_property
    def log_range(self) -> FloatArray:
        """`ln(high / low)`."""
        return np.log(self.high / self.low)

    @cached_property
    def log_body(self) -> FloatArray:
        """`ln(close / open)`."""
        return np.log(self.close / self.open)

    @cached_property
    def typical_price(self) -> FloatArray:
        """`(high + low + close) / 3`."""
        return (self.high + self.low + self.close) / 3.0

    @cached_property
    def true_range(self) -> FloatArray:
        """Wilder 1978: `max(high, close_{t-1}) - min(low, close_{t-1})`, two rows."""
        previous = delay(self.close, 1)
        return np.maximum(self.high, previous) - np.minimum(self.low, previous)


def _filled(values: FloatArray) -> FloatArray:
    valid = np.isfinite(values)
    if valid.all() or not valid.any():
        return np.asarray(values, dtype=np.float64)
    source = np.where(valid, np.arange(len(values)), int(valid.argmax()))
    return np.asarray(values, dtype=np.float64)[np.maximum.accumulate(source)]


def _run_length(columns: Sequence[FloatArray], length: int) -> NDArray[np.int64]:
    index = np.arange(length)
    missing = np.zeros(length, dtype=bool)
    for values in columns:
        missing |= ~np.isfinite(values)
    return index - np.maximum.accumulate(np.where(missing, index, -1))
