"""Parquet and Feather in batches; the index of a batch is the row's position in the file, from 0."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["read_feather", "read_parquet"]


def read_parquet(path: Path, batch_rows: int) -> Iterator[pd.DataFrame]:
    """Yield frames of at most `batch_rows` rows, indexed by position in the file."""
    with pq.ParquetFile(path, memory_map=True) as file:
        yield from _frames(file.iter_batches(batch_size=batch_rows, use_threads=False))


def read_feather(path: Path, batch_rows: int) -> Iterator[pd.DataFrame]:
    """Yield frames of at most `batch_rows` rows of a Feather (Arrow IPC) file, indexed by position in the file."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        stored = (file.get_batch(number) for number in range(file.num_record_batches))
        yield from _frames(part.slice(start, batch_rows) for part in stored for start in range(0, part.num_rows, batch_rows))


def _frames(batches: Iterator[pa.RecordBatch]) -> Iterator[pd.DataFrame]:
    start = 0
    for batch in batches:
        table = _with_float_decimals(pa.Table.from_batches([batch]))
        frame = table.to_pandas(ignore_metadata=True)
        frame.index = pd.RangeIndex(start, start + len(frame))
        start += len(frame)
        yield frame


def _with_float_decimals(table: pa.Table) -> pa.Table:
    for position, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.float64()))
    return table
