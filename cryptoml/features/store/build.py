"""Build a feature lake: plan the items, run those that need it, keep the books, try failed ones again."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from pyarrow import fs

from cryptoml.data.lake import Lake
from cryptoml.data.lake_files import LakeFiles, Life, find_files, scan_symbols
from cryptoml.data.schema import normalise_symbol
from cryptoml.data.storage import Storage, open_storage
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.contract import Feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store.compute import catalogue_hash, run_item
from cryptoml.features.store.files import cross_section_folder, features_folder
from cryptoml.features.store.manifest import ItemStatus, read_manifest, status_table, write_manifest
from cryptoml.features.store.work_items import WorkItem, market_items, symbol_items

__all__ = ["FeatureLakeReport", "ItemTask", "RunItems", "build_feature_lake", "run_here"]

CHUNK_BARS, WARM_UPS = 50_000, 2
BOOK_SECONDS = 5.0
BOOK_SHARE = 20.0  # of the time goes 1 part in so many into writing books

_log = logging.getLogger(__name__)

ItemTask = Callable[[WorkItem], ItemStatus]
RunItems = Callable[[ItemTask, Sequence[WorkItem]], Iterable[ItemStatus]]
"""Runs a task on every item, in any order; an item without a status counts as failed."""


@dataclass(frozen=True)
class FeatureLakeReport:
    """What one run did.

    Attributes:
        statuses: One per item, and one per symbol whose items could not be told.
    """

    statuses: tuple[ItemStatus, ...]

    @property
    def failed(self) -> tuple[ItemStatus, ...]:
        """Statuses of what failed in the end."""
        return tuple(status for status in self.statuses if status.error)

    def table(self) -> pd.DataFrame:
        """Return one row per item: symbol, range, outcome, rows, seconds, NaN share, attempts, error."""
        return status_table(self.statuses)

    def to_text(self) -> str:
        """Return the table and a line of totals, for a terminal."""
        table = self.table().assign(error=[" ".join(text.split())[:160] for text in self.table()["error"]])
        counts = {outcome: sum(one.outcome == outcome for one in self.statuses) for outcome in ("built", "kept", "failed")}
        totals = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"{table.to_string(index=False)}\n{totals}; {sum(one.rows for one in self.statuses)} rows"


def run_here(task: ItemTask, items: Sequence[WorkItem]) -> Iterator[ItemStatus]:
    """Run items one after the other in this process."""
    return map(task, items)


@dataclass
class _Books:
    """The manifest of a feature lake, written now and then while statuses come in."""

    storage: Storage
    path: str
    entries: dict[str, ItemStatus]
    run: dict[str, ItemStatus] = field(default_factory=dict)
    next_write: float = 0.0

    def add(self, status: ItemStatus) -> None:
        attempts = self.run[status.path].attempts + 1 if status.path in self.run else status.attempts
        self.entries[status.path] = self.run[status.path] = status.model_copy(update={"attempts": attempts})
        if time.monotonic() > self.next_write:
            try:
                self.write()
            except DataError as error:  # nothing is lost: each file tells what it was built from
                _log.warning("books are written later: %s", error)
                self.next_write = time.monotonic() + BOOK_SECONDS

    def write(self) -> None:
        begun = time.monotonic()
        write_manifest(self.storage, self.path, self.entries)
        took = time.monotonic() - begun
        self.next_write = begun + took + max(BOOK_SECONDS, BOOK_SHARE * took)


def build_feature_lake(
    lake: str | Path | Lake,
    out: str | Path,
    engineer: AdvancedFeatureEngineer,
    *,
    symbols: Sequence[str] = (),
    chunk_bars: int | None = None,
    retries: int = 1,
    run: RunItems = run_here,
) -> FeatureLakeReport:
    """Bring a feature lake up to date with a market lake; only what is missing or has changed is computed.

    First the features of each symbol, then those over the cross-section of the symbols that succeeded.

    Args:
        lake: Market lake, a local folder or `s3://`.
        out: Feature lake; the same folder as the market lake is fine.
        engineer: The features and the timeframe.
        symbols: Markets to build, in the order of the cross-section; all, sorted, by default.
        chunk_bars: Bars of one symbol per file; by default 50,000, or twice the longest lookback where that is more.
        retries: How often to try a failed item again.
        run: Runs items; on Ray with `cryptoml.distributed.feature_lake.run_on_ray`.

    Raises:
        ConfigError: `chunk_bars` or `retries` is out of range.
        DataError: The lake lacks a wished symbol, or holds no candles of the timeframe.
    """
    _check_range(chunk_bars, retries)
    lake, storage, timeframe = lake if isinstance(lake, Lake) else Lake(lake), open_storage(out), engineer.config.timeframe
    lake.storage.require_bucket()
    storage.require_bucket()
    files = find_files(lake, timeframe)
    chosen = _chosen(files, symbols)
    folder = features_folder(timeframe)
    with storage.lock(folder):
        books = _Books(storage, f"{folder}/_manifest.json", read_manifest(storage, f"{folder}/_manifest.json"))
        build = _Build(
            files, storage, engineer, books, partial(run, partial(run_item, lake=lake, out=storage, engineer=engineer))
        )
        try:
            build.all(chosen, chunk_bars or max(CHUNK_BARS, WARM_UPS * engineer.max_lookback), retries)
        finally:
            books.write()
            report = FeatureLakeReport(tuple(books.run.values()))
            storage.publish(f"{folder}/_status.csv", report.table().to_csv(index=False).encode())
    return report


def _check_range(chunk_bars: int | None, retries: int) -> None:
    if chunk_bars is not None and chunk_bars < 1:
        raise ConfigError(f"chunk_bars must be at least 1, was {chunk_bars}")
    if retries < 0:
        raise ConfigError(f"retries must be at least 0, was {retries}")


def _chosen(files: LakeFiles, symbols: Sequence[str]) -> list[str]:
    if not files.symbols:
        raise DataError(f"{files.lake} holds no candles of timeframe {files.timeframe!r}")
    wished = list(dict.fromkeys(normalise_symbol(symbol) for symbol in symbols))
    absent = [symbol for symbol in wished if symbol not in files.symbols]
    if absent:
        raise DataError(f"{files.lake} has no {files.timeframe} candles of symbol {absent[0]}, has {files.symbols}")
    return wished or files.symbols


@dataclass(frozen=True)
class _Build:
    """One run over a feature lake."""

    files: LakeFiles
    storage: Storage
    engineer: AdvancedFeatureEngineer
    books: _Books
    run: Callable[[Sequence[WorkItem]], Iterable[ItemStatus]]

    def all(self, symbols: Sequence[str], chunk_bars: int, retries: int) -> None:
        """Run both passes."""
        timeframe = self.files.timeframe
        lives = self._lives(symbols)
        per_symbol = self._symbol_items(lives, chunk_bars)
        self._sweep([features_folder(timeframe, symbol) for symbol in lives], per_symbol)
        self._settle([item for items in per_symbol.values() for item in items], retries)
        failed = {status.symbol for status in self.books.run.values() if status.error}
        whole = {symbol: life for symbol, life in lives.items() if symbol not in failed}
        across = self._market_items(whole)
        self._sweep([cross_section_folder(timeframe)], {"": across})
        self._settle(across, retries)

    def _lives(self, symbols: Sequence[str]) -> dict[str, Life]:
        """Return the life of each symbol that has one to tell; the others are entered as failed."""
        lives: dict[str, Life] = {}
        for symbol, life in zip(symbols, scan_symbols(self.files, symbols), strict=True):
            if isinstance(life, str):
                self.books.add(_unreadable(self.files.timeframe, symbol, life))
            else:
                lives[symbol] = life
        return lives

    def _symbol_items(self, lives: Mapping[str, Life], chunk_bars: int) -> dict[str, list[WorkItem]]:
        features = self.engineer.features
        plan = partial(symbol_items, self.files, catalogue=catalogue_hash(features), warm_up_bars=_warm_up(features))
        begin = min((first for life in lives.values() for _, first, _ in life), default=pd.Timestamp(0, tz="UTC"))
        return {symbol: plan(symbol, life, begin, chunk_bars=chunk_bars) for symbol, life in lives.items()}

    def _market_items(self, lives: Mapping[str, Life]) -> list[WorkItem]:
        features = self.engineer.panel_features
        if not features:
            return []
        return market_items(self.files, lives, warm_up_bars=_warm_up(features), catalogue=catalogue_hash(features))

    def _sweep(self, folders: Sequence[str], planned: Mapping[str, Sequence[WorkItem]]) -> None:
        """Remove files of an earlier plan, and what dead writers left, so that stretches never overlap."""
        wanted = {self.storage.path(item.path) for items in planned.values() for item in items}
        for folder in folders:
            selector = fs.FileSelector(self.storage.path(folder), allow_not_found=True)
            for file in self.storage.filesystem.get_file_info(selector):
                if file.type == fs.FileType.File and file.path not in wanted:
                    self.storage.filesystem.delete_file(file.path)
                    self.books.entries.pop(file.path[len(self.storage.base) + 1 :], None)

    def _settle(self, items: Sequence[WorkItem], retries: int) -> None:
        """Enter a status for every item: kept where nothing changed, else built, with failed ones tried again."""
        sizes = self._sizes(items)
        for item in items:
            if self._is_current(item, sizes):
                self.books.add(self.books.entries[item.path].model_copy(update=_KEPT))
        for _ in range(retries + 1):
            left = [item for item in items if item.path not in self.books.run or self.books.run[item.path].error]
            if not left:
                return
            self._attempt(sorted(left, key=lambda item: -item.num_bars))

    def _attempt(self, items: Sequence[WorkItem]) -> None:
        waiting = {item.path: item for item in items}
        for status in self.run(items):
            del waiting[status.path]
            self.books.add(status)
        for item in waiting.values():
            self.books.add(_lost(item))

    def _is_current(self, item: WorkItem, sizes: Mapping[str, int | None]) -> bool:
        """Tell from sizes and times alone, without reading, whether an item's file is up to date."""
        entry = self.books.entries.get(item.path)
        if entry is None or entry.error or not item.signature or sizes.get(item.path) != entry.num_bytes:
            return False
        return (entry.signature, entry.catalogue, entry.stop) == (item.signature, item.catalogue, item.stop)

    def _sizes(self, items: Sequence[WorkItem]) -> dict[str, int | None]:
        folders = {item.path.rpartition("/")[0] for item in items}
        selectors = [fs.FileSelector(self.storage.path(folder), allow_not_found=True) for folder in sorted(folders)]
        found = [file for selector in selectors for file in self.storage.filesystem.get_file_info(selector)]
        return {file.path[len(self.storage.base) + 1 :]: file.size for file in found}


_KEPT = {"outcome": "kept", "seconds": 0.0, "attempts": 0}


def _warm_up(features: Sequence[Feature]) -> int:
    return max((one.lookback for one in features), default=1) - 1


def _lost(item: WorkItem) -> ItemStatus:
    return ItemStatus(
        path=item.path,
        symbol=item.symbol,
        start=item.start,
        stop=item.stop,
        outcome="failed",
        error="WorkerDied: the process that worked on this item ended without an answer, for want of memory perhaps",
    )


def _unreadable(timeframe: str, symbol: str, error: str) -> ItemStatus:
    epoch = pd.Timestamp(0, tz="UTC").to_pydatetime()
    folder = features_folder(timeframe, symbol)
    return ItemStatus(path=folder, symbol=symbol, start=epoch, stop=epoch, outcome="failed", error=f"DataError: {error}")
