"""Build a feature lake with Ray Data: each work item is a row, each task reads and writes its own files.

Nothing is shuffled and no feature passes through the object store. Items come largest first and a task takes one, so a
giant symbol is under way before the small ones fill the gaps.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cryptoml.distributed.items import Row, map_items
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import FeatureLakeReport, ItemStatus, WorkItem
from cryptoml.features.store import build_feature_lake as build
from cryptoml.features.store.build import CHUNK_BARS, ItemTask

__all__ = ["build_feature_lake", "run_on_ray"]


def build_feature_lake(
    lake: str | Path,
    out: str | Path,
    engineer: AdvancedFeatureEngineer,
    *,
    symbols: Sequence[str] = (),
    chunk_bars: int = CHUNK_BARS,
    retries: int = 1,
) -> FeatureLakeReport:
    """Bring a feature lake up to date on the connected cluster; see `cryptoml.features.store.build_feature_lake`.

    Both lakes must be where every node reaches them: a shared folder or `s3://`.
    """
    return build(lake, out, engineer, symbols=symbols, chunk_bars=chunk_bars, retries=retries, run=run_on_ray)


def run_on_ray(task: ItemTask, items: Sequence[WorkItem]) -> Iterator[ItemStatus]:
    """Run a task on every item over the connected cluster; an item whose workers keep dying has no status."""
    rows = [{"item": item.model_dump_json()} for item in items]
    for row in map_items(partial(_run_row, task=task), rows, "features"):
        yield ItemStatus.model_validate_json(row["status"])


def _run_row(row: Row, task: ItemTask) -> Row:
    return {"status": task(WorkItem.model_validate_json(row["item"])).model_dump_json()}
