"""Map a function over work items with Ray Data: one task per item, in the given order, nothing shuffled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
from tqdm import tqdm

__all__ = ["Row", "map_items"]

Row = dict[str, Any]
ANY_NUMBER = -1
MOST_STARTS = 3
PLACE = "_place"


def map_items(function: Callable[[Row], Row], rows: Sequence[Row], what: str) -> Iterator[Row]:
    """Yield `function(row)` of every row as tasks finish, one CPU each, under a progress bar.

    A row that ends its worker three times yields nothing and does not stop the others.

    Args:
        function: Must not raise.
        rows: Work items, largest first; small, for all of them lie in the object store.
        what: Label of the progress bar.
    """
    if not rows:
        return
    starts = ray.remote(num_cpus=0, max_restarts=ANY_NUMBER, max_task_retries=ANY_NUMBER)(_Starts).remote()
    placed = [{**row, PLACE: place} for place, row in enumerate(rows)]
    with ray.data.DataContext.current(_context()):
        items = ray.data.from_items(placed, override_num_blocks=len(placed))
        results = items.flat_map(partial(_run_bounded, function=function, starts=starts))
    with tqdm(total=len(rows), desc=what, unit="item", disable=None, leave=False) as bar:
        for row in results.iter_rows():
            bar.update()
            yield row


class _Starts:
    """Counts how often work on each item has begun, where the death of a worker cannot erase it.

    Ray Data starts the task of a dead worker again without end, so an item that always kills its worker would be run for ever.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, place: int) -> int:
        """Count one start of an item, and return how many there have been."""
        self._counts[place] = self._counts.get(place, 0) + 1
        return self._counts[place]


def _run_bounded(row: Row, function: Callable[[Row], Row], starts: Any) -> list[Row]:
    """Return the result of one row; none where it was begun too often without an end."""
    place = int(row.pop(PLACE))
    return [function(row)] if ray.get(starts.begin.remote(place)) <= MOST_STARTS else []


def _context() -> ray.data.DataContext:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = ANY_NUMBER
    return context
