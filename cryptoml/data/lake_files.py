"""What files a lake has, as listed at one instant, and which of them concern a symbol."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

from cryptoml.data.bar_tables import REDUCED
from cryptoml.data.lake import Lake, may_hold
from cryptoml.data.schema import (
    BOOK_BARS,
    CANDLES,
    FUNDING,
    ONCHAIN,
    ORDERBOOK,
    OWN_VENUE,
    TABLES,
    TRADE_BARS,
    TRADES,
    VENUE_CANDLES,
    TableSpec,
    split_symbol,
)
from cryptoml.data.storage import Storage
from cryptoml.errors import DataError

__all__ = ["LakeFiles", "Life", "TablePart", "find_files", "scan_symbols"]

SIDE_TABLES = (FUNDING, ONCHAIN, VENUE_CANDLES, BOOK_BARS, TRADE_BARS, ORDERBOOK, TRADES)
FRESH_SECONDS = 2.0  # a file that young may change again without a new time stamp
SCAN_THREADS = 16


class TablePart(BaseModel):
    """One partition of a table that is joined to a symbol's candles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field(description="Table of the lake")
    partition: dict[str, str] = Field(description="Its key and value")

    @property
    def spec(self) -> TableSpec:
        """The table."""
        return TABLES[self.table]

    @property
    def folder(self) -> str:
        """Folder of the partition, relative to the lake's root."""
        return self.spec.partition_path(**self.partition)

    @property
    def panel_table(self) -> str:
        """Name among a panel's tables: ticks become bars, candles those of the own venue."""
        if self.spec is CANDLES:
            return VENUE_CANDLES.name
        return REDUCED[self.table].name if self.table in REDUCED else self.table

    @property
    def panel_key(self) -> str:
        """Key in that table."""
        if self.spec is ONCHAIN:
            return self.partition["asset"]
        venue = OWN_VENUE if self.spec is CANDLES else self.partition.get("venue")
        return self.partition["symbol"] if venue is None else f"{venue}:{self.partition['symbol']}"


Life = list[tuple[fs.FileInfo, pd.Timestamp, pd.Timestamp]]
"""Candle files of a symbol with the first open and the last open that each holds."""


@dataclass(frozen=True)
class LakeFiles:
    """The files of a lake that concern one timeframe, as listed at one instant.

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

    def beside(self, symbol: str) -> list[TablePart]:
        """Return the partitions that are joined to a symbol's candles.

        Those are its own tables, the series of its base asset, and the two other legs of the triangle base, bitcoin, quote:
        base/BTC at any venue, BTC/quote at the own one. Ticks are left out where the lake has their bars.
        """
        base, quote = split_symbol(symbol)
        own, through = f"{base}BTC", f"BTC{quote}"
        found = [part for part in self._parts_of.get(symbol, ()) if part.spec is not ONCHAIN]
        found += [part for part in self._parts_of.get(base, ()) if part.spec is ONCHAIN]
        if own != symbol:
            found += [part for part in self._parts_of.get(own, ()) if part.spec is VENUE_CANDLES]
        ready = {part.panel_table for part in found if part.table not in REDUCED}
        found = [part for part in found if part.table not in REDUCED or part.panel_table not in ready]
        is_leg = self.candles(own) or any(part.partition.get("symbol") == own for part in found)
        if is_leg and symbol not in (own, through) and self.candles(through):
            found += [self._own_candles(market) for market in (own, through) if self.candles(market)]
        return found

    def within(self, part: TablePart, since: pd.Timestamp | None, until: pd.Timestamp) -> list[fs.FileInfo]:
        """Return the files of a partition that may hold rows with `since <= timestamp < until`."""
        return [file for file in self.parts[part.folder] if may_hold(file.path, since, until)]

    def signature(self, files: Iterable[fs.FileInfo], marks: Sequence[str] = ()) -> str:
        """Return a hash of paths, sizes and times; empty where a file is too fresh for its time to tell versions apart.

        Args:
            files: What is read.
            marks: Text that matters too.
        """
        lines = [(file.path, file.size, file.mtime_ns) for file in files]
        if any(stamp / 1e9 > self.listed_at - FRESH_SECONDS for _, _, stamp in lines):
            return ""
        return hashlib.sha256(repr((sorted(lines), list(marks))).encode()).hexdigest()

    @cached_property
    def _parts_of(self) -> Mapping[str, Sequence[TablePart]]:
        """Symbol or on-chain asset -> partitions of this timeframe, or of none."""
        found = defaultdict(list)
        for folder in self.parts:
            name, *pairs = folder.split("/")
            keys = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            is_whole = name != CANDLES.name and tuple(keys) == TABLES[name].partitions
            if is_whole and keys.get("timeframe", self.timeframe) == self.timeframe:
                found[keys.get("asset") or keys["symbol"]].append(TablePart(table=name, partition=keys))
        return found

    def _own_candles(self, symbol: str) -> TablePart:
        return TablePart(table=CANDLES.name, partition={"timeframe": self.timeframe, "symbol": symbol})


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


def scan_symbols(files: LakeFiles, symbols: Sequence[str]) -> list[Life | str]:
    """Return for each symbol its candle files with rows and their spans, or why they cannot be read; only footers are read."""

    def scan(symbol: str) -> Life | str:
        try:
            spans = [(file, _span(files.lake.storage, file)) for file in files.candles(symbol)]
        except DataError as error:
            return str(error)
        return [(file, *span) for file, span in spans if span is not None]

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        return list(pool.map(scan, symbols))


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
