"""Build a feature lake with Ray Data: each work item is a row, each task reads and writes its own files.

Nothing is shuffled and no feature passes through the object store. Items come largest first and a task takes one, so a
giant symbol is under way before the small ones fill the gaps.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.annotations import RayDeprecationWarning
from tqdm import tqdm

from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import FeatureLakeReport, ItemStatus, WorkItem
from cryptoml.features.store import build_feature_lake as build
from cryptoml.features.store.build import CHUNK_BARS, ItemTask

__all__ = ["build_feature_lake", "run_on_ray"]

ANY_NUMBER = -1
WORKER_DEATHS = 2


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
    """Run a task on every item over the connected cluster, one CPU each; an item whose worker keeps dying has no status."""
    if not items:
        return
    rows = [{"item": item.model_dump_json()} for item in items]
    with ray.data.DataContext.current(_context()):
        dataset = _mapped(ray.data.from_items(rows, override_num_blocks=len(rows)), partial(_run_row, task=task))
    with tqdm(total=len(rows), desc="features", unit="item", disable=None, leave=False) as bar:
        for row in dataset.iter_rows():
            bar.update()
            yield ItemStatus.model_validate_json(row["status"])


def _context() -> ray.data.DataContext:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = ANY_NUMBER
    return context


def _mapped(rows: ray.data.Dataset, function: Callable[[dict[str, Any]], dict[str, str]]) -> ray.data.Dataset:
    """Map with a bound on dead workers: left alone, Ray Data runs an item for ever that kills every worker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # 2.60 has no other way to say so
        return rows.map(function, max_retries=WORKER_DEATHS)


def _run_row(row: dict[str, Any], task: ItemTask) -> dict[str, str]:
    return {"status": task(WorkItem.model_validate_json(row["item"])).model_dump_json()}
