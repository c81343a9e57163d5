"""Sources to lake: read, check, put bad rows aside, append the rest, and say how healthy it all was.

A source that fails is named in the report and the others go on. Every batch is appended by itself, so an interrupted
ingest keeps what it has, and running it again adds only what is missing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cryptoml.data.batches import Batch, FilesConfig, candle_batch, file_batches, joined_health, list_files
from cryptoml.data.exchange import RetryConfig, check_markets, download_candles, exchange_now
from cryptoml.data.lake import Lake, WriteResult
from cryptoml.data.schema import CANDLES, VENUE_CANDLES, TableSpec, normalise_symbol, parse_timeframe
from cryptoml.data.validation import FileError, HealthSummary, SymbolHealth
from cryptoml.errors import ConfigError, CryptomlError, DataError

__all__ = ["IngestReport", "ingest_exchange", "ingest_files"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did.

    Attributes:
        health: Counts per symbol, gaps as they are in the lake now, and the sources that failed.
        rows_added: Rows that the lake did not hold.
        rows_updated: Rows of the lake that were replaced.
        rows_refused: Rows that contradict the lake's and were left out.
    """

    health: HealthSummary
    rows_added: int = 0
    rows_updated: int = 0
    rows_refused: int = 0

    @property
    def exit_code(self) -> int:
        """0 when all went well, 1 when some sources failed or gave no good row, 2 when all did."""
        empty = [health for health in self.health.symbols if health.rows_read and not health.rows_good]
        failed = len(self.health.file_errors) + len(empty)
        return 0 if not failed else 1 if len(self.health.symbols) > len(empty) else 2

    def to_text(self) -> str:
        """Return the health table and a line on what changed in the lake."""
        change = f"{self.rows_added} rows added, {self.rows_updated} replaced"
        refused = f", {self.rows_refused} refused because the lake holds other values" if self.rows_refused else ""
        return f"{self.health.to_text()}\n{change}{refused}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        rows = {"rows_added": self.rows_added, "rows_updated": self.rows_updated, "rows_refused": self.rows_refused}
        return {**rows, **self.health.to_dict()}


def ingest_files(
    lake: Lake, paths: Sequence[str | Path], config: FilesConfig | None = None, *, overwrite: bool = False
) -> IngestReport:
    """Bring files, or all readable files below folders, into the lake and store the summary there.

    Args:
        lake: Where to.
        paths: Files and folders.
        config: What the files hold; candles of the traded venue if not given.
        overwrite: Let rows that differ replace those in the lake.
    """
    config = config or FilesConfig()
    tally = _Tally(lake, overwrite)
    for path in tqdm(_expand(paths, config, tally), desc="files", unit="file", disable=None):
        quarantine: list[pd.DataFrame] = []
        try:
            for batch in file_batches(path, config):
                tally.add(batch)
                quarantine.append(batch.quarantine)
        except CryptomlError as error:
            tally.fail(str(path), error)
        if quarantine:
            lake.write_quarantine(str(path), pd.concat(quarantine, ignore_index=True))
    return tally.close(config.kind)


def ingest_exchange(
    lake: Lake,
    exchange: Any,
    symbols: Sequence[str],
    timeframe: str,
    since: pd.Timestamp,
    *,
    until: pd.Timestamp | None = None,
    venue: str | None = None,
    retry: RetryConfig | None = None,
) -> IngestReport:
    """Download the closed candles that the lake lacks before its first and after its last bar of each symbol.

    A download goes on from the lake's last bar even where `since` is later, so that it leaves no hole. A market other than
    the one downloaded before, such as the spot market where the lake has the perpetual, is a failed source.

    Args:
        lake: Where to; every page is appended as it comes.
        exchange: From `exchange.open_exchange`.
        symbols: The exchange's markets, such as "BTC/USDT".
        timeframe: Length of a bar.
        since: First bar open, UTC.
        until: End of the last bar, UTC; None for the exchange's time now.
        venue: Put the candles into `venue_candles` under this name; None for the traded venue's `candles`.
        retry: How to treat faults of the network.

    Raises:
        ConfigError: A symbol or the timeframe is unknown to the exchange, or two symbols are one in the lake.
        DataError: The exchange cannot be reached at all.
    """
    _refuse_same_market(symbols)
    check_markets(exchange, symbols, timeframe, retry)
    now = exchange_now(exchange, retry)
    end = now if until is None else min(until, now)
    tally = _Tally(lake, overwrite=False)
    for symbol in symbols:
        source, market = f"{exchange.id} {symbol} {timeframe}", normalise_symbol(symbol)
        partition = {"timeframe": timeframe, "symbol": market}
        spec, partition = (CANDLES, partition) if venue is None else (VENUE_CANDLES, {"venue": venue, **partition})
        try:
            lake.claim(spec, partition, f"{exchange.id} {symbol}")
            for start, stop in _missing_spans(lake, spec, partition, since, end):
                pages = download_candles(exchange, symbol, timeframe, start, stop, retry=retry)
                watched = _watched(pages, symbol, timeframe, start, stop)
                batches = (candle_batch(page, market, timeframe, source, venue) for page in watched)
                bad = [rows for rows in map(tally.add, batches) if len(rows)]
                if bad:
                    lake.write_quarantine(f"{source} from {start.isoformat()}", pd.concat(bad, ignore_index=True))
            tally.note_up_to_date(spec, partition)
        except DataError as error:
            tally.fail(source, error)
    return tally.close(spec.name)


@dataclass
class _Tally:
    """Counts of one ingest as it goes, per partition."""

    lake: Lake
    overwrite: bool
    seen: dict[tuple[str, ...], tuple[TableSpec, dict[str, str], SymbolHealth]] = field(default_factory=dict)
    errors: list[FileError] = field(default_factory=list)
    results: list[WriteResult] = field(default_factory=list)

    def add(self, batch: Batch) -> pd.DataFrame:
        """Append one batch; return its quarantined rows."""
        self.results.append(self.lake.append(batch.spec, batch.partition, batch.good, overwrite=self.overwrite))
        key = tuple(batch.partition.values())
        health = joined_health(self.seen[key][2], batch.health) if key in self.seen else batch.health
        self.seen[key] = (batch.spec, batch.partition, health)
        return batch.quarantine

    def note_up_to_date(self, spec: TableSpec, partition: dict[str, str]) -> None:
        """List a market that had nothing new."""
        health = SymbolHealth(partition["symbol"], partition["timeframe"], rows_read=0, rows_good=0)
        self.seen.setdefault(tuple(partition.values()), (spec, partition, health))

    def fail(self, source: str, error: CryptomlError) -> None:
        _log.warning("%s", error)
        self.errors.append(FileError(source, str(error)))

    def close(self, kind: str) -> IngestReport:
        """Count the gaps that the lake has now, store the summary, and return the report."""
        symbols = tuple(_with_gaps(self.lake, *entry) for entry in self.seen.values())
        added, updated, refused = (
            sum(getattr(result, name) for result in self.results) for name in ("rows_added", "rows_updated", "rows_refused")
        )
        report = IngestReport(HealthSummary(symbols, tuple(self.errors)), added, updated, refused)
        self.lake.write_health({"kind": kind, **report.to_dict()})
        return report


def _with_gaps(lake: Lake, spec: TableSpec, partition: dict[str, str], health: SymbolHealth) -> SymbolHealth:
    """Return the health with the gaps that the lake has between its first and its last bar."""
    if health.first is None or health.last is None or "timeframe" not in partition:
        return health
    end = health.last + pd.Timedelta(1, unit="us")
    stamps = lake.read(spec, partition, health.first, end, ["timestamp"])["timestamp"]
    absent = np.diff(stamps.to_numpy()) // parse_timeframe(partition["timeframe"]).to_numpy() - 1
    gaps = absent[absent > 0]
    largest = int(gaps.max()) if len(gaps) else 0
    return replace(health, gaps=len(gaps), missing_bars=int(gaps.sum()), largest_gap_bars=largest)


def _expand(paths: Sequence[str | Path], config: FilesConfig, tally: _Tally) -> list[Path]:
    """Return the files, folders replaced by what they hold; a folder without any is a failed source."""
    files: list[Path] = []
    for path in paths:
        try:
            files += list_files(path, config)
        except DataError as error:
            tally.fail(str(path), error)
    return list(dict.fromkeys(files))


def _refuse_same_market(symbols: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for symbol in symbols:
        earlier = seen.setdefault(normalise_symbol(symbol), symbol)
        if earlier != symbol:
            raise ConfigError(f"symbols {earlier!r} and {symbol!r} are both {normalise_symbol(symbol)} in the lake: keep one")


def _missing_spans(
    lake: Lake, spec: TableSpec, partition: dict[str, str], since: pd.Timestamp, end: pd.Timestamp
) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    first, last = lake.first_timestamp(spec, partition), lake.last_timestamp(spec, partition)
    if first is None or last is None:
        return [(since, end)]
    return [(since, min(first, end)), (last + parse_timeframe(partition["timeframe"]), end)]


def _watched(pages: Any, symbol: str, timeframe: str, start: pd.Timestamp, stop: pd.Timestamp) -> Any:
    """Pass the pages on under a progress bar that counts bars from `start` to `stop`."""
    step = parse_timeframe(timeframe)
    with tqdm(total=max((stop - start) // step, 0), desc=symbol, unit="bar", disable=None) as bar:
        for page in pages:
            yield page
            bar.update((page["timestamp"].iloc[-1] + step - start) // step - bar.n)
