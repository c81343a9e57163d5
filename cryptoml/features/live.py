"""The next feature row from a buffer of the last bars: what a bot asks for at every close.

Formulas are recorded once, and replayed for the newest bar only; see `trace.py` and `replay.py`. By the feature contract a
row equals the batch row of its bar.
"""

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import DataError
from cryptoml.features.bars import Bars
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.live_inputs import LiveInputs
from cryptoml.features.live_plan import LivePlan
from cryptoml.features.public_inputs import REQUIRED, check_candles_make_sense
from cryptoml.features.replay import Replay
from cryptoml.features.table_checks import check_number

__all__ = ["LiveFeatures"]

FloatArray = NDArray[np.float64]
MICROSECOND = pd.Timedelta(microseconds=1)


class LiveFeatures:
    """Features of one symbol at its newest bar; made by `AdvancedFeatureEngineer.live`.

    Attributes:
        timeframe: Length of a bar.
        names: Names of the features of a row.
    """

    def __init__(self, plan: LivePlan, history: Panel) -> None:
        """Fill the buffer with the last bars of a one-symbol panel."""
        self.timeframe = plan.timeframe
        self.names = pd.Index([one.name for one in plan.features])
        self._plan = plan
        self._step = parse_timeframe(plan.timeframe) // MICROSECOND
        self._columns = {name: row for row, name in enumerate(plan.columns)}
        self._read = [self._columns[name] for name in plan.program.columns]
        self._buffer = _Buffer(len(self._columns), plan.keep)
        self._inputs = LiveInputs(plan.timeframe, history)
        self._fill(bars_from_panel(history, history.symbols[0]))

    def _fill(self, history: Bars) -> None:
        missing = np.full(len(history), np.nan)
        rows = np.stack([history.columns.get(name, missing) for name in self._columns])
        self._buffer.extend(rows, history.timestamps.as_unit("us").asi8)
        self._buffer.count_runs(len(history))
        self._start()

    def _start(self) -> None:
        """Work through the whole buffer."""
        bars = self._bars(self._buffer.length)
        self._replay = Replay(self._plan.program)
        self._replay.run({name: bars.column(name) for name in self._plan.program.columns})

    @property
    def timestamp(self) -> pd.Timestamp | None:
        """Open of the newest bar, None before the first."""
        return pd.Timestamp(self._buffer.last, unit="us", tz="UTC") if self._buffer.length else None

    def update(
        self,
        bar: Mapping[str, Any] | pd.Series,
        *,
        onchain: Any = None,
        orderbook: Any = None,
        cross_exchange: Any = None,
        trades: pd.DataFrame | None = None,
    ) -> pd.Series:
        """Take the next closed bar and what became readable since the last one; return its features, float32.

        Args:
            bar: `timestamp` (the open, timezone-aware; or the name of a Series), open, high, low, close, volume and the
                optional candle columns. Skipped bars count as missing.
            onchain: An `OnChainMetrics` reading, or new rows with `available_at`; the newest one stays in force.
            orderbook: `{"bids": [[price, size], ...], "asks": ...}`, or the bar's snapshots.
            cross_exchange: Venue to price, or to new rows; `spot` and `future` legs; `funding`, which stays in force.
            trades: The bar's single trades: `available_at`, `size`, `is_buyer_taker`.

        Raises:
            DataError: The bar is not later than the last, lies off the grid, or a value is not what it should be; the
                buffer is then as it was.
        """
        stamp, values = self._open(bar), self._candle(bar)
        skipped = 0 if not self._buffer.length else (stamp - self._buffer.last) // self._step - 1
        stamps = stamp - self._step * np.arange(min(skipped, self._buffer.keep), -1, -1)
        readings = self._inputs.read(stamp, onchain, orderbook, cross_exchange, trades)
        rows = np.full((len(self._columns), len(stamps)), np.nan)
        rows[: len(CANDLE_FIELDS), -1] = values
        self._buffer.extend(rows, stamps)
        for name, joined in self._inputs.join(readings, stamps + self._step, self._close_of).items():
            if name in self._columns:
                self._buffer.overwrite(self._columns[name], joined)
        self._buffer.count_runs(len(stamps))
        if skipped:
            self._start()
        else:
            self._replay.step(self._buffer.rows[self._read, -1])
        return self.latest()

    def latest(self) -> pd.Series:
        """Return the features of the newest bar, float32; NaN where the contract defines no value.

        Raises:
            DataError: There is no bar yet.
        """
        if not self._buffer.length:
            raise DataError("live features need at least one bar, buffer was empty")
        plan = self._plan
        row = np.full(len(plan.features), np.nan)
        ready = plan.ready(self._buffer.runs)
        row[plan.replayed] = self._replay.outputs
        with np.errstate(all="ignore"):
            for lookback, members in plan.direct.items():
                bars = self._bars(min(lookback, self._buffer.length))
                for one in (one for one in members if ready[one]):
                    row[one] = plan.features[one].formula_values(bars)[-1]
            values = row.astype(np.float32)
        values[~(ready & np.isfinite(values))] = np.nan
        return pd.Series(values, index=self.names, name=self.timestamp)

    def _bars(self, length: int) -> Bars:
        """Return the last bars of the buffer."""
        start = self._buffer.length - length
        stamps = pd.DatetimeIndex(self._buffer.stamps[start:].view("datetime64[us]")).tz_localize("UTC")
        return Bars(stamps, self.timeframe, dict(zip(self._columns, self._buffer.rows[:, start:], strict=True)))

    def _open(self, bar: Mapping[str, Any] | pd.Series) -> int:
        """Return the bar's open in microseconds, checked against the last."""
        given = bar["timestamp"] if "timestamp" in bar else getattr(bar, "name", None)
        if not isinstance(given, datetime) or given.tzinfo is None:
            raise DataError(f"bar timestamp must be timezone-aware UTC, was {given!r}")
        stamp = pd.Timestamp(given).tz_convert("UTC").as_unit("us").value // 1_000
        if self._buffer.length and (stamp <= self._buffer.last or (stamp - self._buffer.last) % self._step):
            wanted = f"later than the last bar {self.timestamp} by whole bars of {self.timeframe}"
            raise DataError(f"bar timestamp must be {wanted}, was {given}")
        return stamp

    def _candle(self, bar: Mapping[str, Any] | pd.Series) -> list[float]:
        missing = [name for name in REQUIRED if name not in bar]
        if missing:
            raise DataError(f"bar must have {missing[0]}, keys were {list(bar.keys())}")
        values = [check_number(bar[name], f"bar {name}") if name in bar else np.nan for name in CANDLE_FIELDS]
        check_candles_make_sense({name: np.array([value]) for name, value in zip(CANDLE_FIELDS, values, strict=True)}, "bar")
        return values

    def _close_of(self, stamp: int) -> float:
        """Return the close of the bar that opened at `stamp`, NaN where there is none."""
        place = bisect_left(self._buffer.stamps, stamp)
        found = place < self._buffer.length and self._buffer.stamps[place] == stamp
        return float(self._buffer.rows[self._columns["close"], place]) if found else np.nan


class _Buffer:
    """The last `keep` bars, contiguous `[column, time]`, with the run of present values that ends each column."""

    def __init__(self, num_columns: int, keep: int) -> None:
        self.keep = keep
        self.length = 0
        self.runs = np.zeros(num_columns, np.int64)
        self._stop = 0
        self._values = np.full((num_columns, 2 * keep), np.nan)
        self._stamps = np.zeros(2 * keep, np.int64)

    @property
    def rows(self) -> FloatArray:
        return self._values[:, self._stop - self.length : self._stop]

    @property
    def stamps(self) -> NDArray[np.int64]:
        return self._stamps[self._stop - self.length : self._stop]

    @property
    def last(self) -> int:
        return int(self._stamps[self._stop - 1])

    def extend(self, rows: FloatArray, stamps: NDArray[np.int64]) -> None:
        rows, stamps = rows[:, -self.keep :], stamps[-self.keep :]
        if self._stop + len(stamps) > self._values.shape[1]:
            kept = min(self.length, self.keep)
            self._values[:, :kept] = self._values[:, self._stop - kept : self._stop]
            self._stamps[:kept] = self._stamps[self._stop - kept : self._stop]
            self._stop = kept
        self._values[:, self._stop : self._stop + len(stamps)] = rows
        self._stamps[self._stop : self._stop + len(stamps)] = stamps
        self._stop += len(stamps)
        self.length = min(self.length + len(stamps), self.keep)

    def overwrite(self, column: int, values: FloatArray) -> None:
        values = values[-self.length :]
        self.rows[column, self.length - len(values) :] = values

    def count_runs(self, num_new: int) -> None:
        """Carry the runs over the last `num_new` bars."""
        present = np.isfinite(self.rows[:, max(self.length - num_new, 0) :])
        newest_gap = np.argmax(~present[:, ::-1], axis=1) if present.size else 0
        self.runs = np.where(present.all(axis=1), self.runs + present.shape[1], newest_gap)
