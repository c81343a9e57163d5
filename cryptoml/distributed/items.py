"""Map a function over work items with Ray Data: a task takes a few items in the given order, nothing shuffled."""

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import ray
from tqdm import tqdm

__all__ = ["map_items"]

Item = str
Result = str
ANY_NUMBER = -1
MOST_STARTS = 3
TASK_SIZE = 200_000
"""Most of what one task takes: bars for two or three seconds of features, against the 0.1 to 0.2 s between two tasks."""
TASKS_LEFT_PER_CPU = 2


def map_items(function: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int], what: str) -> Iterator[Result]:
    """Yield `function(item)` of every item as tasks finish, one CPU each, under a progress bar.

    An item that ends its worker three times yields nothing and does not stop the others.

    Args:
        function: From text to text; must not raise.
        items: Work, largest first, as short texts: they lie in the object store.
        sizes: Bars of each item.
        what: Label of the progress bar.
    """
    if not items:
        return
    ledger, call = _ledger(), uuid.uuid4().hex
    spans = share_out(sizes, num_cpus=int(ray.cluster_resources().get("CPU", 1)))
    tasks = [{"start": start, "items": json.dumps(items[start:stop])} for start, stop in spans]
    with ray.data.DataContext.current(_context()):
        blocks = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        results = blocks.flat_map(partial(_run_task, function=function, ledger=ledger, call=call))
    with tqdm(total=len(items), desc=what, unit="item", disable=None, leave=False) as bar:
        for row in results.iter_rows():
            bar.update()
            yield row["result"]
    ledger.forget.remote(call)


def share_out(sizes: Sequence[int], *, num_cpus: int) -> list[tuple[int, int]]:
    """Return the half-open spans of items that tasks take: many together at first, single ones at the end.

    A task takes its share of what is left, so that all CPUs end together (guided self-scheduling: Polychronopoulos and Kuck
    1987), but no more than `TASK_SIZE` unless one item alone is larger.
    """
    spans, start, left = [], 0, sum(sizes)
    while start < len(sizes):
        room, stop, taken = min(TASK_SIZE, left / (TASKS_LEFT_PER_CPU * max(num_cpus, 1))), start + 1, sizes[start]
        while stop < len(sizes) and taken + sizes[stop] <= room:
            taken, stop = taken + sizes[stop], stop + 1
        spans.append((start, stop))
        start, left = stop, left - taken
    return spans


class _Ledger:
    """Keeps starts and results of items where the death of a worker cannot erase them.

    Ray Data starts the task of a dead worker again without end, so an item that always kills its worker would be run for ever,
    and the items before it again each time.
    """

    def __init__(self) -> None:
        self._starts: dict[str, Counter[int]] = defaultdict(Counter)
        self._results: dict[str, dict[int, Result]] = defaultdict(dict)

    def begin(self, call: str, place: int) -> tuple[int, Result | None]:
        """Count one start of an item; return how many there have been, and the result of an earlier one."""
        self._starts[call][place] += 1
        return self._starts[call][place], self._results[call].get(place)

    def finish(self, call: str, place: int, result: Result) -> None:
        """Keep the result of an item."""
        self._results[call][place] = result

    def forget(self, call: str) -> None:
        """Drop what belongs to a call that is over."""
        self._starts.pop(call, None)
        self._results.pop(call, None)


def _ledger() -> Any:
    """Return the ledger of this driver, started once: a process, and half a second to a second."""
    context = ray.get_runtime_context()
    return _ledger_of(context.get_node_id(), context.get_job_id())


@lru_cache(maxsize=1)
def _ledger_of(node: str, job: str) -> Any:
    """Keep the handle, without which Ray would end the ledger; every new private cluster calls its first job the same."""
    return ray.remote(num_cpus=0, max_restarts=ANY_NUMBER, max_task_retries=ANY_NUMBER)(_Ledger).remote()


def _run_task(row: dict[str, Any], function: Callable[[Item], Result], ledger: Any, call: str) -> list[dict[str, Result]]:
    """Return the results of the items of one task, without those that were begun too often and never ended."""
    places = enumerate(json.loads(row["items"]), start=int(row["start"]))
    results = (_run_item(place, item, function, ledger, call) for place, item in places)
    return [{"result": result} for result in results if result is not None]


def _run_item(place: int, item: Item, function: Callable[[Item], Result], ledger: Any, call: str) -> Result | None:
    starts, result = ray.get(ledger.begin.remote(call, place))
    if result is None and starts <= MOST_STARTS:
        result = function(item)
        ray.get(ledger.finish.remote(call, place, result))
    return result


def _context() -> ray.data.DataContext:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = ANY_NUMBER
    return context
