"""Rows of one lake partition: frame to Arrow under the table's schema, merge by key, split into file periods."""

import io
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryptoml.data.schema import ORDERBOOK, TRADES, TableSpec, parse_timeframe
from cryptoml.errors import DataError

__all__ = ["ROW_GROUP_ROWS", "merge_rows", "period_unit", "serialise", "split_by_period", "to_table"]

ROW_GROUP_ROWS = 65_536


def period_unit(spec: TableSpec, partition: Mapping[str, str]) -> str:
    """Return how long a file of the partition is: "Y", "M" (bars below 1 h) or "D" (trades, book snapshots)."""
    if spec in (TRADES, ORDERBOOK):
        return "D"
    is_fine = "timeframe" in partition and parse_timeframe(partition["timeframe"]) < pd.Timedelta(hours=1)
    return "M" if is_fine else "Y"


def split_by_period(table: pa.Table, unit: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield (file stem, rows) oldest first; `table` is sorted by time."""
    stamps = table["timestamp"].cast(pa.int64()).to_numpy().astype("datetime64[us]")
    periods, starts = np.unique(stamps.astype(f"datetime64[{unit}]"), return_index=True)
    for period, start, stop in zip(periods, starts, [*starts[1:], len(stamps)], strict=True):
        yield str(period), table.slice(start, stop - start)


def to_table(spec: TableSpec, frame: pd.DataFrame, folder: str) -> pa.Table:
    """Return the frame in the table's schema, sorted by key."""
    missing = [name for name in spec.schema.names if name not in frame.columns and name not in spec.nullable]
    unknown = [str(name) for name in frame.columns if name not in spec.schema.names]
    if missing or unknown:
        raise DataError(f"{folder}: table {spec.name} needs {missing or 'no more'} columns and does not take {unknown}")
    arrays = [_to_array(frame, field, folder) for field in spec.schema]
    table = pa.Table.from_arrays(arrays, schema=spec.schema)
    for name in spec.schema.names:
        if name not in spec.nullable and table[name].null_count:
            row = int(pc.index(pc.is_null(table[name]), True).as_py())
            raise DataError(f"{folder}: column {name} is null at row {row}; table {spec.name} needs a value there")
    table = table.sort_by([(name, "ascending") for name in spec.key])
    keys = _key_index(table, spec.key)
    if not keys.is_unique:
        raise DataError(f"{folder}: {' and '.join(spec.key)} {keys[keys.duplicated()][0]} occur more than once")
    return table


def _to_array(frame: pd.DataFrame, field: pa.Field, folder: str) -> pa.Array:
    if field.name not in frame.columns:
        return pa.nulls(len(frame), field.type)
    values = frame[field.name]
    if pa.types.is_timestamp(field.type):
        if not isinstance(values.dtype, pd.DatetimeTZDtype):
            raise DataError(f"{folder}: column {field.name} must be timezone-aware times, was {values.dtype}")
        values = values.dt.tz_convert("UTC").dt.as_unit("us")
    try:
        return pa.array(values, type=field.type, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{folder}: column {field.name} must be {field.type}: {error}") from error


def _key_index(table: pa.Table, key: tuple[str, ...]) -> pd.Index:
    columns = [table[name].to_pandas() for name in key]
    return pd.Index(columns[0]) if len(columns) == 1 else pd.MultiIndex.from_arrays(columns, names=key)


def merge_rows(existing: pa.Table, rows: pa.Table, key: tuple[str, ...], overwrite: bool) -> tuple[pa.Table, int, int]:
    """Return the union by key, sorted; how many rows have a new key, and how many differ from the one with their key."""
    positions = _key_index(existing, key).get_indexer(_key_index(rows, key))
    is_known = positions >= 0
    known = rows.filter(pa.array(is_known))
    differs = _differing_rows(existing.take(pa.array(positions[is_known])), known)
    parts = [existing, rows.filter(pa.array(~is_known))]
    if overwrite:
        keep = np.ones(existing.num_rows, bool)
        keep[positions[is_known][differs]] = False
        parts = [existing.filter(pa.array(keep)), parts[1], known.filter(pa.array(differs))]
    merged = pa.concat_tables(parts).sort_by([(name, "ascending") for name in key])
    return merged, int((~is_known).sum()), int(differs.sum())


def _differing_rows(left: pa.Table, right: pa.Table) -> np.ndarray:
    """Return bool [row]: whether any column differs; two nulls are equal."""
    differs = np.zeros(left.num_rows, bool)
    for name in left.column_names:
        if left[name].equals(right[name]):
            continue
        if pa.types.is_list(left[name].type):
            pairs = zip(left[name].to_pylist(), right[name].to_pylist(), strict=True)
            differs |= np.fromiter((a != b for a, b in pairs), bool, left.num_rows)
        else:
            one_is_null = pc.xor(pc.is_null(left[name]), pc.is_null(right[name]))
            differs |= pc.coalesce(pc.not_equal(left[name], right[name]), one_is_null).to_numpy()
    return differs


def serialise(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", row_group_size=ROW_GROUP_ROWS, write_statistics=True, write_page_checksum=True
    )
    return buffer.getvalue()
