"""The lake: market data as Parquet files in one folder, local or on S3.

    candles/timeframe=1h/symbol=BTCUSDT/2023.parquet       a file a year for bars of 1 h and longer, funding, on-chain
    candles/timeframe=5m/symbol=BTCUSDT/2023-05.parquet    a file a month for shorter bars
    trades/symbol=BTCUSDT/2023-05-17.parquet               a file a day for trades and order-book snapshots
    candles/timeframe=1h/symbol=BTCUSDT/.market            the exchange's market that was downloaded there
    quarantine/<source>.parquet                            rejected rows of one source, with reasons
    health/<time>-<id>.json                                what one ingest found

Each file is sorted by its table's key, compressed with zstd, and published atomically (see `storage`): readers need no
lock and never see half a file; a writer that dies leaves the last published version. Writers of one partition on one
host wait for each other; on S3 a partition must have one writer at a time.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryptoml.data.partition_rows import ROW_GROUP_ROWS, merge_rows, period_unit, serialise, split_by_period, to_table
from cryptoml.data.schema import CANDLES, TIMESTAMP, TableSpec, normalise_symbol, parse_timeframe
from cryptoml.data.storage import open_storage
from cryptoml.errors import ConfigError, DataError

__all__ = ["QUARANTINE_SCHEMA", "Instant", "Lake", "WriteResult", "as_instant", "is_lake", "may_hold"]

QUARANTINE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("symbol", pa.string()),
        ("timestamp", TIMESTAMP),
        ("column", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
    ]
)

MARKET_NAME = ".market"
Instant = str | datetime | pd.Timestamp
"""An instant; text and naive values are read as UTC."""


@dataclass(frozen=True)
class WriteResult:
    """What one append did.

    Attributes:
        rows_added: Rows with a key that the partition did not hold.
        rows_updated: Rows replaced by other values, with `overwrite`.
        files: Files published, relative to the lake's root.
        rows_refused: Rows that contradict one that the partition holds, left out for want of `overwrite`.
    """

    rows_added: int = 0
    rows_updated: int = 0
    files: tuple[str, ...] = ()
    rows_refused: int = 0


class Lake:
    """Read and append the tables of one lake.

    Args:
        root: Local folder or `s3://` address (see `storage.open_storage`). Nothing is created before the first append.
    """

    def __init__(self, root: str | Path) -> None:
        self.storage = open_storage(root)

    def __repr__(self) -> str:
        return f"Lake({self.storage.address!r})"

    def append(
        self, spec: TableSpec, partition: Mapping[str, str], frame: pd.DataFrame, *, overwrite: bool = False
    ) -> WriteResult:
        """Merge rows into a partition by the table's key; rows already there stay unless `overwrite` is set.

        Appending the same rows again writes nothing. Files are published oldest first, so a crash in between leaves
        a partition that ends early and can be resumed from its `last_timestamp`.

        Args:
            spec: The table.
            partition: A value for each of the table's partition keys.
            frame: Columns of the schema in any order; nullable ones may be missing. Instants must be timezone-aware.
            overwrite: Replace the values of rows whose key exists.

        Raises:
            DataError: A column is missing, unknown, of the wrong type, or null where it must not be; a key occurs twice.
        """
        folder = _folder(spec, partition)
        table = to_table(spec, frame, folder)
        if table.num_rows == 0:
            return WriteResult()
        unit = period_unit(spec, partition)
        with self.storage.lock(folder):
            self._refuse_foreign_files(folder, unit)
            results = [
                self._merge_file(spec, f"{folder}/{period}.parquet", rows, overwrite)
                for period, rows in split_by_period(table, unit)
            ]
        return WriteResult(
            sum(result.rows_added for result in results),
            sum(result.rows_updated for result in results),
            tuple(file for result in results for file in result.files),
            sum(result.rows_refused for result in results),
        )

    def read(
        self,
        spec: TableSpec,
        partition: Mapping[str, str],
        start: Instant | None = None,
        end: Instant | None = None,
        columns: Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Return the rows with `start <= timestamp < end`, sorted by key, with a plain range index.

        Raises:
            DataError: The lake holds no such partition, or a file is damaged.
        """
        since, until = as_instant(start), as_instant(end)
        names = list(spec.schema.names if columns is None else columns)
        chosen = self._files_within(spec, partition, since, until)
        tables = [self._load(spec, path, names, _bounds(since, until)) for path in chosen]
        empty = spec.schema.empty_table().select(names)
        whole = pa.concat_tables([empty, *tables])
        if any(_period(path) is None for path in chosen) and set(spec.key) <= set(names):
            whole = whole.sort_by([(name, "ascending") for name in spec.key])
        return whole.to_pandas()

    def scan(
        self,
        spec: TableSpec,
        partition: Mapping[str, str],
        start: Instant | None = None,
        end: Instant | None = None,
        columns: Iterable[str] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows that `read` returns in batches of bounded size, file by file: for tables that outgrow memory.

        Raises:
            DataError: As `read`, when the damaged place is reached.
        """
        since, until = as_instant(start), as_instant(end)
        names = list(spec.schema.names if columns is None else columns)
        for path in self._files_within(spec, partition, since, until):
            with self._naming(spec, path), pq.ParquetFile(self.storage.open(path), page_checksum_verification=True) as file:
                for batch in file.iter_batches(ROW_GROUP_ROWS, columns=list(dict.fromkeys(["timestamp", *names]))):
                    table = _cast(spec, pa.Table.from_batches([batch]))
                    bounds = _bounds(since, until)
                    yield (table if bounds is None else table.filter(bounds)).select(names).to_pandas()

    def claim(self, spec: TableSpec, partition: Mapping[str, str], market: str) -> None:
        """Note of which market a partition is: spot and perpetual of one pair share a symbol and must not be mixed.

        Args:
            spec: The table.
            partition: A value for each of the table's partition keys.
            market: Exchange and market in full, such as "binance BTC/USDT:USDT".

        Raises:
            DataError: The partition is of another market.
        """
        path = f"{_folder(spec, partition)}/{MARKET_NAME}"
        if not self.storage.exists(path):
            self.storage.publish(path, market.encode())
        elif (holds := self.storage.read(path).decode()) != market:
            raise DataError(
                f"{spec.name} of {partition['symbol']} in the lake are those of {holds}, not of {market}: "
                "keep the other market as a venue of its own, such as venue_candles of binance_spot"
            )

    def partitions(self, spec: TableSpec) -> list[dict[str, str]]:
        """Return the partitions of a table that hold rows, sorted, each as key to value."""
        folders = {path.rpartition("/")[0] for path in self.storage.list_files(spec.name, recursive=True)}
        parsed = [_parse_folder(spec, folder) for folder in sorted(folders)]
        return [partition for partition in parsed if partition is not None]

    def symbols(self, timeframe: str) -> list[str]:
        """Return the symbols that have candles of this timeframe, sorted."""
        return [entry["symbol"] for entry in self.partitions(CANDLES) if entry["timeframe"] == timeframe]

    def timeframes(self) -> list[str]:
        """Return the timeframes that have candles, shortest first."""
        return sorted({entry["timeframe"] for entry in self.partitions(CANDLES)}, key=parse_timeframe)

    def first_timestamp(self, spec: TableSpec, partition: Mapping[str, str]) -> pd.Timestamp | None:
        """Return the stamp of a partition's first row, None when there is none."""
        return self._edge_timestamp(spec, partition, 0)

    def last_timestamp(self, spec: TableSpec, partition: Mapping[str, str]) -> pd.Timestamp | None:
        """Return the stamp of a partition's last row, None when there is none."""
        return self._edge_timestamp(spec, partition, -1)

    def write_quarantine(self, source: str, rows: pd.DataFrame) -> None:
        """Keep the rejected rows of one source, replacing those of its earlier ingest; no rows remove the file."""
        path = f"quarantine/{hashlib.sha256(source.encode()).hexdigest()[:16]}.parquet"
        if rows.empty:
            self.storage.remove(path)
            return
        arrays = [
            pa.array(
                _texts(rows[field.name]) if pa.types.is_string(field.type) else rows[field.name], field.type, from_pandas=True
            )
            for field in QUARANTINE_SCHEMA
        ]
        self.storage.publish(path, serialise(pa.Table.from_arrays(arrays, schema=QUARANTINE_SCHEMA)))

    def read_quarantine(self) -> pd.DataFrame:
        """Return all rejected rows in the columns of `QUARANTINE_SCHEMA`; values are text."""
        paths = self.storage.list_files("quarantine")
        tables = [pq.read_table(self.storage.open(path)) for path in paths]
        return pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *tables]).to_pandas()

    def write_health(self, summary: Mapping[str, Any]) -> str:
        """Store the summary of one ingest as JSON and return its path; names sort by time."""
        path = f"health/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}.json"
        self.storage.publish(path, json.dumps(dict(summary), indent=2, allow_nan=False).encode())
        return path

    def read_health(self) -> list[dict[str, Any]]:
        """Return the summaries of all ingests, oldest first."""
        return [json.loads(self.storage.read(path)) for path in self.storage.list_files("health")]

    def _files(self, folder: str) -> list[str]:
        return [path for path in self.storage.list_files(folder) if path.endswith(".parquet")]

    def _files_within(
        self, spec: TableSpec, partition: Mapping[str, str], since: pd.Timestamp | None, until: pd.Timestamp | None
    ) -> list[str]:
        folder = _folder(spec, partition)
        paths = self._files(folder)
        if not paths:
            raise DataError(f"lake {self.storage.address} has no {folder}")
        return [path for path in paths if may_hold(path, since, until)]

    def _load(self, spec: TableSpec, path: str, columns: list[str], filters: pc.Expression | None = None) -> pa.Table:
        file = self.storage.open(path)
        with self._naming(spec, path):
            table = pq.read_table(file, columns=columns, filters=filters, page_checksum_verification=True)
            return _cast(spec, table.select(columns))

    @contextmanager
    def _naming(self, spec: TableSpec, path: str) -> Iterator[None]:
        """Turn an error inside the block into one that names the file."""
        try:
            yield
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{self.storage.address}/{path} is damaged or not of table {spec.name}: {error}") from error

    def _merge_file(self, spec: TableSpec, path: str, rows: pa.Table, overwrite: bool) -> WriteResult:
        if not self.storage.exists(path):
            self.storage.publish(path, serialise(rows))
            return WriteResult(rows.num_rows, 0, (path,))
        existing = self._load(spec, path, spec.schema.names)
        merged, added, differing = merge_rows(existing, rows, spec.key, overwrite)
        updated, refused = (differing, 0) if overwrite else (0, differing)
        if added + updated == 0:
            return WriteResult(rows_refused=refused)
        self.storage.publish(path, serialise(merged))
        return WriteResult(added, updated, (path,), refused)

    def _refuse_foreign_files(self, folder: str, unit: str) -> None:
        for path in self._files(folder):
            period = _period(path)
            if period is None or np.datetime_data(period.dtype)[0] != unit:
                raise DataError(f"{self.storage.address}/{path} was not written by the lake: move it away and ingest it")

    def _edge_timestamp(self, spec: TableSpec, partition: Mapping[str, str], edge: int) -> pd.Timestamp | None:
        paths = self._files(_folder(spec, partition))
        if paths and all(_period(path) is not None for path in paths):
            paths = [paths[edge]]
        stamps = [stamp.as_py() for path in paths for stamp in _extremes(self._load(spec, path, ["timestamp"]))]
        return pd.Timestamp(sorted(stamps)[edge]) if stamps else None


def is_lake(root: str | Path) -> bool:
    """Say whether `root` holds a lake's candles."""
    paths = open_storage(root).list_files(CANDLES.name, recursive=True)
    return any(_parse_folder(CANDLES, path.rpartition("/")[0]) for path in paths)


def _folder(spec: TableSpec, partition: Mapping[str, str]) -> str:
    values = {key: normalise_symbol(value) if key == "symbol" else str(value) for key, value in partition.items()}
    for key, value in values.items():
        if not re.fullmatch(r"\w[\w.\-]*", value):
            raise ConfigError(f"{key} must be letters, digits, '_', '.' or '-', was {value!r}")
    return spec.partition_path(**values)


def _parse_folder(spec: TableSpec, folder: str) -> dict[str, str] | None:
    pairs = [part.partition("=") for part in folder.split("/")[1:]]
    partition = {key: value for key, _, value in pairs}
    return partition if tuple(partition) == spec.partitions else None


def _period(path: str) -> np.datetime64 | None:
    """Return the year, month or day that a file is named after; None for a name of other hands."""
    stem = path.rpartition("/")[2].removesuffix(".parquet")
    return np.datetime64(stem) if re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", stem) else None


def may_hold(path: str, start: pd.Timestamp | None, end: pd.Timestamp | None) -> bool:
    """Say by its name whether a file of a partition may hold rows with `start <= timestamp < end`."""
    period = _period(path)
    if period is None:
        return True
    begins_before_end = end is None or pd.Timestamp(period, tz="UTC") < end
    return begins_before_end and (start is None or pd.Timestamp(period + 1, tz="UTC") > start)


def _cast(spec: TableSpec, table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([spec.schema.field(name) for name in table.schema.names]))


def _texts(values: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else str(value) for value in values]


def _extremes(table: pa.Table) -> list[pa.Scalar]:
    extremes = pc.min_max(table["timestamp"])
    return [extremes["min"], extremes["max"]] if table.num_rows else []


def _bounds(start: pd.Timestamp | None, end: pd.Timestamp | None) -> pc.Expression | None:
    column = pc.field("timestamp")
    if start is not None and end is not None:
        return (column >= start) & (column < end)
    if start is not None:
        return column >= start
    return column < end if end is not None else None


def as_instant(value: Instant | None) -> pd.Timestamp | None:
    """Return an instant in UTC; None stays None.

    Raises:
        ConfigError: The text is no time.
    """
    if value is None:
        return None
    try:
        stamp = pd.Timestamp(value)
    except ValueError as error:
        raise ConfigError(f"start and end must be times such as '2023-01-31', was {value!r}") from error
    return stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")
