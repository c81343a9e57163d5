"""Read features back: of one symbol as a table, of several as a panel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain, pairwise
from operator import and_
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cryptoml.data.lake import Instant, as_instant
from cryptoml.data.schema import normalise_symbol, parse_timeframe
from cryptoml.data.storage import Storage, open_storage
from cryptoml.errors import DataError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.store.files import cross_section_folder, features_folder, start_of

__all__ = ["feature_tables", "read_feature_panel", "read_features", "stored_symbols"]

FloatArray = NDArray[np.float32]
KEYS = ("timestamp", "symbol")
Bounds = tuple[pd.Timestamp | None, pd.Timestamp | None]


def stored_symbols(root: str | Path | Storage, timeframe: str = "1h") -> list[str]:
    """Return the symbols that have features of a timeframe, sorted."""
    storage = root if isinstance(root, Storage) else open_storage(root)
    files = storage.list_files(features_folder(timeframe), recursive=True)
    parts = {path.split("/")[2] for path in files if path.count("/") == 3}
    return sorted(part.removeprefix("symbol=") for part in parts)


def read_features(
    root: str | Path, symbol: str, timeframe: str = "1h", start: Instant | None = None, end: Instant | None = None
) -> pd.DataFrame:
    """Return the features of one symbol, those over the cross-section last: one row per existing bar, float32.

    Args:
        root: Feature lake, a local folder or `s3://`.
        symbol: Market, such as `BTC/USDT`.
        timeframe: Length of a bar.
        start: First open wanted.
        end: Opens from here on are left out.

    Raises:
        DataError: The lake has no features of that symbol, or files of different catalogues.
    """
    storage, name, bounds = open_storage(root), normalise_symbol(symbol), (as_instant(start), as_instant(end))
    files, shared = _own_files(storage, timeframe, name, bounds), _files(storage, cross_section_folder(timeframe), bounds)
    own = pa.concat_tables(_tables(storage, files, _within(bounds))).to_pandas().set_index("timestamp")
    if not shared:
        return own
    market = pa.concat_tables(_tables(storage, shared, _within(bounds, [name]))).drop_columns("symbol").to_pandas()
    return pd.concat([own, market.set_index("timestamp").reindex(own.index)], axis=1)


def read_feature_panel(
    root: str | Path,
    timeframe: str = "1h",
    symbols: Sequence[str] | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
) -> FeaturePanel:
    """Return the features of several symbols on one grid, from the first of their bars to the last; NaN where absent.

    Memory holds the panel and one file at a time.

    Args:
        root: Feature lake, a local folder or `s3://`.
        timeframe: Length of a bar.
        symbols: Markets in the order wanted; all by default.
        start: First open wanted.
        end: Opens from here on are left out.

    Raises:
        DataError: A symbol has no features, or the symbols have different ones.
    """
    storage, bounds = open_storage(root), (as_instant(start), as_instant(end))
    wanted = tuple(map(normalise_symbol, symbols)) if symbols else tuple(stored_symbols(root, timeframe))
    files = {symbol: _own_files(storage, timeframe, symbol, bounds) for symbol in wanted}
    shared = _files(storage, cross_section_folder(timeframe), bounds)
    grid = _grid(storage, timeframe, list(chain.from_iterable(files.values())), bounds)
    if grid.empty:
        raise DataError(f"{root} has no features of timeframe {timeframe} in the wanted span")
    own, across = _names(storage, files[wanted[0]]), _names(storage, shared)
    values = np.full((len(wanted), len(grid), len(own) + len(across)), np.nan, np.float32)
    for row, (symbol, paths) in enumerate(files.items()):
        if _names(storage, paths) != own:
            raise DataError(f"features of {symbol} differ from those of {wanted[0]}; build both with one catalogue")
        for table in _tables(storage, paths, _within(bounds)):
            values[row, grid.get_indexer(_stamps(table)), : len(own)] = _matrix(table, own)
    for table in _tables(storage, shared, _within(bounds, wanted)):
        for symbol, part in _by_symbol(table):
            values[wanted.index(symbol), grid.get_indexer(_stamps(part)), len(own) :] = _matrix(part, across)
    return FeaturePanel(values, own + across, wanted, grid, timeframe)


def feature_tables(storage: Storage, timeframe: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield symbol and features, file by file: first each symbol's own, then those over the cross-section."""
    for symbol in stored_symbols(storage, timeframe):
        for table in _tables(storage, _files(storage, features_folder(timeframe, symbol), (None, None)), None):
            yield symbol, table.drop_columns("timestamp")
    for table in _tables(storage, _files(storage, cross_section_folder(timeframe), (None, None)), None):
        for symbol, part in _by_symbol(table):
            yield symbol, part.drop_columns(list(KEYS))


def _own_files(storage: Storage, timeframe: str, symbol: str, bounds: Bounds) -> list[str]:
    paths = _files(storage, features_folder(timeframe, symbol), bounds)
    if not paths:
        raise DataError(f"{storage.address} has no features of symbol {symbol}, timeframe {timeframe}")
    return paths


def _files(storage: Storage, folder: str, bounds: Bounds) -> list[str]:
    """Return the files of a folder whose stretches meet bounds, sorted by time; the first one where none does."""
    paths = [path for path in storage.list_files(folder) if path.endswith(".parquet")]
    since, until = bounds
    begins = [until is None or start_of(path) < until for path in paths]
    ends = [since is None or start_of(following) > since for following in paths[1:]] + [True] * bool(paths)
    return [path for path, *met in zip(paths, begins, ends, strict=True) if all(met)] or paths[:1]


def _grid(storage: Storage, timeframe: str, paths: Sequence[str], bounds: Bounds) -> pd.DatetimeIndex:
    """Return a regular grid from the first to the last bar of the files."""
    found = [_stamps(_load(storage, path, _within(bounds), ["timestamp"])) for path in paths]
    edges = [edge for stamps in found if len(stamps) for edge in (stamps[0], stamps[-1])]
    if not edges:
        return pd.DatetimeIndex([], tz="UTC")
    return pd.date_range(min(edges), max(edges), freq=parse_timeframe(timeframe), unit="us", name="timestamp")


def _names(storage: Storage, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features in the first of some files; none without a file."""
    if not paths:
        return ()
    with _naming(storage, paths[0]):
        return tuple(name for name in pq.read_schema(storage.open(paths[0])).names if name not in KEYS)


def _tables(storage: Storage, paths: Sequence[str], condition: pc.Expression | None) -> Iterator[pa.Table]:
    """Yield the rows of each file that meet a condition.

    Raises:
        DataError: A file has other columns than the first.
    """
    names: list[str] = []
    for path in paths:
        table = _load(storage, path, condition)
        names = names or table.schema.names
        if table.schema.names != names:
            raise DataError(f"{storage.address}/{path} has other features than {paths[0]}; build the feature lake again")
        yield table


def _load(storage: Storage, path: str, condition: pc.Expression | None, columns: list[str] | None = None) -> pa.Table:
    with _naming(storage, path):
        table = pq.read_table(storage.open(path), columns=columns, filters=condition, page_checksum_verification=True)
        return table.replace_schema_metadata(None)


@contextmanager
def _naming(storage: Storage, path: str) -> Iterator[None]:
    """Turn an error inside the block into one that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{storage.address}/{path} is damaged or no file of features: {error}") from error


def _stamps(table: pa.Table) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(table["timestamp"].to_pandas())


def _matrix(table: pa.Table, names: Sequence[str]) -> FloatArray:
    """Return float32 `[row, feature]`."""
    return np.column_stack([table[name].to_numpy() for name in names]) if names else np.empty((table.num_rows, 0), np.float32)


def _by_symbol(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield each run of rows of one symbol."""
    owners = table["symbol"].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = owners.indices.to_numpy()
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]):
        if stop > start:
            yield owners.dictionary[int(codes[start])].as_py(), table.slice(start, stop - start)


def _within(bounds: Bounds, symbols: Sequence[str] = ()) -> pc.Expression | None:
    since, until = bounds
    parts = [pc.field("symbol").isin(list(symbols))] if symbols else []
    parts += [] if since is None else [pc.field("timestamp") >= since]
    parts += [] if until is None else [pc.field("timestamp") < until]
    return reduce(and_, parts) if parts else None
