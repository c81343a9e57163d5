"""On-chain series as Coin Metrics publishes them: one row per day, one column per metric."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cryptoml.data.schema import ONCHAIN
from cryptoml.data.sources.columns import CANDLE_ALIASES, STAMP_ALIASES
from cryptoml.data.sources.file_names import parse_file_name
from cryptoml.data.sources.markets import split_by_market
from cryptoml.data.sources.raw_files import read_raw
from cryptoml.data.sources.tables import TableRows, read_columns
from cryptoml.data.validation.quarantine import Fault, empty_quarantine, quarantine_rows, to_numbers
from cryptoml.data.validation.timestamps import to_utc
from cryptoml.errors import DataError

__all__ = ["PUBLICATION_DELAY", "read_onchain_file"]

PUBLICATION_DELAY = pd.Timedelta(27, unit="h")
"""From the start of a day to the hour in which Coin Metrics publishes its row."""

_ALIASES = {"timestamp": (*STAMP_ALIASES, *CANDLE_ALIASES["timestamp"]), "symbol": ("asset", "symbol")}
_BACKFILL = ("AssetCompletionTime", "AssetEODCompletionTime")
_BATCH_DAYS = 2_048


def read_onchain_file(
    path: str | Path,
    *,
    asset: str | None = None,
    metrics: Sequence[str] | None = None,
    delay: pd.Timedelta = PUBLICATION_DELAY,
    assume_timezone: str | None = "UTC",
    batch_rows: int = _BATCH_DAYS,
) -> Iterator[TableRows]:
    """Yield on-chain values in long form, in the schema `ONCHAIN`; values that the publisher left out stay, as null.

    A row stamped day D describes D and is known at `D + delay`. The columns `Asset*CompletionTime` are times of back-fill, not of
    first publication; they are dropped.

    Args:
        path: CSV (or another table) with a `time` column and one column per metric.
        asset: Base asset such as "BTC"; else taken from a column `asset` or the file's name.
        metrics: Columns to keep; None keeps all.
        delay: From the label to the instant a trader could read the row.
        assume_timezone: Zone of labels that carry none; Coin Metrics' days are UTC.
        batch_rows: Days per batch.

    Raises:
        DataError: The file cannot be read, or the time column or a wished metric is missing.
    """
    named, source = parse_file_name(Path(path)), str(path)
    for batch in read_raw(path, layouts={}, batch_rows=batch_rows):
        frame = read_columns(batch, _ALIASES, required=("timestamp",), source=source, assume_timezone=assume_timezone)
        columns = _metric_columns(batch, metrics, source)
        wide = pd.concat([frame, batch[columns].reset_index(drop=True)], axis=1)
        for market, rows in split_by_market(wide, asset, named, source):
            yield _settle(rows, columns, market, source, delay)


def _metric_columns(batch: pd.DataFrame, metrics: Sequence[str] | None, source: str) -> list[str]:
    taken = {name for spellings in _ALIASES.values() for name in spellings} | {name.lower() for name in _BACKFILL}
    columns = [str(name) for name in batch.columns if str(name).lower() not in taken]
    missing = [name for name in metrics or () if name not in columns]
    if missing:
        raise DataError(f"{source}: metric {missing[0]!r} is missing; columns are {', '.join(columns)}")
    return list(metrics) if metrics is not None else columns


def _settle(rows: pd.DataFrame, columns: Sequence[str], asset: str, source: str, delay: pd.Timedelta) -> TableRows:
    stamps = to_utc(rows["timestamp"], source=source)
    set_aside = partial(quarantine_rows, rows, rows=rows["row"].to_numpy(), stamps=stamps, symbol=asset, source=source)
    readable = stamps.notna().to_numpy()
    repeated = rows.assign(timestamp=stamps).duplicated(subset="timestamp").to_numpy() & readable
    sound = readable & ~repeated
    parts = []
    aside = [set_aside([Fault("unreadable_timestamp", "timestamp", ~readable)])]
    for name in columns:
        numbers, is_text = to_numbers(rows[name])
        faults = [Fault("not_a_number", name, is_text & sound), Fault("not_finite", name, np.isinf(numbers) & sound)]
        aside.append(set_aside(faults))
        kept = sound & ~is_text & ~np.isinf(numbers)
        parts.append(pd.DataFrame({"timestamp": stamps[kept], "metric": name, "value": numbers[kept]}))
    frame = pd.concat(parts) if parts else pd.DataFrame({"timestamp": stamps[:0], "metric": [], "value": []})
    frame = frame.assign(available_at=frame["timestamp"] + delay)[ONCHAIN.schema.names]
    frame = frame.sort_values(list(ONCHAIN.key), ignore_index=True)
    bad = [part for part in aside if len(part)]
    quarantine = pd.concat(bad, ignore_index=True) if bad else empty_quarantine()
    return TableRows(ONCHAIN, {"asset": asset}, frame, quarantine, source, len(rows))
