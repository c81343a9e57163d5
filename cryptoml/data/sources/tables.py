"""Rows of the tables beside the candles, each with the instant from which a trader could have read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryptoml.data.schema import TableSpec
from cryptoml.data.sources.columns import canonical_columns, renamed
from cryptoml.data.validation.quarantine import Fault, first_faults, quarantine_rows
from cryptoml.data.validation.timestamps import stamp_column, to_utc
from cryptoml.errors import DataError

__all__ = ["TableRows", "read_columns", "settle_rows"]


@dataclass(frozen=True)
class TableRows:
    """One batch of one partition of a table.

    Attributes:
        spec: The table.
        partition: Value per partition key, such as `{"symbol": "BTCUSDT"}`.
        frame: Sound rows in the columns of the table's schema, sorted by its key, unique within the batch.
        quarantine: Rows put aside, in the columns of `QUARANTINE_COLUMNS`.
        source: File that the rows came from.
        rows_read: Rows read; those neither in `frame` nor in `quarantine` were copies of a kept row, or superseded by one.
    """

    spec: TableSpec
    partition: Mapping[str, str]
    frame: pd.DataFrame
    quarantine: pd.DataFrame
    source: str
    rows_read: int


def read_columns(
    batch: pd.DataFrame,
    aliases: Mapping[str, tuple[str, ...]],
    *,
    required: Sequence[str],
    source: str,
    assume_timezone: str | None,
) -> pd.DataFrame:
    """Return the known columns of a batch under our names, `timestamp` in UTC, and `row`, the row number in the source.

    Raises:
        DataError: A required column is missing, or timestamps are timezone-naive.
    """
    found = canonical_columns(batch.columns, aliases)
    missing = [name for name in required if name not in found]
    if missing:
        spellings = ", ".join(aliases[missing[0]][:4])
        columns = ", ".join(map(str, batch.columns[:12]))
        raise DataError(f"{source}: column {missing[0]!r} is missing ({spellings}); columns are {columns}")
    frame = renamed(batch, aliases)
    stated = str(found["timestamp"])
    frame["timestamp"] = stamp_column(frame["timestamp"], source=source, column=stated, assume_timezone=assume_timezone)
    return frame.assign(row=batch.index.to_numpy(dtype=np.int64)).reset_index(drop=True)


def settle_rows(
    raw: pd.DataFrame,
    values: Mapping[str, object],
    faults: Sequence[Fault],
    *,
    spec: TableSpec,
    partition: Mapping[str, str],
    source: str,
) -> TableRows:
    """Return the sound rows in the table's schema, and the others in quarantine.

    Rows with one key: copies are dropped; where they differ the first stands and the others are quarantined.

    Args:
        raw: Rows as read, with `timestamp` (UTC, or text where it is no instant) and `row`.
        values: The schema's columns [row], of scalars.
        faults: Rules in order of priority; an unreadable timestamp is added here.
        spec: The table.
        partition: Value per partition key.
        source: File of the rows.
    """
    stamps = to_utc(raw["timestamp"], source=source)
    rules = [Fault("unreadable_timestamp", "timestamp", stamps.isna().to_numpy()), *faults]
    frame = pd.DataFrame(values, columns=spec.schema.names, index=raw.index)
    sound = frame[first_faults(rules, len(frame)) < 0]
    repeated = sound.duplicated(subset=list(spec.key))
    contradicting = sound.index[repeated & ~sound.duplicated()]
    rules.append(Fault("duplicate", "timestamp", raw.index.isin(contradicting)))
    symbol = partition[spec.partitions[-1]]
    quarantine = quarantine_rows(raw, rules, rows=raw["row"].to_numpy(), stamps=stamps, symbol=symbol, source=source)
    kept = sound[~repeated].sort_values(list(spec.key), kind="stable", ignore_index=True)
    return TableRows(spec, partition, kept, quarantine, source, len(raw))
