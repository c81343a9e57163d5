"""How the feature lake scales to 1,000 workers and 5,000 symbols of minutes: measured tasks replayed through a model.

python -m benchmarks.scaling [--quick] [--no-check]

What one file of features costs is measured here: seconds of a worker, requests to S3, the driver's part and the ledger's. A
model of the scheduler, one driver that hands out tasks one after the other, largest first, to the worker that is free first,
is checked against real clusters of 1, 2 and 4 logical nodes whose tasks sleep for such times. It is then replayed for the
large market, with the demand on every shared part beside what that part bears.
"""

import heapq
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import tyro

from benchmarks.bars import Bar, report
from benchmarks.scaling_costs import CPUS_PER_NODE, Costs, measure_files, measure_scheduler, real_run
from cryptoml.distributed.items import share_out
from cryptoml.features.store.build import CHUNK_BARS
from cryptoml.features.store.work_items import market_bars

__all__ = ["Market", "ScalingArguments", "demands", "main", "makespan"]

MODEL_ERROR = 0.15
"""Share of a real run's time by which the model may miss it."""
MINUTES_PER_YEAR = 365.25 * 24 * 60

# What shared parts bear, as their makers state.
S3_READS, S3_WRITES = 5_500.0, 3_500.0
"""Requests a second and prefix: Amazon S3 user guide, "Best practices design patterns: optimizing performance"."""
TASKS_PER_SECOND = 10_000.0
"""Over a whole cluster, of which Ray's release tests schedule this order (release/benchmarks/distributed, many_tasks)."""
OBJECT_STORE_SHARE, NODE_CPUS, NODE_BYTES, DRIVER_BYTES = 0.3, 16, 64 * 2**30, 8 * 2**30
NODE_NETWORK = 1.5e9
"""Bytes a second of a node with 12.5 Gbit/s."""
MONTH_BARS = 30 * 24 * 60
"""Bars of a file of the market lake, which is read whole."""
STATUS_BYTES = 2_000.0
"""What the driver keeps of a file: its item, its status, its line in the books."""


@dataclass(frozen=True)
class ScalingArguments:
    """Measure, check and replay.

    Exit code: 0 where the model meets the real runs, else 1.
    """

    workers: int = 1_000
    """Workers of one CPU."""
    symbols: int = 5_000
    """Symbols, all of the same length."""
    years: float = 5.0
    """Length of the market in minutes' bars."""
    tasks: int = 32
    """Tasks of each real run."""
    check: bool = True
    """Compare the model with real clusters."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Few features and tasks, for a test."""


@dataclass(frozen=True)
class Market:
    """A lake to build.

    Attributes:
        symbols: All of the same length.
        rows: Bars of each symbol.
        chunk_bars: Bars of a file.
        features: Numbers of a row.
    """

    symbols: int
    rows: int
    chunk_bars: int
    features: int

    @property
    def file_rows(self) -> np.ndarray:
        """Rows of each file, largest first."""
        whole, rest = divmod(self.rows, self.chunk_bars)
        return np.repeat([self.chunk_bars, *([rest] if rest else [])], [self.symbols * whole, *([self.symbols] if rest else [])])

    def tasks(self, costs: Costs, workers: int) -> list[float]:
        """Return the seconds of each task, files shared out as the library does."""
        ends = np.concatenate([[0.0], np.cumsum(self.file_rows * costs.row + costs.file)])
        spans = share_out([int(rows) for rows in self.file_rows], num_cpus=workers)
        return [float(ends[stop] - ends[start]) for start, stop in spans]


def makespan(tasks: Sequence[float], workers: int, costs: Costs) -> float:
    """Return when the last task ends: each is handed out after `dispatch`, to a worker that has rested for `gap` since its last.

    All workers but one have their first task later by `ramp`.
    """
    free = [costs.start] + [costs.start + costs.ramp] * (workers - 1)
    handed = end = costs.start
    for seconds in tasks:
        handed += costs.dispatch
        done = max(handed, free[0]) + seconds
        heapq.heapreplace(free, done + costs.gap)
        end = max(end, done)
    return end


def demands(market: Market, costs: Costs, workers: int) -> dict[str, tuple[float, str]]:
    """Return for each shared part its load, 1 being all that it bears while the workers compute, and what is done about it."""
    tasks, files = market.tasks(costs, workers), len(market.file_rows)
    compute = sum(tasks) / workers
    reads, writes = files * costs.reads / compute, files * costs.writes / compute
    store = workers / NODE_CPUS * NODE_BYTES * OBJECT_STORE_SHARE
    features = market.symbols * market.rows * market.features * 4
    across = market.symbols * market.rows * costs.row_bytes * MONTH_BARS / market_bars(market.symbols)
    network = workers / NODE_CPUS * NODE_NETWORK * compute
    return {
        "driver: handing out tasks": (
            len(tasks) * costs.dispatch / compute,
            "several files a task; jobs over parts of the symbols",
        ),
        "driver: memory": (files * STATUS_BYTES / DRIVER_BYTES, "longer files (chunk_bars); a status is all that comes back"),
        "ledger: calls of tasks": (files * costs.call / compute, "longer files; a ledger for each job"),
        "GCS: tasks": (len(tasks) / compute / TASKS_PER_SECOND, "several files a task"),
        "S3: reads, all in one prefix": (reads / S3_READS, "a prefix a symbol, retries that wait longer"),
        "S3: reads, a prefix a symbol": (reads / S3_READS / market.symbols, "as laid out"),
        "S3: writes, all in one prefix": (writes / S3_WRITES, "a prefix a symbol, retries that wait longer"),
        "network: files read for the cross-section": (across / network, "longer stretches; its stretches read whole months"),
        "object store, if features passed it": (features / store, "they do not: tasks read and write files"),
        "object store, as it is": (files * STATUS_BYTES / store, "items and statuses alone"),
    }


def check(costs: Costs, num_tasks: int) -> list[Bar]:
    """Compare the model with real runs whose tasks sleep, on 1, 2 and 4 logical nodes."""
    lengths = np.sort(np.random.default_rng(0).uniform(0.5, 2.0, num_tasks))[::-1]
    bars = []
    for nodes in (1, 2, 4):
        real, expected = real_run(lengths, nodes), makespan(list(lengths), nodes * CPUS_PER_NODE, costs)
        note = f"{real:.1f} s real, {expected:.1f} s by the model"
        bars.append(Bar(f"model / real run, {nodes} nodes", expected / real, 1 - MODEL_ERROR, 1 + MODEL_ERROR, note))
    return bars


def replay(arguments: ScalingArguments, costs: Costs, features: int) -> list[Bar]:
    """Return the large market's time by one job and by as many as spread the driver's load, and the load of each part."""
    market = Market(arguments.symbols, int(arguments.years * MINUTES_PER_YEAR), CHUNK_BARS, features)
    tasks = market.tasks(costs, arguments.workers)
    total, compute = makespan(tasks, arguments.workers, costs), sum(tasks) / arguments.workers
    loads = sorted(demands(market, costs, arguments.workers).items(), key=lambda one: -one[1][0])
    jobs = max(1, math.ceil(2 * len(tasks) * costs.dispatch / compute))
    part = replace(market, symbols=math.ceil(market.symbols / jobs))
    workers = arguments.workers // jobs
    spread = makespan(part.tasks(costs, workers), workers, costs)
    return [
        Bar("large market: hours of a worker", sum(tasks) / 3600, note=f"{market.symbols} symbols x {market.rows} bars"),
        Bar("large market: minutes", total / 60, note=f"{len(tasks)} tasks, {len(market.file_rows)} files"),
        Bar("large market: share of the workers' time in use", compute / total),
        Bar("large market: minutes, several jobs side by side", spread / 60, note=f"{jobs} jobs, each a part of the symbols"),
        *(Bar(f"load {place}. {name}", load, note=answer) for place, (name, (load, answer)) in enumerate(loads, start=1)),
    ]


def main(arguments: ScalingArguments) -> int:
    """Run the benchmark and return the exit code."""
    begun = time.monotonic()
    costs, features = measure_files(quick=arguments.quick)
    costs = measure_scheduler(costs, 16 if arguments.quick else 40)
    bars = [
        Bar("microseconds of a worker a row", 1e6 * costs.row, note=f"{features} features"),
        Bar("milliseconds of a worker a file", 1e3 * costs.file),
        Bar("seconds until the first task", costs.start),
        Bar("seconds until the other workers have one", costs.ramp),
        Bar("milliseconds of the driver a task", 1e3 * costs.dispatch),
        Bar("milliseconds of a worker between tasks", 1e3 * costs.gap),
        Bar("milliseconds of the ledger a file", 1e3 * costs.call),
        Bar("S3 reads and listings a file", costs.reads),
        Bar("S3 writes a file", costs.writes),
    ]
    if arguments.check:
        bars += check(costs, arguments.tasks)
    bars += replay(arguments, costs, features)
    sys.stderr.write(f"measured in {time.monotonic() - begun:.0f} s\n")
    return report("Scaling of the feature lake", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(ScalingArguments, prog="python -m benchmarks.scaling")))
