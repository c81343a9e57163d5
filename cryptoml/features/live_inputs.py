"""External series fed row by row, with the same as-of rules as the joins of whole tables in `joins.py`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.bar_tables import book_figures
from cryptoml.data.panel import Panel
from cryptoml.data.schema import BOOK_LEVELS, parse_timeframe
from cryptoml.errors import DataError
from cryptoml.features.external_inputs import (
    book_rows,
    book_sides,
    check_reading,
    exchange_rows,
    onchain_figures,
    onchain_rows,
    trade_rows,
)
from cryptoml.features.joins import (
    FUNDING_STALE,
    ONCHAIN_STALE,
    combine_premiums,
    join_book,
    join_trades,
    venue_leg,
)
from cryptoml.features.onchain import METRIC_ALIASES, METRICS, OnChainMetrics
from cryptoml.features.table_checks import refuse_future

__all__ = ["LiveInputs", "Readings"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Row = tuple[int, int, float]  # available at, label (both microseconds), value
MICROSECOND = pd.Timedelta(microseconds=1)


@dataclass
class _AsOf:
    """The row of the newest label that can be read, as `joins.join_asof` picks it."""

    pending: list[Row] = field(default_factory=list)
    current: Row | None = None

    def add(self, rows: Iterable[Row]) -> None:
        self.pending = sorted([*self.pending, *rows], key=lambda row: row[:2])

    def at(self, close: int, stale: int) -> Row | None:
        """Return the row in force at a close, None where it is older than `stale`; closes must not decrease."""
        while self.pending and self.pending[0][0] <= close:
            row = self.pending.pop(0)
            if self.current is None or row[1] >= self.current[1]:
                self.current = row
        return self.current if self.current is not None and close - self.current[0] < stale else None


@dataclass(frozen=True)
class Readings:
    """What became readable since the last bar, checked."""

    columns: Mapping[str, list[Row]]
    venues: Mapping[str, list[Row]]
    book: pd.DataFrame | Mapping[str, FloatArray] | None
    trades: pd.DataFrame | None


class LiveInputs:
    """The external columns of one symbol, bar by bar."""

    def __init__(self, timeframe: str, history: Panel) -> None:
        """Take the rows of a one-symbol panel's tables as read so far."""
        self._step = parse_timeframe(timeframe)
        self._columns: dict[str, _AsOf] = {}
        self._venues: dict[str, _AsOf] = {}
        (symbol,) = history.symbols
        onchain = history.tables.get("onchain", {}).get(symbol)
        funding = history.tables.get("funding", {}).get(symbol)
        venues = {key.rpartition(":")[0]: frame for key, frame in history.tables.get("venue_candles", {}).items()}
        self._remember(Readings(_table_columns(onchain, funding), self._venue_rows(venues), None, None))

    def read(self, stamp: int, onchain: Any, orderbook: Any, cross_exchange: Any, trades: Any) -> Readings:
        """Check what the caller hands over with the bar that opened at `stamp`, in microseconds.

        Raises:
            DataError: A value is not a number, a book is empty or crossed, or a row lies after the bar's close.
        """
        label = pd.Timestamp(stamp, unit="us", tz="UTC")
        now = label + self._step
        snapshot = isinstance(orderbook, Mapping)
        book = None if orderbook is None else book_sides(orderbook) if snapshot else book_rows(orderbook, now)
        flow = None if trades is None else trade_rows(trades)
        for name, rows in (("orderbook", book), ("trades", flow)):
            if isinstance(rows, pd.DataFrame):
                refuse_future(pd.DatetimeIndex(rows["available_at"]), now, name)
        exchange = {} if cross_exchange is None else cross_exchange
        if not isinstance(exchange, Mapping):
            raise DataError(f"cross_exchange must map venues to prices or candles, was {type(exchange).__name__}")
        numbers = {name: value for name, value in exchange.items() if isinstance(value, int | float | np.number)}
        others = {name: value for name, value in exchange.items() if name not in numbers}
        funding, frames = exchange_rows(others, label, self._step)
        columns, venues = _table_columns(_chain_frame(onchain, now), funding), self._venue_rows(frames)
        close = stamp + self._step // MICROSECOND
        if isinstance(onchain, OnChainMetrics):
            columns |= _reading(onchain, close)
        for name, value in numbers.items():
            source = f"cross_exchange {name}"
            if str(name).lower() == "funding":
                columns["funding_rate"] = [(close, close, check_reading(value, source, "funding_rate"))]
            else:
                venues[str(name).lower()] = [(close, stamp, check_reading(value, source))]
        return Readings(columns, venues, book, flow)

    def join(self, readings: Readings, closes: IntArray, close_of: Callable[[int], float]) -> dict[str, FloatArray]:
        """Return the external columns at the closes of the new bars, `[time]` each.

        Args:
            readings: What became readable.
            closes: Closes of the bars since the last call, microseconds.
            close_of: Own close of the bar that opened at an instant, NaN where there is none.
        """
        self._remember(readings)
        columns = {name: self._values(name, series, closes) for name, series in self._columns.items()}
        premiums: dict[str, list[FloatArray]] = {}
        for venue, series in self._venues.items():
            premiums.setdefault(venue_leg(venue), []).append(self._premiums(series, closes, close_of))
        columns |= combine_premiums({leg: np.stack(parts) for leg, parts in premiums.items()})
        book = readings.book
        columns |= _snapshot(book, len(closes)) if isinstance(book, Mapping) else join_book(book, closes, self._step)
        return columns | join_trades(readings.trades, closes, self._step)

    def _remember(self, readings: Readings) -> None:
        for name, rows in readings.columns.items():
            self._columns.setdefault(name, _AsOf()).add(rows)
        for venue, rows in readings.venues.items():
            self._venues.setdefault(venue, _AsOf()).add(rows)

    def _values(self, name: str, series: _AsOf, closes: IntArray) -> FloatArray:
        stale = (FUNDING_STALE if name == "funding_rate" else ONCHAIN_STALE) // MICROSECOND
        rows = [series.at(close, stale) for close in closes.tolist()]
        return np.array([np.nan if row is None else row[2] for row in rows])

    def _premiums(self, series: _AsOf, closes: IntArray, close_of: Callable[[int], float]) -> FloatArray:
        step = self._step // MICROSECOND
        rows = [series.at(close, step) for close in closes.tolist()]
        with np.errstate(all="ignore"):
            return np.array([np.nan if row is None else np.log(row[2] / close_of(row[1])) for row in rows])

    def _venue_rows(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, list[Row]]:
        """Return rows with a price, NaN where it was known more than a bar after its own bar's close."""
        step = self._step // MICROSECOND
        found = {}
        for venue, frame in frames.items():
            rows = _rows(frame, "close")
            found[venue] = [
                (max(known, label + step), label, value if known - label < 2 * step else np.nan) for known, label, value in rows
            ]
        return found


def _chain_frame(onchain: Any, now: pd.Timestamp) -> pd.DataFrame | None:
    return None if onchain is None or isinstance(onchain, OnChainMetrics) else onchain_rows(onchain, now)


def _snapshot(sides: Mapping[str, FloatArray], num_bars: int) -> dict[str, FloatArray]:
    """Return the columns of one snapshot, which counts for the last of the new bars."""
    figures = book_figures(*(side[None, : BOOK_LEVELS[-1]] for side in sides.values()))
    return {name: np.concatenate([np.full(num_bars - 1, np.nan), value]) for name, value in figures.items()}


def _reading(onchain: OnChainMetrics, close: int) -> dict[str, list[Row]]:
    return {f"onchain_{name}": [(close, close, value)] for name, value in onchain_figures(onchain).items()}


def _table_columns(onchain: pd.DataFrame | None, funding: pd.DataFrame | None) -> dict[str, list[Row]]:
    columns = {} if funding is None else {"funding_rate": _rows(funding, "funding_rate")}
    if onchain is None or onchain.empty:
        return columns
    known = onchain[onchain["value"].notna()]
    names = known["metric"].replace(METRIC_ALIASES)
    for metric in METRICS:
        rows = known[names == metric]
        if len(rows):
            columns[f"onchain_{metric}"] = _rows(rows, "value")
    return columns


def _rows(frame: pd.DataFrame, column: str) -> list[Row]:
    stamps = [pd.DatetimeIndex(frame[name]).as_unit("us").asi8.tolist() for name in ("available_at", "timestamp")]
    return list(zip(*stamps, frame[column].to_numpy(np.float64).tolist(), strict=True))
