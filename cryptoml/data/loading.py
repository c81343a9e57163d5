"""Load a panel from where a user keeps data: a folder of candle files, or a lake."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from tqdm import tqdm

from cryptoml.data.lake import Instant, Lake, as_instant, is_lake
from cryptoml.data.lake_files import LakeFiles, find_files
from cryptoml.data.lake_tables import read_tables
from cryptoml.data.panel import Panel, panel_from_frames, unshared_symbols
from cryptoml.data.schema import CANDLES, normalise_symbol, parse_timeframe
from cryptoml.data.sources import candle_files, read_candle_file
from cryptoml.data.storage import open_storage
from cryptoml.data.validation.candles import CandleCheck, check_candles, merge_checks
from cryptoml.data.validation.health import FileError, HealthSummary, SymbolHealth
from cryptoml.data.validation.quarantine import REASONS, empty_quarantine
from cryptoml.errors import DataError

__all__ = ["LoadedPanel", "load_panel"]


@dataclass(frozen=True, eq=False)
class LoadedPanel:
    """A panel and what was found while it was read.

    Attributes:
        panel: The good rows.
        health: Counts per symbol and the files, or symbols, that were left out.
        quarantine: The rows that were put aside, with the reason.
    """

    panel: Panel
    health: HealthSummary
    quarantine: pd.DataFrame = field(default_factory=empty_quarantine)


def load_panel(
    source: str | Path,
    *,
    timeframe: str | None = None,
    symbols: Sequence[str] | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
) -> LoadedPanel:
    """Read candles, and from a lake also the tables beside them, single trades and book snapshots as one row per bar.

    A file or symbol that cannot be used is named in the health summary and the others go on.

    Args:
        source: A candle file, a folder of them in any readable format, or the root of a lake (local or `s3://`).
        timeframe: Length of a bar; needed only where the source holds several.
        symbols: Markets to load, in this order; all by default.
        start: First open to load.
        end: Opens from here on are left out.

    Raises:
        DataError: The source is empty or holds nothing usable, a wished symbol is absent, or timeframes are mixed.
        ConfigError: A symbol, a timeframe or an instant is none.
    """
    wished = [normalise_symbol(symbol) for symbol in symbols or ()]
    open_storage(source).require_bucket()
    if is_lake(source):
        return _from_lake(Lake(source), timeframe, wished, start, end)
    return _from_files(source, timeframe, wished, start, end)


def _from_files(
    source: str | Path, timeframe: str | None, wished: list[str], start: Instant | None, end: Instant | None
) -> LoadedPanel:
    if "://" in os.fspath(source):
        raise DataError(f"{open_storage(source).address} holds no lake; candle files are read from local folders only")
    checks, errors = _check_files(candle_files(source, timeframe=timeframe), timeframe, wished)
    if not checks and errors:
        raise DataError(errors[0].message)
    merged = {symbol: merge_checks(parts) for symbol, parts in sorted(checks.items())}
    health = tuple(check.health for check in merged.values())
    quarantine = pd.concat([check.quarantine for check in merged.values()] or [empty_quarantine()], ignore_index=True)
    frames = {symbol: _within(check.good, start, end) for symbol, check in merged.items()}
    faults = {symbol: _first_fault(check) for symbol, check in merged.items() if check.good.empty}
    panel, dropped = _align(frames, _one_timeframe(health, timeframe, source), wished, source, faults)
    return LoadedPanel(panel, HealthSummary(health, (*errors, *dropped)), quarantine)


def _first_fault(check: CandleCheck) -> str:
    """Return the place and reason of a symbol's first quarantined row, for a symbol without any good one."""
    if check.quarantine.empty:
        return ""
    row = check.quarantine.iloc[0]
    return f"; {row['source']} row {row['row']} column {row['column']!r}: {REASONS[row['reason']]}, was {row['value']!r}"


def _check_files(
    paths: Iterable[Path], timeframe: str | None, wished: list[str]
) -> tuple[dict[str, list[CandleCheck]], list[FileError]]:
    checks: dict[str, list[CandleCheck]] = defaultdict(list)
    errors: list[FileError] = []
    for path in tqdm(list(paths), desc="candles", unit="file", disable=None, leave=False):
        found: dict[str, list[CandleCheck]] = defaultdict(list)
        try:
            for batch in read_candle_file(path, timeframe=timeframe):
                assert batch.timeframe is not None
                if not wished or batch.symbol in wished:
                    check = check_candles(batch.frame, symbol=batch.symbol, timeframe=batch.timeframe, source=batch.source)
                    found[batch.symbol].append(check)
        except DataError as error:
            errors.append(FileError(str(path), str(error)))
            continue
        for symbol, parts in found.items():
            checks[symbol] += parts
    return checks, errors


def _one_timeframe(health: Sequence[SymbolHealth], timeframe: str | None, source: object) -> str:
    found = sorted({symbol.timeframe for symbol in health})
    if len(found) > 1:
        raise DataError(f"{source} mixes timeframes {found}; choose one, such as timeframe={found[0]!r}")
    return found[0] if found else (timeframe or "1h")


def _from_lake(lake: Lake, timeframe: str | None, wished: list[str], start: Instant | None, end: Instant | None) -> LoadedPanel:
    timeframes = lake.timeframes()
    if timeframe is None and len(timeframes) > 1:
        raise DataError(f"{lake} holds timeframes {timeframes}; choose one, such as timeframe={timeframes[0]!r}")
    timeframe = timeframe or timeframes[0]
    files = find_files(lake, timeframe)
    if not files.symbols:
        raise DataError(f"{lake} holds no candles of timeframe {timeframe!r}, only {timeframes}")
    chosen = [symbol for symbol in files.symbols if not wished or symbol in wished]
    frames = {symbol: lake.read(CANDLES, {"timeframe": timeframe, "symbol": symbol}, start, end) for symbol in chosen}
    panel, dropped = _align(frames, timeframe, wished, lake)
    health = tuple(_stored_health(symbol, timeframe, frames[symbol]) for symbol in chosen)
    return LoadedPanel(replace(panel, tables=_tables(files, panel)), HealthSummary(health, tuple(dropped)))


def _stored_health(symbol: str, timeframe: str, frame: pd.DataFrame) -> SymbolHealth:
    if frame.empty:
        return SymbolHealth(symbol, timeframe, 0, 0)
    return check_candles(frame, symbol=symbol, timeframe=timeframe, source=f"lake {symbol}").health


def _tables(files: LakeFiles, panel: Panel) -> Mapping[str, Mapping[str, pd.DataFrame]]:
    """Return the tables that concern the panel's symbols, without candles that the panel holds itself."""
    found = {part.folder: part for symbol in panel.symbols for part in files.beside(symbol)}
    parts = [part for part in found.values() if part.spec is not CANDLES or part.partition["symbol"] not in panel.symbols]
    shown = tqdm(parts, desc="tables", unit="table", disable=None, leave=False)
    close = panel.timestamps[-1] + parse_timeframe(panel.timeframe)
    return read_tables(files.lake, shown, panel.timeframe, panel.timestamps[0], close)


def _within(frame: pd.DataFrame, start: Instant | None, end: Instant | None) -> pd.DataFrame:
    stamps, since, until = frame["timestamp"], as_instant(start), as_instant(end)
    keep = pd.Series(True, index=frame.index)
    if since is not None:
        keep &= stamps >= since
    if until is not None:
        keep &= stamps < until
    return frame[keep]


def _align(
    frames: Mapping[str, pd.DataFrame],
    timeframe: str,
    wished: list[str],
    source: object,
    faults: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Panel, list[FileError]]:
    """Make the panel from the symbols that have rows and share bars with others; name the rest."""
    absent = [symbol for symbol in wished if symbol not in frames]
    if absent:
        raise DataError(f"{source} has no candles of symbol {absent[0]}, has {sorted(frames)}")
    filled = {symbol: frames[symbol] for symbol in wished or frames if len(frames[symbol])}
    empty = [symbol for symbol in frames if symbol not in filled]
    dropped = [FileError(symbol, f"{symbol}: no usable candle{faults.get(symbol, '')}") for symbol in empty]
    lonely = unshared_symbols(filled) if len(filled) > 1 else []
    dropped += [FileError(symbol, f"{symbol}: no bar in common with any other symbol, left out") for symbol in lonely]
    kept = {symbol: frame for symbol, frame in filled.items() if symbol not in lonely}
    if not kept:
        raise DataError(dropped[0].message if dropped else f"{source}: no candles in the wished span")
    return panel_from_frames(kept, timeframe), dropped
