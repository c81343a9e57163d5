"""Files of the feature lake: where they lie and what is in them."""

import itertools
import json
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cryptoml.data.schema import TIMESTAMP
from cryptoml.data.storage import Storage

__all__ = [
    "cross_section_folder",
    "feature_table",
    "features_folder",
    "file_name",
    "read_stamp",
    "serialise_features",
    "start_of",
]

FloatArray = NDArray[np.float32]
ROW_GROUP_ROWS = 65_536
STAMP_KEY = b"cryptoml"
NAME_FORMAT = "%Y%m%dT%H%M%SZ"


def features_folder(timeframe: str, symbol: str | None = None) -> str:
    """Return the folder of a timeframe's features, or of one symbol's among them."""
    folder = f"features/timeframe={timeframe}"
    return folder if symbol is None else f"{folder}/symbol={symbol}"


def cross_section_folder(timeframe: str) -> str:
    """Return the folder of a timeframe's features over all symbols."""
    return f"cross_section/timeframe={timeframe}"


def file_name(start: pd.Timestamp) -> str:
    """Return the name of the file whose stretch begins at an instant."""
    return f"{start.strftime(NAME_FORMAT)}.parquet"


def feature_table(timestamps: pd.DatetimeIndex, names: Sequence[str], values: FloatArray) -> pa.Table:
    """Return `timestamp` and one float32 column per feature; missing values are NaN, not null.

    Args:
        timestamps: `[row]` opens of the bars, UTC.
        names: `[feature]` names of the columns.
        values: `[row, feature]`.
    """
    columns = np.ascontiguousarray(values.T)
    arrays = [pa.array(timestamps.as_unit("us"), TIMESTAMP), *(pa.array(column) for column in columns)]
    return pa.Table.from_arrays(arrays, names=["timestamp", *names])


def serialise_features(tables: Iterable[pa.Table], stamp: dict[str, str | int | float | None]) -> pa.Buffer:
    """Return a Parquet file of tables of one schema, a row group or more for each, with `stamp` in its footer."""
    parts = iter(tables)
    first = next(parts)
    schema = first.schema.with_metadata({STAMP_KEY: json.dumps(stamp).encode()})
    keys = [name for name in schema.names if name in ("timestamp", "symbol")]
    sink = pa.BufferOutputStream()
    # features are noise to a dictionary coder; split bytes compress better and faster
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=["symbol"],
        use_byte_stream_split=[name for name in schema.names if name not in keys],
        write_statistics=keys,
        write_page_checksum=True,
    ) as writer:
        for part in itertools.chain([first], parts):
            writer.write_table(part.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def read_stamp(storage: Storage, path: str) -> dict[str, str | int | float | None]:
    """Return what `serialise_features` left in a file's footer; empty where there is no such file, or not a whole one."""
    try:
        with storage.filesystem.open_input_file(storage.path(path)) as file:
            return json.loads((pq.read_schema(file).metadata or {})[STAMP_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}


def start_of(path: str) -> pd.Timestamp:
    """Return the instant at which a file's stretch begins."""
    return pd.to_datetime(path.rpartition("/")[2].removesuffix(".parquet"), format=NAME_FORMAT, utc=True)
