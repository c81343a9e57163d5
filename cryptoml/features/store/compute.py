"""Compute one work item: read its candles and tables from the market lake, write its file of features."""

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cryptoml.data.lake import Lake
from cryptoml.data.panel import CANDLE_FIELDS, Panel, panel_from_frames
from cryptoml.data.schema import CANDLES, ONCHAIN, ORDERBOOK, TABLES, VENUE_CANDLES, parse_timeframe
from cryptoml.data.storage import Storage
from cryptoml.features import contract, engineer, joins, market, rolling
from cryptoml.features.contract import Feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.market import market_from_panel
from cryptoml.features.store.files import feature_table, read_stamp, serialise_features
from cryptoml.features.store.manifest import ItemStatus
from cryptoml.features.store.work_items import TablePart, WorkItem

__all__ = ["catalogue_hash", "run_item"]

SHARED_MODULES = (contract, rolling, joins, market, engineer)
BOOK_MARGIN = pd.Timedelta(days=1)
Stamp = dict[str, str | int | float | None]


def catalogue_hash(features: tuple[Feature, ...]) -> str:
    """Return a hash of features: their declarations, and the source of the modules that compute them."""
    digest = hashlib.sha256()
    for one in features:
        declared = (one.name, one.category, one.inputs, one.lookback, one.arguments, one.formula, one.input_run)
        digest.update(repr(declared).encode())
    names = {getattr(_plain(one), "__module__", "") for one in features} | {module.__name__ for module in SHARED_MODULES}
    for name in sorted(names):
        source = getattr(sys.modules.get(name), "__file__", None)
        digest.update(Path(source).read_bytes() if source and Path(source).is_file() else b"")
    return digest.hexdigest()[:32]


def _plain(one: Feature) -> object:
    return one.function.func if isinstance(one.function, partial) else one.function


def run_item(item: WorkItem, *, lake: Lake, out: Storage, engineer: AdvancedFeatureEngineer) -> ItemStatus:
    """Build one file of features unless it holds them already; an error becomes text so that other items go on.

    The file is up to date when its footer names the same rows of input and the same catalogue.
    """
    begun = time.perf_counter()
    status = ItemStatus(
        path=item.path,
        symbol=item.symbol,
        start=item.start,
        stop=item.stop,
        outcome="failed",
        catalogue=item.catalogue,
        signature=item.signature,
    )
    try:
        panel = _read_panel(lake, item)
        content = panel.fingerprint()
        stamp = read_stamp(out, item.path)
        kept = (stamp.get("catalogue"), stamp.get("content")) == (item.catalogue, content)
        if not kept:
            stamp = _build(panel, item, engineer, out, content)
        size = out.filesystem.get_file_info(out.path(item.path)).size
    except Exception as error:
        return status.model_copy(update={"error": f"{type(error).__name__}: {error}"})
    seconds = 0.0 if kept else time.perf_counter() - begun
    outcome = "kept" if kept else "built"
    return status.model_copy(update={**stamp, "outcome": outcome, "seconds": seconds, "num_bytes": size})


def _build(panel: Panel, item: WorkItem, engineer: AdvancedFeatureEngineer, out: Storage, content: str) -> Stamp:
    """Compute and publish; return what the footer says of the file."""
    tables = list((_own_tables if item.symbol else _market_tables)(panel, item, engineer))
    cells = sum(table.num_rows for table, _ in tables) * len(engineer.features if item.symbol else engineer.panel_features)
    missing = sum(count for _, count in tables)
    stamp: Stamp = {
        "catalogue": item.catalogue,
        "content": content,
        "rows": sum(table.num_rows for table, _ in tables),
        "nan_share": missing / cells if cells else None,
    }
    out.publish(item.path, serialise_features([table for table, _ in tables], stamp))
    return stamp


def _own_tables(panel: Panel, item: WorkItem, engineer: AdvancedFeatureEngineer) -> Iterator[tuple[pa.Table, int]]:
    """Yield the table of one symbol's existing bars of the stretch, and its number of missing values."""
    kept = panel.present[panel.index_of(item.symbol)] & (panel.timestamps >= pd.Timestamp(item.start))
    values = engineer.compute(bars_from_panel(panel, item.symbol))
    yield _table(panel, kept, engineer.symbol_names, values)


def _market_tables(panel: Panel, item: WorkItem, engineer: AdvancedFeatureEngineer) -> Iterator[tuple[pa.Table, int]]:
    """Yield for each symbol the table of its existing bars of the stretch, and its number of missing values."""
    values = engineer.compute_market(market_from_panel(panel))
    names = [one.name for one in engineer.panel_features]
    owner = pa.dictionary(pa.int32(), pa.string())
    for row, symbol in enumerate(panel.symbols):
        table, missing = _table(panel, panel.present[row] & (panel.timestamps >= pd.Timestamp(item.start)), names, values[row])
        symbols = pa.array([symbol] * table.num_rows, pa.string()).cast(owner)
        yield table.add_column(0, "symbol", symbols), missing


def _table(panel: Panel, kept: np.ndarray, names: list[str] | tuple[str, ...], values: np.ndarray) -> tuple[pa.Table, int]:
    rows = values if kept.all() else values[kept]
    return feature_table(panel.timestamps[kept], names, rows), int(np.isnan(rows).sum())


def _read_panel(lake: Lake, item: WorkItem) -> Panel:
    """Return the rows that an item reads: its stretch with the warm-up, and the tables known by its end."""
    if not item.symbol:
        return _read_candles(lake, item, item.peers, ["timestamp", "close", "volume"])
    panel = _read_candles(lake, item, (item.symbol, *item.peers), None)
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    for part in item.tables:
        tables.setdefault(part.table, {})[_table_key(part)] = _read_table(lake, part, item)
    return Panel(panel.symbols, panel.timeframe, panel.timestamps, panel.candles, tables)


def _read_table(lake: Lake, part: TablePart, item: WorkItem) -> pd.DataFrame:
    """Return the rows of a slower table that can matter; series that stay valid for days are read from their start."""
    spec, step = TABLES[part.table], parse_timeframe(item.timeframe)
    by_bar = spec in (ORDERBOOK, VENUE_CANDLES)
    since = pd.Timestamp(item.since) - max(BOOK_MARGIN, 3 * step) if by_bar else None
    return lake.read(spec, part.partition, since, pd.Timestamp(item.stop) + step)


def _table_key(part: TablePart) -> str:
    if part.table == ONCHAIN.name:
        return part.partition["asset"]
    symbol = part.partition["symbol"]
    return f"{part.partition['venue']}:{symbol}" if part.table == VENUE_CANDLES.name else symbol


def _read_candles(lake: Lake, item: WorkItem, symbols: tuple[str, ...], columns: list[str] | None) -> Panel:
    """Return candles of several symbols on one grid from `item.since` on; a symbol without rows is absent throughout."""
    parts = {}
    for symbol in symbols:
        frame = lake.read(CANDLES, {"timeframe": item.timeframe, "symbol": symbol}, item.since, item.stop, columns)
        if len(frame):
            prices = {} if columns is None else dict.fromkeys(("open", "high", "low"), frame["close"])
            parts[symbol] = panel_from_frames({symbol: frame.assign(**prices)}, item.timeframe)
    return _stacked(parts, symbols, item)


def _stacked(parts: Mapping[str, Panel], symbols: tuple[str, ...], item: WorkItem) -> Panel:
    if not parts:
        return Panel(symbols, item.timeframe, pd.DatetimeIndex([], tz="UTC").as_unit("us"), np.empty((len(symbols), 0, 8)))
    step = parse_timeframe(item.timeframe)
    first, last = (edge(part.timestamps[place] for part in parts.values()) for edge, place in ((min, 0), (max, -1)))
    first -= (first - item.since) // step * step
    grid = pd.date_range(first, last, freq=step, unit="us", name="timestamp")
    storage = np.full((len(CANDLE_FIELDS), len(symbols), len(grid)), np.nan)
    for row, symbol in enumerate(symbols):
        if symbol in parts:
            part = parts[symbol]
            place = (part.timestamps[0] - first) // step
            storage[:, row, place : place + part.num_bars] = part.candles[0].T
    return Panel(symbols, item.timeframe, grid, storage.transpose(1, 2, 0))
