"""What there is to do for a feature lake: stretches of symbols, and of the market, with the files that they read."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES, FUNDING, ONCHAIN, ORDERBOOK, VENUE_CANDLES, parse_timeframe
from cryptoml.data.storage import Storage
from cryptoml.errors import DataError
from cryptoml.features.cross_section import MAX_LEADERS
from cryptoml.features.joins import split_symbol
from cryptoml.features.store.files import cross_section_folder, features_folder, file_name

__all__ = ["LakeFiles", "TablePart", "WorkItem", "find_files", "market_items", "scan_symbol", "scan_symbols", "symbol_items"]

SIDE_TABLES = (FUNDING, ONCHAIN, ORDERBOOK, VENUE_CANDLES)
MARKET_CELLS, MARKET_BARS = 2_000_000, (1_024, 8_192)
FRESH_SECONDS = 2.0  # a file that young may change again without a new time stamp
SCAN_THREADS = 16


class TablePart(BaseModel):
    """One partition of a slower table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field(description="Table of the market lake")
    partition: dict[str, str] = Field(description="Its key and value")


class WorkItem(BaseModel):
    """A stretch of one symbol, or of all symbols for the cross-section; it writes one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="File to write, relative to the root of the feature lake")
    timeframe: str = Field(description="Length of a bar")
    symbol: str = Field("", description="Symbol, empty for the cross-section")
    peers: tuple[str, ...] = Field((), description="Symbols of the cross-section, or one whose close another leg refers to")
    start: datetime = Field(description="First open wanted, UTC")
    stop: datetime = Field(description="Opens from here on belong to the next item, UTC")
    since: datetime = Field(description="First bar to read, before `start` for warm-up, UTC")
    num_bars: int = Field(ge=0, description="Size: bars of the stretch within the symbol's life, times symbols")
    tables: tuple[TablePart, ...] = Field((), description="Slower tables to join")
    catalogue: str = Field(description="Hash of the features to compute")
    signature: str = Field("", description="Hash of paths, sizes and times of the files to read")


@dataclass(frozen=True)
class LakeFiles:
    """The files of a market lake that features of one timeframe read, as listed at one instant.

    Attributes:
        lake: The lake.
        timeframe: Length of a bar.
        parts: Folder relative to the lake's root -> its Parquet files, sorted by path.
        listed_at: When, seconds since 1970.
    """

    lake: Lake
    timeframe: str
    parts: Mapping[str, Sequence[fs.FileInfo]]
    listed_at: float

    @cached_property
    def symbols(self) -> list[str]:
        """Symbols with candles, sorted."""
        prefix = f"{CANDLES.name}/timeframe={self.timeframe}/symbol="
        return sorted(folder.removeprefix(prefix) for folder in self.parts if folder.startswith(prefix))

    def candles(self, symbol: str) -> Sequence[fs.FileInfo]:
        """Return the candle files of a symbol."""
        return self.parts.get(CANDLES.partition_path(timeframe=self.timeframe, symbol=symbol), ())

    def tables(self, symbol: str) -> list[TablePart]:
        """Return the partitions of slower tables that a symbol's features read; single trades stay in the lake."""
        base, _ = split_symbol(symbol)
        wanted = {"symbol": (symbol,), "asset": (base,), "timeframe": (self.timeframe,)}
        found = []
        for folder in self.parts:
            name, *pairs = folder.split("/")
            partition = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            markets = {**wanted, "symbol": (symbol, f"{base}BTC")} if name == VENUE_CANDLES.name else wanted
            if name != CANDLES.name and all(partition[key] in markets[key] for key in partition.keys() & markets.keys()):
                found.append(TablePart(table=name, partition=partition))
        return found

    def reference(self, symbol: str) -> tuple[str, ...]:
        """Return the market of bitcoin in the symbol's quote, where another venue trades the symbol's base in bitcoin."""
        base, quote = split_symbol(symbol)
        through = f"BTC{quote}"
        pairs = (part.partition.get("symbol") for part in self.tables(symbol) if part.table == VENUE_CANDLES.name)
        return (through,) if through != symbol and through in self.symbols and f"{base}BTC" in pairs else ()

    def signature(self, files: Iterable[fs.FileInfo], marks: Sequence[str] = ()) -> str:
        """Return a hash of paths, sizes and times; empty where a file is too fresh for its time to tell versions apart.

        Args:
            files: What an item reads.
            marks: Text that matters too.
        """
        lines = [(file.path, file.size, file.mtime_ns) for file in files]
        if any(stamp / 1e9 > self.listed_at - FRESH_SECONDS for _, _, stamp in lines):
            return ""
        return hashlib.sha256(repr((sorted(lines), list(marks))).encode()).hexdigest()


def find_files(lake: Lake, timeframe: str) -> LakeFiles:
    """List the lake: one request per table."""
    now, parts = time.time(), defaultdict(list)
    for folder in (f"{CANDLES.name}/timeframe={timeframe}", *(spec.name for spec in SIDE_TABLES)):
        for file in _listed(lake.storage, folder):
            parts[file.path[len(lake.storage.base) + 1 :].rpartition("/")[0]].append(file)
    return LakeFiles(lake, timeframe, dict(sorted(parts.items())), now)


def _listed(storage: Storage, folder: str) -> list[fs.FileInfo]:
    selector = fs.FileSelector(storage.path(folder), allow_not_found=True, recursive=True)
    try:
        found = storage.filesystem.get_file_info(selector)
    except OSError as error:
        raise DataError(f"cannot list {storage.address}/{folder}: {error}") from error
    files = [file for file in found if file.type == fs.FileType.File and file.base_name.endswith(".parquet")]
    return sorted((file for file in files if not file.base_name.startswith(".")), key=lambda file: file.path)


Life = list[tuple[fs.FileInfo, pd.Timestamp, pd.Timestamp]]
"""Files of a symbol with the first open and the last open that each holds."""


def scan_symbols(files: LakeFiles, symbols: Sequence[str]) -> list[Life | str]:
    """Return for each symbol its files with their spans, or why they cannot be read; only footers are read."""

    def scan(symbol: str) -> Life | str:
        try:
            return scan_symbol(files, symbol)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        return list(pool.map(scan, symbols))


def scan_symbol(files: LakeFiles, symbol: str) -> Life:
    """Return a symbol's candle files with their first and last opens, without those that have no rows.

    Raises:
        DataError: A file cannot be read and its name does not tell its span.
    """
    spans = [(file, _span(files.lake.storage, file)) for file in files.candles(symbol)]
    return [(file, *span) for file, span in spans if span is not None]


def _span(storage: Storage, file: fs.FileInfo) -> tuple[pd.Timestamp, pd.Timestamp] | None:
    try:
        with storage.filesystem.open_input_file(file.path) as source:
            return _footer_span(pq.ParquetFile(source))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        period = file.base_name.removesuffix(".parquet")
        try:
            first = np.datetime64(period)
        except ValueError:
            raise DataError(f"{storage.address}: candle file {file.path} cannot be read: {error}") from error
        return pd.Timestamp(first, tz="UTC"), pd.Timestamp(first + 1, tz="UTC") - pd.Timedelta("1us")


def _footer_span(file: pq.ParquetFile) -> tuple[pd.Timestamp, pd.Timestamp] | None:
    if not file.metadata.num_rows:
        return None
    place = file.schema_arrow.names.index("timestamp")
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    ranges = [group.column(place).statistics for group in groups if group.num_rows]
    if all(range_ is not None and range_.has_min_max for range_ in ranges):
        return min(_utc(one.min) for one in ranges), max(_utc(one.max) for one in ranges)
    stamps = file.read(["timestamp"])["timestamp"].to_pandas()
    return _utc(stamps.min()), _utc(stamps.max())


def _utc(instant: datetime) -> pd.Timestamp:
    stamp = pd.Timestamp(instant)
    return stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")


def symbol_items(
    files: LakeFiles, symbol: str, life: Life, begin: pd.Timestamp, *, chunk_bars: int, warm_up_bars: int, catalogue: str
) -> list[WorkItem]:
    """Return the items of one symbol, one per stretch of `chunk_bars` that its life touches.

    Args:
        files: The market lake.
        symbol: The symbol.
        life: Its candle files and their spans.
        begin: First bar of the panel: slower tables are joined from there on, even where the symbol was listed later.
        chunk_bars: Length of a stretch.
        warm_up_bars: Bars to read before a stretch.
        catalogue: Hash of the features.
    """
    if not life:
        return []
    step, reference, tables = parse_timeframe(files.timeframe), files.reference(symbol), files.tables(symbol)
    beside = [file for part in tables for file in files.parts[_folder_of(part)]]
    beside += [file for other in reference for file in files.candles(other)]
    first, last = _edges(life)
    items = []
    for name, start, stop in _stretches(first, last + step, chunk_bars * step):
        since = max(start - warm_up_bars * step, begin if tables else first)
        items.append(
            WorkItem(
                path=f"{features_folder(files.timeframe, symbol)}/{name}",
                timeframe=files.timeframe,
                symbol=symbol,
                peers=reference,
                start=start,
                stop=stop,
                since=since,
                num_bars=int((stop - start) / step),
                tables=tuple(tables),
                catalogue=catalogue,
                signature=files.signature([*_files_within(life, since, stop), *beside], [str(since)]),
            )
        )
    return items


def market_items(files: LakeFiles, lives: Mapping[str, Life], *, warm_up_bars: int, catalogue: str) -> list[WorkItem]:
    """Return the items of the cross-section: the symbols of `lives`, in that order, by time."""
    whole = [entry for life in lives.values() for entry in life]
    if not whole:
        return []
    step, (first, last) = parse_timeframe(files.timeframe), _edges(whole)
    items = []
    for name, start, stop in _stretches(first, last + step, _market_bars(len(lives)) * step):
        since = max(start - warm_up_bars * step, first)
        peers = _taking_part(lives, since, stop)
        items.append(
            WorkItem(
                path=f"{cross_section_folder(files.timeframe)}/{name}",
                timeframe=files.timeframe,
                peers=peers,
                start=start,
                stop=stop,
                since=since,
                num_bars=int((stop - start) / step) * len(peers),
                catalogue=catalogue,
                signature=files.signature(_files_within(whole, since, stop), peers),
            )
        )
    return items


def _taking_part(lives: Mapping[str, Life], since: pd.Timestamp, until: pd.Timestamp) -> tuple[str, ...]:
    """Return the symbols with bars in [since, until), in order, and absent ones that the features cannot do without.

    That is the leader, and where one of the others comes after the first few, whose returns are read as possible leaders,
    those first few: they keep its place.
    """
    there = {symbol for symbol, life in lives.items() if _files_within(life, since, until)}
    leader = next((symbol for symbol in lives if symbol.startswith("BTC")), next(iter(lives)))
    first = set(list(lives)[:MAX_LEADERS])
    places = first if there - first else set()
    return tuple(symbol for symbol in lives if symbol in there | places | {leader})


def _edges(life: Life) -> tuple[pd.Timestamp, pd.Timestamp]:
    return min(first for _, first, _ in life), max(last for _, _, last in life)


def _files_within(life: Life, since: pd.Timestamp, until: pd.Timestamp) -> list[fs.FileInfo]:
    return [file for file, first, last in life if first < until and last >= since]


def _market_bars(num_symbols: int) -> int:
    """Return a power of two of bars, so that the memory of an item does not grow with the number of symbols."""
    fewest, most = MARKET_BARS
    return max(fewest, min(most, 1 << (MARKET_CELLS // max(num_symbols, 1)).bit_length() - 1))


def _stretches(first: pd.Timestamp, end: pd.Timestamp, length: pd.Timedelta) -> Iterator[tuple[str, pd.Timestamp, pd.Timestamp]]:
    """Yield file name, start and stop of the stretches of [first, end), cut at whole multiples of `length` since 1970."""
    epoch = pd.Timestamp(0, tz="UTC")
    cut = epoch + (first - epoch) // length * length
    while cut < end:
        yield file_name(cut), max(cut, first), min(cut + length, end)
        cut += length


def _folder_of(part: TablePart) -> str:
    return "/".join([part.table, *(f"{key}={value}" for key, value in part.partition.items())])
