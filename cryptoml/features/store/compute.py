"""Compute one work item: read its candles and tables from the market lake, write its file of features."""

import hashlib
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cryptoml.data import bar_tables, lake_tables
from cryptoml.data.lake import Lake
from cryptoml.data.lake_tables import read_tables
from cryptoml.data.panel import Panel, panel_on_grid
from cryptoml.data.schema import CANDLES
from cryptoml.data.storage import Storage
from cryptoml.features import contract, engineer, joins, market, rolling
from cryptoml.features.contract import Feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.market import market_from_panel
from cryptoml.features.store.files import feature_table, read_stamp, serialise_features
from cryptoml.features.store.manifest import ItemStatus
from cryptoml.features.store.work_items import WorkItem

__all__ = ["catalogue_hash", "run_item"]

SHARED_MODULES = (contract, rolling, joins, market, engineer, bar_tables, lake_tables)
MARKET_COLUMNS = ("timestamp", "high", "low", "close", "volume")
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
    """Return the rows that an item reads: its stretch with the warm-up, and what was known beside them by its end."""
    columns = None if item.symbol else MARKET_COLUMNS
    since, stop = pd.Timestamp(item.since), pd.Timestamp(item.stop)
    frames = {
        symbol: lake.read(CANDLES, {"timeframe": item.timeframe, "symbol": symbol}, since, stop, columns)
        for symbol in item.peers or (item.symbol,)
    }
    tables = read_tables(lake, item.tables, item.timeframe, since, stop)
    return panel_on_grid(frames, item.timeframe, since, stop, tables)
