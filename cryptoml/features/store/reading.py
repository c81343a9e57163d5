"""Read features back: of one symbol as a table, of several as a panel."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryptoml.data.lake import Instant
from cryptoml.data.schema import normalise_symbol, parse_timeframe
from cryptoml.data.storage import Storage, open_storage
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.engineer import FeaturePanel
from cryptoml.features.store.files import cross_section_folder, features_folder, start_of

__all__ = ["read_feature_panel", "read_features", "stored_symbols"]

Bounds = tuple[pd.Timestamp | None, pd.Timestamp | None]


def stored_symbols(root: str | Path, timeframe: str = "1h") -> list[str]:
    """Return the symbols that have features of a timeframe, sorted."""
    files = open_storage(root).list_files(features_folder(timeframe), recursive=True)
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
    storage, name, bounds = open_storage(root), normalise_symbol(symbol), (_instant(start), _instant(end))
    return _joined(storage, timeframe, [name], bounds)[name]


def read_feature_panel(
    root: str | Path,
    timeframe: str = "1h",
    symbols: Sequence[str] | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
) -> FeaturePanel:
    """Return the features of several symbols on one grid, from the first of their bars to the last; NaN where absent.

    Args:
        root: Feature lake, a local folder or `s3://`.
        timeframe: Length of a bar.
        symbols: Markets in the order wanted; all by default.
        start: First open wanted.
        end: Opens from here on are left out.

    Raises:
        DataError: A symbol has no features, or the symbols have different ones.
    """
    wanted = [normalise_symbol(symbol) for symbol in symbols] if symbols else stored_symbols(root, timeframe)
    frames = _joined(open_storage(root), timeframe, wanted, (_instant(start), _instant(end)))
    filled = [frame for frame in frames.values() if len(frame)]
    if not filled:
        raise DataError(f"{root} has no features of timeframe {timeframe} in the wanted span")
    names = tuple(filled[0].columns)
    odd = [symbol for symbol, frame in frames.items() if tuple(frame.columns) != names]
    if odd:
        raise DataError(f"features of {odd[0]} differ from those of {next(iter(frames))}; build both with one catalogue")
    first, last = min(frame.index[0] for frame in filled), max(frame.index[-1] for frame in filled)
    grid = pd.date_range(first, last, freq=parse_timeframe(timeframe), unit="us", name="timestamp")
    values = np.full((len(frames), len(grid), len(names)), np.nan, np.float32)
    for row, frame in enumerate(frames.values()):
        values[row, grid.get_indexer(frame.index)] = frame.to_numpy(np.float32)
    return FeaturePanel(values, names, tuple(frames), grid, timeframe)


def _joined(storage: Storage, timeframe: str, symbols: Sequence[str], bounds: Bounds) -> dict[str, pd.DataFrame]:
    """Return each symbol's own features with those over the cross-section beside them."""
    market = _read_stretches(storage, cross_section_folder(timeframe), bounds, pc.field("symbol").isin(list(symbols)))
    peers = {} if market is None else _split(market)
    return {symbol: _beside(_own(storage, timeframe, symbol, bounds), peers, symbol) for symbol in symbols}


def _own(storage: Storage, timeframe: str, symbol: str, bounds: Bounds) -> pd.DataFrame:
    table = _read_stretches(storage, features_folder(timeframe, symbol), bounds)
    if table is None:
        raise DataError(f"{storage.address} has no features of symbol {symbol}, timeframe {timeframe}")
    return table.to_pandas().set_index("timestamp")


def _split(market: pa.Table) -> dict[str, pd.DataFrame]:
    """Return symbol to features; the empty name holds the columns alone."""
    frame = market.drop_columns("symbol").to_pandas().set_index("timestamp")
    owners = np.asarray(market["symbol"].cast(pa.string()).to_numpy(zero_copy_only=False))
    return {symbol: frame[owners == symbol] for symbol in set(owners)} | {"": frame.iloc[:0]}


def _beside(own: pd.DataFrame, peers: Mapping[str, pd.DataFrame], symbol: str) -> pd.DataFrame:
    if not peers:
        return own
    return pd.concat([own, peers.get(symbol, peers[""]).reindex(own.index)], axis=1)


def _read_stretches(storage: Storage, folder: str, bounds: Bounds, condition: pc.Expression | None = None) -> pa.Table | None:
    """Return the rows of a folder's files within bounds, sorted by time; None for a folder without files."""
    paths = [path for path in storage.list_files(folder) if path.endswith(".parquet")]
    since, until = bounds
    begins = [until is None or start_of(path) < until for path in paths]
    ends = [since is None or start_of(following) > since for following in paths[1:]] + [True] * bool(paths)
    chosen = [path for path, *met in zip(paths, begins, ends, strict=True) if all(met)] or paths[:1]
    tables = [_load(storage, path, _expression(bounds, condition)) for path in chosen]
    odd = [path for path, table in zip(chosen, tables, strict=True) if table.schema.names != tables[0].schema.names]
    if odd:
        raise DataError(f"{storage.address}/{odd[0]} has other features than {chosen[0]}; build the feature lake again")
    return pa.concat_tables(tables) if tables else None


def _load(storage: Storage, path: str, condition: pc.Expression | None) -> pa.Table:
    file = storage.open(path)
    try:
        return pq.read_table(file, filters=condition).replace_schema_metadata(None)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{storage.address}/{path} is damaged or no file of features: {error}") from error


def _expression(bounds: Bounds, condition: pc.Expression | None) -> pc.Expression | None:
    since, until = bounds
    parts = [] if condition is None else [condition]
    parts += [] if since is None else [pc.field("timestamp") >= since]
    parts += [] if until is None else [pc.field("timestamp") < until]
    whole = parts[0] if parts else None
    for part in parts[1:]:
        whole = whole & part
    return whole


def _instant(value: Instant | None) -> pd.Timestamp | None:
    if value is None:
        return None
    try:
        stamp = pd.Timestamp(value)
    except ValueError as error:
        raise ConfigError(f"start and end must be times such as '2023-01-31', was {value!r}") from error
    return stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")
