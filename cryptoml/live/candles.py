"""Candles in the forms that a user of pandas has them in, as one tidy frame per symbol."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cryptoml.data.loading import load_panel
from cryptoml.data.market import Market
from cryptoml.data.panel import Panel, panel_from_frames
from cryptoml.data.schema import normalise_symbol
from cryptoml.data.sources.columns import CANDLE_ALIASES, canonical_columns, renamed
from cryptoml.data.sources.file_names import SUFFIXES
from cryptoml.data.sources.raw_files import read_raw
from cryptoml.data.validation import HealthSummary, check_candles
from cryptoml.data.validation.timestamps import infer_timeframe, stamp_column, to_utc
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.public_inputs import REQUIRED

__all__ = ["has_symbols", "market_of", "split_symbols", "tidy_candles", "tidy_frames"]


def tidy_candles(frame: pd.DataFrame, symbol: str, assume_timezone: str | None = None) -> pd.DataFrame:
    """Return a frame with a UTC `timestamp` column and the candle columns under our names, from any common spelling.

    A `DatetimeIndex` holds the instants; so does another index where no column does, unless it only counts rows.

    Raises:
        DataError: It is no frame, a column is missing, or instants carry no timezone and none is assumed.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"candles of {symbol} must be a DataFrame, was {type(frame).__name__}")
    if _index_is_stamps(frame, assume_timezone):
        frame = frame.assign(open_time=frame.index).reset_index(drop=True)
    tidy = renamed(frame, CANDLE_ALIASES).drop(columns=["symbol", "timeframe"], errors="ignore")
    missing = [name for name in ("timestamp", *REQUIRED) if name not in tidy]
    if missing:
        raise DataError(f"candles of {symbol} must have a column {missing[0]!r}, columns were {list(frame.columns)}")
    tidy["timestamp"] = stamp_column(tidy["timestamp"], source=f"candles of {symbol}", assume_timezone=assume_timezone)
    return tidy


def tidy_frames(frames: Mapping[str, pd.DataFrame], assume_timezone: str | None = None) -> dict[str, pd.DataFrame]:
    """Return `tidy_candles` of every symbol, by normalised name.

    Raises:
        DataError: As `tidy_candles`, or a symbol is there twice.
    """
    return {name: tidy_candles(frame, name, assume_timezone) for name, frame in _by_name(frames.items()).items()}


def has_symbols(data: pd.DataFrame) -> bool:
    """Return whether a frame says whose candles its rows are."""
    return "symbol" in canonical_columns(data.columns, {"symbol": CANDLE_ALIASES["symbol"]})


def split_symbols(data: Any, symbols: Sequence[str] = ()) -> dict[str, pd.DataFrame]:
    """Return one frame per symbol, by normalised name.

    Args:
        data: A mapping of symbols to frames; a frame with a column `symbol`; a frame of one symbol, where `symbols` names it;
            or a panel.
        symbols: Which to take; all where empty.

    Raises:
        DataError: A symbol is wanted and not there, or there twice, or nothing says whose candles these, or those of a row, are.
    """
    if isinstance(data, Panel):
        frames = {symbol: data.frame(symbol) for symbol in data.symbols}
    elif isinstance(data, Mapping):
        frames = _by_name(data.items())
    elif isinstance(data, pd.DataFrame):
        frames = _split_frame(data, symbols)
    else:
        raise DataError(f"candles must be a DataFrame, a mapping of symbols to frames or a Panel, was {type(data).__name__}")
    wanted = [normalise_symbol(name) for name in symbols] or list(frames)
    absent = [name for name in wanted if name not in frames]
    if absent:
        raise DataError(f"candles must hold {absent[0]}, held {list(frames)}")
    return {name: frames[name] for name in wanted}


def market_of(
    data: Any, symbols: Sequence[str] = (), *, timeframe: str | None = None, assume_timezone: str | None = None
) -> Market:
    """Return training data as a market: checked candles on one grid, with what validation found.

    Args:
        data: As for `split_symbols`, or the address of a candle file, a folder of them, or a lake.
        symbols: Which to take; all where empty.
        timeframe: Length of a bar; what the data shows where None.
        assume_timezone: Zone of timestamps that carry none.

    Raises:
        DataError: As `split_symbols` and `tidy_candles`, or nothing there can be used.
    """
    if isinstance(data, str | Path):
        return _market_at(data, symbols, timeframe, assume_timezone)
    if isinstance(data, Panel):
        return Market(data.select([normalise_symbol(name) for name in symbols]) if symbols else data, HealthSummary(), "panel")
    tidy = {name: tidy_candles(frame, name, assume_timezone) for name, frame in split_symbols(data, symbols).items()}
    step = timeframe or _timeframe_of(tidy)
    checks = {
        name: check_candles(frame, symbol=name, timeframe=step, source=f"candles of {name}") for name, frame in tidy.items()
    }
    health = HealthSummary(tuple(check.health for check in checks.values()))
    panel = panel_from_frames({name: check.good for name, check in checks.items()}, step)
    return Market(panel, health, "historical data")


def _by_name(frames: Iterable[tuple[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    named: dict[str, pd.DataFrame] = {}
    for given, frame in frames:
        name = normalise_symbol(given)
        if name in named:
            raise DataError(f"candles hold {name} twice, the second time as {given!r}")
        named[name] = frame
    return named


def _index_is_stamps(frame: pd.DataFrame, assume_timezone: str | None) -> bool:
    if isinstance(frame.index, pd.DatetimeIndex):
        return True
    named = canonical_columns(frame.columns, {"timestamp": CANDLE_ALIASES["timestamp"]})
    if named or isinstance(frame.index, pd.MultiIndex):
        return False
    stamps = to_utc(pd.Series(frame.index), source="candles", column="index", assume_timezone=assume_timezone)
    return bool(stamps.notna().any())


def _split_frame(data: pd.DataFrame, symbols: Sequence[str]) -> dict[str, pd.DataFrame]:
    column = canonical_columns(data.columns, {"symbol": CANDLE_ALIASES["symbol"]}).get("symbol")
    if column is not None:
        unnamed = data[column].isna().to_numpy()
        if unnamed.any():
            row = int(unnamed.argmax())
            raise DataError(f"column {column!r} must name a symbol, row {row} was {data[column].iloc[row]}")
        return _by_name((str(name), rows) for name, rows in data.groupby(data[column], sort=False, observed=True))
    if len(symbols) != 1:
        raise DataError(
            f"candles of {len(symbols) or 'unknown'} symbols need a column 'symbol', columns were {list(data.columns)}; "
            "a mapping of symbols to frames will do too"
        )
    return {normalise_symbol(symbols[0]): data}


def _market_at(place: str | Path, symbols: Sequence[str], timeframe: str | None, assume_timezone: str | None) -> Market:
    """Read a file as a frame, so that the caller may say whose candles it holds; read folders and lakes as they are."""
    path = Path(place)
    if path.is_file() and path.name.lower().endswith(SUFFIXES):
        rows = pd.concat(list(read_raw(path, layouts={})), ignore_index=True)
        return market_of(rows, symbols, timeframe=timeframe, assume_timezone=assume_timezone)
    loaded = load_panel(place, timeframe=timeframe, symbols=list(symbols) or None)
    return Market(loaded.panel, loaded.health, path.name)


def _timeframe_of(frames: Mapping[str, pd.DataFrame]) -> str:
    stamps = (frame["timestamp"] for frame in frames.values())
    found = {infer_timeframe(pd.to_datetime(one, utc=True, errors="coerce")) for one in stamps} - {None}
    if len(found) != 1:
        raise ConfigError(f"timeframe must be given, such as '1h'; the candles show {sorted(map(str, found)) or 'none'}")
    return str(found.pop())
