"""Candles from files and frames, streaming, under one set of column names; nothing is judged here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryptoml.data.schema import CANDLES, parse_timeframe
from cryptoml.data.sources.columns import BINANCE_KLINE, CANDLE_ALIASES, renamed
from cryptoml.data.sources.file_names import SUFFIXES, FileName, has_readable_suffix, parse_file_name
from cryptoml.data.sources.markets import split_by_market
from cryptoml.data.sources.raw_files import BATCH_ROWS, read_raw
from cryptoml.data.validation.timestamps import infer_timeframe, stamp_column
from cryptoml.errors import ConfigError, DataError

__all__ = ["RawCandles", "candle_files", "frame_candles", "read_candle_file"]

_OHLCV = ("timestamp", "open", "high", "low", "close", "volume")
_LAYOUTS = {6: _OHLCV, 7: (*_OHLCV, "num_trades"), 8: (*_OHLCV, "quote_volume", "num_trades"), 12: BINANCE_KLINE}
_REQUIRED = tuple(name for name in CANDLES.schema.names if name not in CANDLES.nullable)


@dataclass(frozen=True)
class RawCandles:
    """One batch of one symbol's candles, as they stand in the source.

    Attributes:
        symbol: Market in the lake's spelling.
        timeframe: Length of a bar.
        frame: `timestamp` (UTC; the text itself where a value is no instant), the candle columns that the source has
            (numbers, or text as found), and `row`, the row number in the source.
        source: File or frame, for messages.
        first_row: `row` of the first row.
    """

    symbol: str
    timeframe: str
    frame: pd.DataFrame
    source: str
    first_row: int


def candle_files(folder: str | Path, *, timeframe: str | None = None) -> list[Path]:
    """Return the candle files in a folder and below it, sorted; a path of one file returns that file.

    Files whose name says mark price, index, funding or trades are left out, and with `timeframe` those of another one.

    Raises:
        DataError: The folder does not exist or holds no such file.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"{folder}: folder with candle files does not exist")
    readable = (path for path in sorted(folder.rglob("*")) if path.is_file() and has_readable_suffix(path))
    files = [path for path in readable if _wanted(path, timeframe)]
    if not files:
        wish = f" of timeframe {timeframe}" if timeframe else ""
        raise DataError(f"{folder}: no candle files{wish}; there must be some with ending {', '.join(SUFFIXES)}")
    return files


def read_candle_file(
    path: str | Path,
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    assume_timezone: str | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[RawCandles]:
    """Yield the candles of a file in batches, one symbol each.

    The symbol comes from the argument, a symbol column, a `symbol=...` folder or the file's name, in this order; the timeframe
    likewise, and else from the median spacing of the first batch.

    Args:
        path: CSV (.csv, .csv.gz), Parquet, Feather, freqtrade's feather and json(.gz), or a Binance public-data zip.
        symbol: Market of the file.
        timeframe: Length of a bar.
        assume_timezone: Zone of timestamps that carry none; epoch numbers are UTC.
        batch_rows: Rows per batch; bounds the memory.

    Raises:
        DataError: The file cannot be read, a required column is missing, timestamps are timezone-naive, or neither names nor
            rows tell the symbol or the timeframe. Batches before the damaged place have been yielded by then.
    """
    path = Path(path)
    named = parse_file_name(path)
    batches = read_raw(path, layouts=_LAYOUTS, batch_rows=batch_rows)
    yield from _symbol_batches(batches, named, str(path), symbol, timeframe, assume_timezone)


def frame_candles(
    frames: Mapping[str, pd.DataFrame], *, timeframe: str | None = None, assume_timezone: str | None = None
) -> Iterator[RawCandles]:
    """Yield one batch per symbol from pandas frames with a DatetimeIndex or a timestamp column.

    Row numbers are positions in the frame. Frames are not changed.

    Raises:
        DataError: As `read_candle_file`.
    """
    for symbol, frame in frames.items():
        source = f"frame {symbol}"
        if isinstance(frame.index, pd.DatetimeIndex):
            frame = frame.assign(open_time=frame.index)
        if frame.empty:
            raise DataError(f"{source}: frame has no rows")
        positions = frame.set_axis(pd.RangeIndex(len(frame)), axis=0)
        yield from _symbol_batches(iter([positions]), FileName(symbol, None), source, symbol, timeframe, assume_timezone)


def _wanted(path: Path, timeframe: str | None) -> bool:
    try:
        named = parse_file_name(path)
    except DataError:
        return timeframe is None
    return named.holds_candles and (timeframe is None or named.timeframe in (None, timeframe))


def _symbol_batches(
    batches: Iterator[pd.DataFrame],
    named: FileName,
    source: str,
    symbol: str | None,
    timeframe: str | None,
    assume_timezone: str | None,
) -> Iterator[RawCandles]:
    known: dict[str, str] = {}
    for batch in batches:
        frame = _candle_columns(batch, source, assume_timezone)
        for name, rows in split_by_market(frame, symbol, named, source):
            given = timeframe or _stated_timeframe(rows, source, name) or named.timeframe or known.get(name)
            spacing = given or _inferred_timeframe(rows) or next(iter(known.values()), None)
            if spacing is None:
                raise DataError(
                    f"{source}: row {rows['row'].iloc[0]} is the only readable candle, which does not tell the timeframe; "
                    'name the file like BTCUSDT-1h.csv or give timeframe="1h"'
                )
            known[name] = _checked_timeframe(spacing, source)
            values = rows.drop(columns=["symbol", "timeframe"], errors="ignore")
            yield RawCandles(name, known[name], values, source, int(rows["row"].iloc[0]))


def _candle_columns(batch: pd.DataFrame, source: str, assume_timezone: str | None) -> pd.DataFrame:
    frame = renamed(batch, CANDLE_ALIASES)
    missing = [name for name in _REQUIRED if name not in frame]
    if missing:
        columns = ", ".join(map(str, batch.columns))
        raise DataError(f"{source}: column {missing[0]!r} is missing; columns are {columns}")
    frame["timestamp"] = stamp_column(frame["timestamp"], source=source, assume_timezone=assume_timezone)
    frame["row"] = batch.index.to_numpy(dtype=np.int64)
    return frame.reset_index(drop=True)


def _stated_timeframe(rows: pd.DataFrame, source: str, symbol: str) -> str | None:
    if "timeframe" not in rows:
        return None
    stated = rows["timeframe"].dropna().unique()
    if len(stated) > 1:
        row = rows["row"][rows["timeframe"] == stated[1]].iloc[0]
        raise DataError(
            f"{source}: {symbol} mixes timeframes: {stated[0]}, and from row {row} on {stated[1]}; keep one timeframe per symbol"
        )
    return str(stated[0]) if len(stated) else None


def _inferred_timeframe(rows: pd.DataFrame) -> str | None:
    stamps = rows["timestamp"]
    if stamps.dtype == object:
        stamps = pd.to_datetime(stamps.where(stamps.map(lambda value: isinstance(value, pd.Timestamp))), utc=True)
    return infer_timeframe(stamps)


def _checked_timeframe(timeframe: str, source: str) -> str:
    try:
        parse_timeframe(timeframe)
    except ConfigError as error:
        raise DataError(f"{source}: {error}") from error
    return timeframe
