"""Checked batches on their way into the lake, whatever table and source they are of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryptoml.data.schema import CANDLES, ONCHAIN, VENUE_CANDLES, TableSpec
from cryptoml.data.sources import (
    TableRows,
    candle_files,
    has_readable_suffix,
    read_candle_file,
    read_funding_file,
    read_onchain_file,
    read_orderbook_file,
    read_trades_file,
    venue_candles,
)
from cryptoml.data.validation import SymbolHealth, check_candles
from cryptoml.errors import DataError

__all__ = ["Batch", "FileKind", "FilesConfig", "candle_batch", "file_batches", "joined_health", "list_files"]

FileKind = Literal["candles", "venue_candles", "funding", "onchain", "orderbook", "trades"]

_READERS: dict[str, Callable[..., Iterator[TableRows]]] = {
    "funding": read_funding_file,
    "onchain": read_onchain_file,
    "orderbook": read_orderbook_file,
    "trades": read_trades_file,
}


class FilesConfig(BaseModel):
    """What files hold where they do not say it themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FileKind = Field(default="candles", description="Table that the rows belong to.")
    symbol: str | None = Field(default=None, description="Market of the files; for on-chain series the base asset.")
    timeframe: str | None = Field(default=None, description="Length of a bar, for candles.")
    venue: str | None = Field(default=None, description="Name of the other venue, for venue_candles.")
    assume_timezone: str | None = Field(default=None, description="Zone of timestamps that carry none.")

    @model_validator(mode="after")
    def _venue_where_needed(self) -> "FilesConfig":
        if (self.venue is not None) != (self.kind == "venue_candles"):
            raise ValueError(f"kind venue_candles and venue go together, were {self.kind!r} and {self.venue!r}")
        return self


@dataclass(frozen=True)
class Batch:
    """Rows of one partition, checked.

    Attributes:
        spec: The table.
        partition: Value per partition key.
        good: Rows in the columns of the table's schema.
        quarantine: Rows put aside, with reasons.
        health: Counts of this batch; `timeframe` holds the table's name where it has no bars.
    """

    spec: TableSpec
    partition: dict[str, str]
    good: pd.DataFrame
    quarantine: pd.DataFrame
    health: SymbolHealth


def candle_batch(frame: pd.DataFrame, symbol: str, timeframe: str, source: str, venue: str | None) -> Batch:
    """Check raw candles of one market (the lake's spelling); `venue` names another venue, None is the traded one."""
    check = check_candles(frame, symbol=symbol, timeframe=timeframe, source=source)
    partition = {"timeframe": timeframe, "symbol": symbol}
    if venue is None:
        return Batch(CANDLES, partition, check.good, check.quarantine, check.health)
    good = venue_candles(check.good, timeframe)
    return Batch(VENUE_CANDLES, {"venue": venue, **partition}, good, check.quarantine, check.health)


def list_files(path: str | Path, config: FilesConfig) -> list[Path]:
    """Return the readable files of a folder and below it, or the one file that `path` is.

    Raises:
        DataError: There is none.
    """
    if config.kind in ("candles", "venue_candles"):
        return candle_files(path, timeframe=config.timeframe)
    path = Path(path)
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if has_readable_suffix(file)]
    if not files:
        raise DataError(f"{path}: there is no such file, nor a folder with files to read")
    return files


def file_batches(path: Path, config: FilesConfig) -> Iterator[Batch]:
    """Read and check a file of any kind, streaming.

    Raises:
        DataError: The file cannot be read; batches before the damaged place have been yielded by then.
    """
    zone: dict[str, Any] = {"assume_timezone": config.assume_timezone} if config.assume_timezone else {}
    if config.kind in ("candles", "venue_candles"):
        for raw in read_candle_file(path, symbol=config.symbol, timeframe=config.timeframe, **zone):
            yield candle_batch(raw.frame, raw.symbol, str(raw.timeframe), raw.source, config.venue)
        return
    market: dict[str, Any] = {"asset" if config.kind == "onchain" else "symbol": config.symbol}
    for rows in _READERS[config.kind](path, **market, **zone):
        yield _table_batch(rows)


def joined_health(left: SymbolHealth, right: SymbolHealth) -> SymbolHealth:
    """Return the sums of two batches of one symbol; gaps have to be counted over the whole."""
    names = sorted({*left.quarantined, *right.quarantined})
    sums: dict[str, Any] = {
        name: getattr(left, name) + getattr(right, name) for name in ("rows_read", "rows_good", "duplicates", "unordered")
    }
    return replace(
        left,
        **sums,
        quarantined={name: left.quarantined.get(name, 0) + right.quarantined.get(name, 0) for name in names},
        first=min((stamp for stamp in (left.first, right.first) if stamp is not None), default=None),
        last=max((stamp for stamp in (left.last, right.last) if stamp is not None), default=None),
        sources=tuple(dict.fromkeys([*left.sources, *right.sources])),
    )


def _table_batch(rows: TableRows) -> Batch:
    stamps = rows.frame["timestamp"]
    good = stamps.nunique() if rows.spec is ONCHAIN else len(stamps)
    partition = dict(rows.partition)
    health = SymbolHealth(
        symbol=partition[rows.spec.partitions[-1]],
        timeframe=rows.spec.name,
        rows_read=rows.rows_read,
        rows_good=good,
        duplicates=max(rows.rows_read - good - len(rows.quarantine), 0),
        quarantined={str(reason): int(count) for reason, count in rows.quarantine["reason"].value_counts().items()},
        first=stamps.min() if good else None,
        last=stamps.max() if good else None,
        sources=(rows.source,),
    )
    return Batch(rows.spec, partition, rows.frame, rows.quarantine, health)
