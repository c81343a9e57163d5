"""What a file of features and a task of Ray cost here, for `benchmarks.scaling`."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import ray
from ray.cluster_utils import Cluster

from benchmarks.s3_requests import counting_s3
from cryptoml.data.lake import Lake
from cryptoml.data.lake_files import find_files, scan_symbols
from cryptoml.data.lake_panel import write_panel
from cryptoml.data.panel import Panel
from cryptoml.data.storage import Storage, open_storage
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed.items import TASK_SIZE, map_items
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store.compute import catalogue_hash, run_item
from cryptoml.features.store.work_items import WorkItem, symbol_items

__all__ = ["CPUS_PER_NODE", "Costs", "Done", "measure_files", "measure_scheduler", "pauses", "real_run"]

CPUS_PER_NODE = 2
TRIES = 2
CALLS = 500
MOMENT = 0.5
"""Seconds of a task that shows the pauses around it."""
STORE_BYTES = 1 << 27


@dataclass(frozen=True)
class Costs:
    """Seconds and requests.

    Attributes:
        row: Seconds of a worker per row of a symbol's features.
        file: Seconds of a worker per file, whatever its rows.
        reads: Requests to S3 per file that read or list.
        writes: Requests to S3 per file that write.
        row_bytes: Bytes of a row of candles in the market lake.
        start: Seconds until a job's first task begins.
        ramp: Seconds until the other workers have their first task: Ray Data learns after one of what the cluster holds.
        dispatch: Seconds of the driver per task.
        gap: Seconds between two tasks of a worker.
        call: Seconds of the ledger per file.
    """

    row: float
    file: float
    reads: float
    writes: float
    row_bytes: float = 0.0
    start: float = 0.0
    ramp: float = 0.0
    dispatch: float = 0.0
    gap: float = 0.0
    call: float = 0.0


def measure_files(*, quick: bool = False) -> tuple[Costs, int]:
    """Return what a file costs in this process, and the number of features."""
    engineer = AdvancedFeatureEngineer({"timeframe": "1m", "categories": ("price",) if quick else None})
    lengths = (2_000, 6_000) if quick else (10_000, 50_000)
    market = synthetic_market(MarketConfig(num_assets=2, num_bars=lengths[1], timeframe="1m", with_tables=False)).panel
    panel = market.select(market.symbols[:1])
    with tempfile.TemporaryDirectory() as folder:
        few, many = (_seconds(panel, f"{folder}/lake", f"{folder}/{length}", engineer, length) for length in lengths)
    row = (many - few) / (lengths[1] - lengths[0])
    with counting_s3("scaling") as (address, seen):
        write_panel(Lake(address.format("lake")), panel)
        lake, out = Lake(address.format("lake")), open_storage(address.format("out"))
        item = _item(lake, engineer, lengths[1])
        seen.clear()
        run_item(item, lake=lake, out=out, engineer=engineer)
        reads, writes = seen["GET"] + seen["HEAD"], seen["PUT"] + seen["POST"]
        files = [lake.storage.read(path) for path in lake.storage.list_files("candles", recursive=True)]
    row_bytes = sum(map(len, files)) / lengths[1]
    return Costs(row, max(0.0, few - lengths[0] * row), reads, writes, row_bytes), len(engineer.symbol_names)


def _seconds(panel: Panel, lake_folder: str, out_folder: str, engineer: AdvancedFeatureEngineer, rows: int) -> float:
    """Return the shortest of a few times to build a file of so many rows."""
    lake, out = Lake(lake_folder), open_storage(out_folder)
    write_panel(lake, panel)
    item, best = _item(lake, engineer, rows), float("inf")
    for _ in range(TRIES):
        best = min(best, _build(item, lake, out, engineer))
    return best


def _build(item: WorkItem, lake: Lake, out: Storage, engineer: AdvancedFeatureEngineer) -> float:
    out.remove(item.path)
    begun = time.perf_counter()
    status = run_item(item, lake=lake, out=out, engineer=engineer)
    assert not status.error, status.error
    return time.perf_counter() - begun


def _item(lake: Lake, engineer: AdvancedFeatureEngineer, rows: int) -> WorkItem:
    """Return the longest stretch of the lake's only symbol that has at most so many rows."""
    files = find_files(lake, "1m")
    (life,) = scan_symbols(files, files.symbols)
    assert not isinstance(life, str), life
    settings = {"chunk_bars": rows, "warm_up_bars": 0, "catalogue": catalogue_hash(engineer.features)}
    items = symbol_items(files, files.symbols[0], life, life[0][1], **settings)
    return max(items, key=lambda item: item.num_bars)


@contextmanager
def logical_nodes(count: int, cpus: int = CPUS_PER_NODE) -> Iterator[None]:
    """Give a real cluster of so many nodes on this machine, its workers started."""
    head = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count - 1):
        cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        _run([1.0] * (2 * cpus * count))
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True)
class Done:
    """A task that a worker has done, by the clock of the machine."""

    worker: str
    start: float
    stop: float


def _run(seconds: Sequence[float]) -> tuple[float, list[Done]]:
    """Return the wall time of tasks that sleep, mapped as the library maps its own, and them in order of their starts, from 0."""
    begun = time.time()
    rows = [json.loads(row) for row in map_items(_sleep, [str(one) for one in seconds], [TASK_SIZE] * len(seconds), "sleep")]
    wall = time.time() - begun
    assert len(rows) == len(seconds)
    return wall, sorted((Done(worker, start - begun, stop - begun) for worker, start, stop in rows), key=lambda task: task.start)


def _sleep(text: str) -> str:
    start = time.time()
    time.sleep(float(text))
    return json.dumps([ray.get_runtime_context().get_worker_id(), start, time.time()])


def real_run(seconds: Sequence[float], nodes: int) -> float:
    """Return the wall time of sleeping tasks on so many nodes."""
    with logical_nodes(nodes):
        return _run(list(seconds))[0]


def pauses(tasks: Sequence[Done]) -> tuple[float, float, float]:
    """Return the start of the first task, how much later the other workers have their first one, and the mean pause of a worker.

    Args:
        tasks: In order of their starts.
    """
    workers: dict[str, list[Done]] = {}
    for task in tasks:
        workers.setdefault(task.worker, []).append(task)
    start, *others = (own[0].start for own in workers.values())
    rests = [after.start - before.stop for own in workers.values() for before, after in pairwise(own)]
    return start, float(np.mean([other - start for other in others] or [0.0])), float(np.mean(rests or [0.0]))


class _Ledger:
    def begin(self, place: int) -> int:
        """Answer, as the library's ledger does."""
        return place


def measure_scheduler(costs: Costs, num_tasks: int) -> Costs:
    """Return the costs with those of Ray.

    Tasks of a moment on two workers show when these have their first one and how long they rest between two; empty ones on eight
    how fast the driver hands tasks out, once it knows of all workers.
    """
    with logical_nodes(1):
        start, ramp, gap = pauses(_run([MOMENT] * num_tasks)[1])
    with logical_nodes(2, cpus=4):
        _, empty = _run([0.0] * (5 * num_tasks))
        starts = [task.start for task in empty if task.start > empty[0].start + 1.5 * ramp]
        dispatch = (starts[-1] - starts[0]) / (len(starts) - 1)
        ledger = ray.remote(num_cpus=0)(_Ledger).remote()
        ray.get(ledger.begin.remote(0))
        begun = time.perf_counter()
        ray.get([ledger.begin.remote(place) for place in range(CALLS)])
        call = 2 * (time.perf_counter() - begun) / CALLS  # an item begins and finishes
    return replace(costs, start=start, ramp=ramp, dispatch=dispatch, gap=gap, call=call)
