"""The panel: candles of many symbols on one regular time grid, with the slower tables beside them.

Axes are `[asset, time, field]`. Symbols may be listed and delisted at different instants and may have gaps: an
absent bar is NaN in every field, and `present` is the mask.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa

from cryptoml.data.schema import CANDLES, TABLES, grid_anchor, parse_timeframe
from cryptoml.errors import DataError

__all__ = ["CANDLE_FIELDS", "Panel", "TimeBound", "panel_from_frames", "panel_on_grid", "unshared_symbols"]

CANDLE_FIELDS = ("open", "high", "low", "close", "volume", "quote_volume", "num_trades", "taker_buy_volume")
TimeBound = int | str | datetime | None
"""A bar index, an instant (text without an offset means UTC), or None for the panel's own edge."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Candles of several symbols on one grid.

    Attributes:
        symbols: Names of the rows of `candles`, in the lake's spelling.
        timeframe: Length of a bar, such as `"1h"`.
        timestamps: Bar opens `[time]`, UTC, a regular grid; bar t is known at `timestamps[t] + timeframe`.
        candles: float64 `[asset, time, field]` in the order of `CANDLE_FIELDS`; NaN where the bar, or an optional
            column of it, is absent. Each field is contiguous in memory where `panel_from_frames` made the panel.
        tables: Table name -> key -> rows of that table's schema. The key is the symbol, the base asset for
            `onchain`, and `"venue:symbol"` for `venue_candles`; the venue `"own"` is the traded one, with markets that
            a feature needs and the panel does not hold. To be joined as-of on `available_at`.
    """

    symbols: tuple[str, ...]
    timeframe: str
    timestamps: pd.DatetimeIndex
    candles: np.ndarray
    tables: Mapping[str, Mapping[str, pd.DataFrame]] = dataclass_field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.symbols), len(self.timestamps), len(CANDLE_FIELDS))
        if self.candles.shape != expected:
            raise DataError(f"candles must have shape [asset, time, field] = {expected}, was {self.candles.shape}")
        if len(set(self.symbols)) != len(self.symbols):
            raise DataError(f"symbols must differ from each other, were {self.symbols}")

    @property
    def num_assets(self) -> int:
        """Number of symbols."""
        return len(self.symbols)

    @property
    def num_bars(self) -> int:
        """Number of bars of the grid."""
        return len(self.timestamps)

    @cached_property
    def present(self) -> np.ndarray:
        """Bool `[asset, time]`: the bar exists."""
        return ~np.isnan(self.field("close"))

    def field(self, name: str) -> np.ndarray:
        """Return one candle column as a view `[asset, time]`, NaN where absent."""
        if name not in CANDLE_FIELDS:
            raise DataError(f"field must be one of {CANDLE_FIELDS}, was {name!r}")
        return self.candles[:, :, CANDLE_FIELDS.index(name)]

    def index_of(self, symbol: str) -> int:
        """Return the row of a symbol.

        Raises:
            DataError: The panel does not hold it.
        """
        if symbol not in self.symbols:
            raise DataError(f"symbol must be one of {list(self.symbols)}, was {symbol!r}")
        return self.symbols.index(symbol)

    def slice_time(self, start: TimeBound = None, stop: TimeBound = None) -> "Panel":
        """Return the bars that open in `[start, stop)`, as a view.

        Tables keep their rows before `start`, which as-of joins need, and lose those that nobody could have read by the
        close of the slice's last bar.
        """
        first, last = self._position(start, 0), self._position(stop, self.num_bars)
        stamps = self.timestamps[first:last]
        tables = self.tables
        if len(stamps):
            known_until = stamps[-1] + parse_timeframe(self.timeframe)
            tables = {
                name: {key: _known(frame, known_until) for key, frame in rows.items()} for name, rows in self.tables.items()
            }
        return replace(self, timestamps=stamps, candles=self.candles[:, first:last], tables=tables)

    def select(self, symbols: Sequence[str]) -> "Panel":
        """Return the named symbols in the given order (candles are copied); on-chain tables stay whole."""
        rows = [self.index_of(symbol) for symbol in symbols]
        dropped = set(self.symbols) - set(symbols)
        tables = {
            name: {key: frame for key, frame in frames.items() if key.split(":")[-1] not in dropped}
            for name, frames in self.tables.items()
        }
        return replace(self, symbols=tuple(symbols), candles=self.candles[rows], tables=tables)

    def frame(self, symbol: str) -> pd.DataFrame:
        """Return the present bars of one symbol: `timestamp` and `CANDLE_FIELDS` (float64, NaN where a column is absent)."""
        row = self.index_of(symbol)
        present = self.present[row]
        columns = {name: self.field(name)[row, present] for name in CANDLE_FIELDS}
        return pd.DataFrame({"timestamp": self.timestamps[present], **columns})

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of everything the panel holds; equal content gives equal text whatever its layout."""
        digest = hashlib.sha256()
        for text in (self.timeframe, *self.symbols):
            digest.update(f"{text}\n".encode())
        digest.update(self.timestamps.as_unit("us").asi8.tobytes())
        for row in range(self.num_assets):
            values = np.ascontiguousarray(self.candles[row], dtype=np.float64)
            digest.update(np.where(np.isnan(values), np.nan, values).tobytes())
        for name in sorted(self.tables):
            for key in sorted(self.tables[name]):
                digest.update(f"{name}/{key}\n".encode())
                _hash_table(digest, name, key, self.tables[name][key])
        return digest.hexdigest()

    def _position(self, bound: TimeBound, default: int) -> int:
        if bound is None:
            return default
        if isinstance(bound, int | np.integer):
            return slice(int(bound), None).indices(self.num_bars)[0]
        instant = pd.Timestamp(bound)
        instant = instant.tz_localize("UTC") if instant.tz is None else instant
        return int(self.timestamps.searchsorted(instant))


def panel_from_frames(
    frames: Mapping[str, pd.DataFrame],
    timeframe: str,
    tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
) -> Panel:
    """Align candle frames on one grid that reaches from the first listing to the last bar.

    Args:
        frames: Symbol -> checked candles: a `timestamp` column or index (timezone-aware, increasing, on the grid of the
            timeframe), open, high, low, close, volume, and the optional columns where there are any.
        timeframe: Length of a bar, such as `"1h"`.
        tables: Slower tables, kept as they are.

    Raises:
        DataError: No symbols; a symbol without rows, with a missing or unreadable column, or with bad stamps; a symbol
            that shares no bar with any other, so that nothing across assets can be learned from it.
    """
    if not frames:
        raise DataError("panel needs at least one symbol, was given none")
    step = parse_timeframe(timeframe)
    stamps = {symbol: _grid_numbers(frame, symbol, step) for symbol, frame in frames.items()}
    _refuse_loners(stamps)
    for symbol, frame in frames.items():
        absent = [name for name in CANDLE_FIELDS if name not in frame.columns and name not in CANDLES.nullable]
        if absent:
            raise DataError(f"candles of {symbol} lack column {absent[0]!r}, have {list(frame.columns)}")
    first, last = min(int(numbers[0]) for numbers in stamps.values()), max(int(numbers[-1]) for numbers in stamps.values())
    return _filled(frames, stamps, timeframe, range(first, last + 1), tables)


def panel_on_grid(
    frames: Mapping[str, pd.DataFrame],
    timeframe: str,
    start: pd.Timestamp,
    stop: pd.Timestamp,
    tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
) -> Panel:
    """Return the bars that open in `[start, stop)`, whichever of them exist: frames may be empty and lack columns.

    Args:
        frames: As of `panel_from_frames`, all rows in `[start, stop)`.
        timeframe: Length of a bar.
        start: First open wanted, UTC.
        stop: Opens from here on are left out.
        tables: Slower tables, kept as they are.

    Raises:
        DataError: A column cannot be read, or stamps are bad.
    """
    step = parse_timeframe(timeframe)
    first, last = (-((grid_anchor(step) - edge) // step) for edge in (start, stop))
    stamps = {
        symbol: _grid_numbers(frame, symbol, step) if len(frame) else np.empty(0, np.int64) for symbol, frame in frames.items()
    }
    return _filled(frames, stamps, timeframe, range(first, last), tables)


def _filled(
    frames: Mapping[str, pd.DataFrame],
    stamps: Mapping[str, np.ndarray],
    timeframe: str,
    bars: range,
    tables: Mapping[str, Mapping[str, pd.DataFrame]] | None,
) -> Panel:
    step = parse_timeframe(timeframe)
    storage = np.full((len(CANDLE_FIELDS), len(frames), len(bars)), np.nan)
    for row, (symbol, frame) in enumerate(frames.items()):
        _fill(storage[:, row], frame, stamps[symbol] - bars.start, symbol)
    origin = (grid_anchor(step) + bars.start * step).as_unit("us")
    grid = pd.date_range(origin, periods=len(bars), freq=step, name="timestamp")
    return Panel(tuple(frames), timeframe, grid, storage.transpose(1, 2, 0), tables or {})


def _grid_numbers(frame: pd.DataFrame, symbol: str, step: pd.Timedelta) -> np.ndarray:
    """Return int64 `[row]`: how many bars after the grid's anchor each row opens."""
    if frame.empty:
        raise DataError(f"symbol {symbol} has no candles")
    index = frame["timestamp"] if "timestamp" in frame.columns else frame.index
    if not isinstance(index, pd.DatetimeIndex):
        index = pd.Index(index)
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise DataError(f"timestamp of {symbol} must be timezone-aware instants, was {index.dtype}")
    if index.hasnans:
        raise DataError(f"timestamp of {symbol} row {int(np.argmax(index.isna()))} is missing")
    numbers, remainder = np.divmod(index.as_unit("ns").asi8 - grid_anchor(step).value, step.value)
    if remainder.any():
        row = int(np.argmax(remainder != 0))
        raise DataError(f"timestamp of {symbol} row {row} is {index[row]}, which is not on the grid of {step}")
    if (np.diff(numbers) <= 0).any():
        row = int(np.argmax(np.diff(numbers) <= 0)) + 1
        raise DataError(
            f"timestamp of {symbol} row {row} is {index[row]}; stamps must increase, the row before is {index[row - 1]}"
        )
    return numbers


def unshared_symbols(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the symbols none of whose bars exists in any other of the frames (each with a `timestamp` column)."""
    return _loners({symbol: pd.DatetimeIndex(frame["timestamp"]).as_unit("ns").asi8 for symbol, frame in frames.items()})


def _loners(stamps: Mapping[str, np.ndarray]) -> list[str]:
    bars, owners = np.unique(np.concatenate(list(stamps.values())), return_counts=True)
    shared = bars[owners > 1]
    return [symbol for symbol, own in stamps.items() if not np.isin(own, shared).any()]


def _refuse_loners(stamps: Mapping[str, np.ndarray]) -> None:
    lonely = _loners(stamps) if len(stamps) > 1 else []
    if lonely:
        raise DataError(f"symbol {lonely[0]} has no bar in common with any other of the {len(stamps)} symbols; leave it out")


def _fill(target: np.ndarray, frame: pd.DataFrame, positions: np.ndarray, symbol: str) -> None:
    """Write a frame's columns into `target` `[field, time]`."""
    for row, name in enumerate(CANDLE_FIELDS):
        if name in frame.columns:
            target[row, positions] = _numbers(frame[name], name, symbol)


def _numbers(column: pd.Series, name: str, symbol: str) -> np.ndarray:
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"column {name!r} of {symbol} must hold numbers: {error}") from error
    bad = np.isinf(values) if name in CANDLES.nullable else ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"column {name!r} of {symbol} row {row} must be finite, was {values[row]}")
    return values


def _known(frame: pd.DataFrame, instant: pd.Timestamp) -> pd.DataFrame:
    """Return the rows that were readable at an instant; a view where `available_at` increases."""
    available = frame["available_at"]
    if available.is_monotonic_increasing:
        return frame.iloc[: int(available.searchsorted(instant, side="right"))]
    return frame[available <= instant]


def _hash_table(digest: "hashlib._Hash", name: str, key: str, frame: pd.DataFrame) -> None:
    schema = TABLES[name].schema if name in TABLES else None
    try:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"table {name} of {key} does not follow its schema: {error}") from error
    for batch in table.combine_chunks().to_batches(max_chunksize=65_536):
        digest.update(batch.serialize())
