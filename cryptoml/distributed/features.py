"""Feature engineering over symbols and time with Ray Data: each task reads and writes its own files.

Nothing is shuffled, and neither candles nor features pass through the object store. Items come largest first and the last tasks
take one each, so a giant symbol is under way before the small ones fill the gaps. By the feature contract the result equals the
plain one for any length of stretch.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cryptoml.data.lake import Lake
from cryptoml.data.lake_panel import write_panel
from cryptoml.data.panel import Panel
from cryptoml.data.storage import folder_below
from cryptoml.distributed.items import map_items
from cryptoml.errors import DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, FeaturePanel
from cryptoml.features.store import FeatureLakeReport, ItemStatus, WorkItem, read_feature_panel
from cryptoml.features.store import build_feature_lake as build
from cryptoml.features.store.build import ItemTask

__all__ = ["build_feature_lake", "build_features", "run_on_ray"]


def build_feature_lake(
    lake: str | Path,
    out: str | Path,
    engineer: AdvancedFeatureEngineer,
    *,
    symbols: Sequence[str] = (),
    chunk_bars: int | None = None,
    retries: int = 1,
) -> FeatureLakeReport:
    """Bring a feature lake up to date on the connected cluster; see `cryptoml.features.store.build_feature_lake`.

    Both lakes must be where every node reaches them: a shared folder or `s3://`.
    """
    return build(lake, out, engineer, symbols=symbols, chunk_bars=chunk_bars, retries=retries, run=run_on_ray)


def build_features(panel: Panel, config: FeatureConfig, folder: str | Path, *, chunk_bars: int | None = None) -> FeaturePanel:
    """Compute all features of a panel on the cluster, through a lake of its candles and tables.

    Args:
        panel: Candles and tables.
        config: The features.
        folder: Where the lakes go, local or `s3://`; every node must reach it. A second call with the same panel goes on
            where the first one stopped.
        chunk_bars: Bars of one symbol per task and file; see `cryptoml.features.store.build_feature_lake`.

    Raises:
        DataError: A work item failed; the message names the symbol and the error.
    """
    rows = np.flatnonzero(panel.present.any(axis=1))
    listed, engineer = panel.select([panel.symbols[row] for row in rows]), AdvancedFeatureEngineer(config)
    market, out = (folder_below(folder, f"{listed.fingerprint()[:16]}/{name}") for name in ("market", "features"))
    write_panel(Lake(market), listed)
    report = build_feature_lake(market, out, engineer, symbols=listed.symbols, chunk_bars=chunk_bars)
    if report.failed:
        raise DataError(f"features of {report.failed[0].symbol or 'the cross-section'}: {report.failed[0].error}")
    found = read_feature_panel(out, panel.timeframe, listed.symbols)
    if found.values.shape[:2] == panel.present.shape:
        return found
    values = np.full((*panel.present.shape, len(found.names)), np.nan, np.float32)
    values[np.ix_(rows, panel.timestamps.get_indexer(found.timestamps))] = found.values
    return FeaturePanel(values, found.names, panel.symbols, panel.timestamps, panel.timeframe)


def run_on_ray(task: ItemTask, items: Sequence[WorkItem]) -> Iterator[ItemStatus]:
    """Run a task on every item over the connected cluster; an item whose workers keep dying has no status."""
    texts, sizes = [item.model_dump_json() for item in items], [item.num_bars for item in items]
    for status in map_items(partial(_run_item, task=task), texts, sizes, "features"):
        yield ItemStatus.model_validate_json(status)


def _run_item(text: str, task: ItemTask) -> str:
    return task(WorkItem.model_validate_json(text)).model_dump_json()
