"""Map a function over work items with Ray Data: one task per item, in the given order, nothing shuffled."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.util.annotations import RayDeprecationWarning
from tqdm import tqdm

__all__ = ["Row", "map_items"]

Row = dict[str, Any]
ANY_NUMBER = -1
WORKER_DEATHS = 2


def map_items(function: Callable[[Row], Row], rows: Sequence[Row], what: str) -> Iterator[Row]:
    """Yield `function(row)` of every row as tasks finish, one CPU each, under a progress bar.

    A row that ends its worker three times yields nothing and does not stop the others.

    Args:
        function: Must not raise: an error would look like a dead worker.
        rows: Work items, largest first.
        what: Label of the progress bar.
    """
    if not rows:
        return
    with ray.data.DataContext.current(_context()):
        dataset = _mapped(ray.data.from_items(list(rows), override_num_blocks=len(rows)), function)
    with tqdm(total=len(rows), desc=what, unit="item", disable=None, leave=False) as bar:
        for row in dataset.iter_rows():
            bar.update()
            yield row


def _context() -> ray.data.DataContext:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = ANY_NUMBER
    return context


def _mapped(dataset: ray.data.Dataset, function: Callable[[Row], Row]) -> ray.data.Dataset:
    """Map with a bound on dead workers: left alone, Ray Data runs an item for ever that kills every worker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # 2.60 has no other way to say so
        return dataset.map(function, max_retries=WORKER_DEATHS)
