"""All symbols of a panel side by side: what cross-sectional features read.

The interface is that of `Bars`, with arrays `[asset, time]` in place of `[time]`, so the same contract and the same
kernels hold.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import Panel
from cryptoml.data.schema import split_symbol
from cryptoml.features.contract import Bars
from cryptoml.features.rolling import delay

__all__ = ["Market", "leader_of", "market_from_panel"]

FloatArray = NDArray[np.float64]


class Market:
    """Candle columns `[asset, time]` of several symbols on one grid, NaN where absent.

    Attributes:
        timestamps: `[time]` opens of the bars, UTC.
        timeframe: Length of a bar.
        columns: Name to float64 `[asset, time]`.
        leader: Row of the asset that the others are compared with.
    """

    def __init__(self, timestamps: pd.DatetimeIndex, timeframe: str, columns: Mapping[str, FloatArray], leader: int) -> None:
        """Keep references to the columns; nothing is copied."""
        self.timestamps = timestamps
        self.timeframe = timeframe
        self.columns = dict(columns)
        self.leader = leader
        self._memo: dict[Hashable, Any] = {}

    def slice(self, start: int, stop: int) -> "Market":
        """Return bars [start, stop) as views."""
        cut = {name: values[:, start:stop] for name, values in self.columns.items()}
        return Market(self.timestamps[start:stop], self.timeframe, cut, self.leader)

    def memo(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, evaluated once per key. The result is shared: never write into it."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def has(self, name: str) -> bool:
        """Tell whether any asset has the column."""
        return name in self.columns and self.memo(("has", name), lambda: bool(np.isfinite(self.columns[name]).any()))

    def run_length(self, inputs: tuple[str, ...]) -> NDArray[np.int64]:
        """Return `[asset, time]` consecutive bars up to each with all inputs present."""
        return self.memo(("run", inputs), lambda: np.stack([bars.run_length(inputs) for bars in self._assets]))

    def column(self, name: str) -> FloatArray:
        """Return a column `[asset, time]` filled forward."""
        return self.memo(("column", name), lambda: np.stack([bars.column(name) for bars in self._assets]))

    @property
    def _assets(self) -> list[Bars]:
        def split() -> list[Bars]:
            rows = range(len(self.columns["close"]))
            cut = [{name: values[row] for name, values in self.columns.items()} for row in rows]
            return [Bars(self.timestamps, self.timeframe, columns) for columns in cut]

        return self.memo("assets", split)

    @property
    def present(self) -> NDArray[np.bool_]:
        """`[asset, time]` whether the bar exists."""
        return self.memo("present", lambda: np.isfinite(self.columns["close"]))

    @property
    def log_close(self) -> FloatArray:
        """Logarithm of the close, filled forward."""
        return self.memo("log_close", lambda: np.log(self.column("close")))

    @property
    def log_return(self) -> FloatArray:
        """`[asset, time]` log returns, NaN where either bar is absent."""

        def compute() -> FloatArray:
            level = np.log(np.where(self.present, self.columns["close"], np.nan))
            return level - delay(level, 1)

        return self.memo("log_return", compute)

    @property
    def market_return(self) -> FloatArray:
        """`[time]` equally weighted mean log return of the assets that have one."""
        return self.memo("market_return", lambda: self.mean(self.log_return))

    @property
    def leader_return(self) -> FloatArray:
        """`[time]` log return of the leader."""
        return self.log_return[self.leader]

    @staticmethod
    def mean(values: FloatArray) -> FloatArray:
        """Return `[time]` the mean over the assets that have a value, NaN where none has."""
        seen = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return np.where(seen, values, 0.0).sum(axis=0) / seen.sum(axis=0)


def market_from_panel(panel: Panel) -> Market:
    """Return a panel's candles as a market."""
    columns = {name: panel.field(name) for name in ("high", "low", "close", "volume")}
    return Market(panel.timestamps, panel.timeframe, columns, leader_of(panel.symbols))


def leader_of(symbols: Sequence[str]) -> int:
    """Return the row of the asset that the others are compared with: a market of bitcoin, or else the first by name."""
    return min(range(len(symbols)), key=lambda row: (split_symbol(symbols[row])[0] != "BTC", symbols[row]), default=0)
