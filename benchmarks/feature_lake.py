"""The feature lake on Ray Data against a plain pool of processes: wall time, growth with symbols, one giant symbol.

python -m benchmarks.feature_lake [--small]

Every build reads a market lake and writes a feature lake with all features of candles; the pool maps the same plain
function over the same items, largest first. The start of the Ray cluster is left out, the tasks are not. A cold cluster
has just started: its workers still import the library. A warm one has built before.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.features import run_on_ray
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import ItemStatus, WorkItem, build_feature_lake
from cryptoml.features.store.build import ItemTask, RunItems

__all__ = ["Arguments", "main"]

CORES = 2
TEMPLATES = 10
GIANT = 20

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Arguments:
    """Measure the feature lake on two cores and print ratios; everything lies in a temporary folder."""

    small: bool = False
    """A quick run that proves nothing but that it works."""
    folder: Path | None = None
    """Where to make the temporary folder: 20 GB of free space for a full run."""
    repeats: int = 2
    """Builds per measurement; the fastest counts."""
    parts: tuple[Literal["pool", "growth", "giant"], ...] = ("pool", "growth", "giant")
    """What to measure."""


@dataclass(frozen=True)
class Sizes:
    """Symbols and bars of the measured lakes."""

    bars: int = 50_000
    symbols: int = 40
    few: int = 10
    many: int = 200
    short_bars: int = 20_000


SMALL = Sizes(bars=4_000, symbols=6, few=2, many=8, short_bars=2_000)


def main(arguments: Arguments) -> int:
    """Run the measurements and print each ratio as it is known."""
    sizes = SMALL if arguments.small else Sizes()
    measures = {"pool": _against_pool, "growth": _growth, "giant": _giant}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            for row in measures[part](Path(place), sizes, arguments.repeats):
                sys.stdout.write("{:<75} {:>10}   {}\n".format(*row))
                sys.stdout.flush()
    return 0


def _against_pool(place: Path, sizes: Sizes, repeats: int) -> Iterator[Row]:
    """Compare the same items run by a pool of processes and by Ray Data."""
    lake = _market_lake(place / "lake", [sizes.bars] * sizes.symbols)
    with _pool() as run_on_pool:
        pool, _ = _best(lake, place, run_on_pool, repeats)
    yield f"pool of {CORES} processes, {sizes.symbols} symbols x {sizes.bars} bars", f"{pool:.1f} s", ""
    with cluster(num_cpus=CORES):
        cold, _ = _best(lake, place, run_on_ray, 1)
        yield "Ray Data on a cold cluster / pool", f"{cold / pool:.2f}", "<= 1.30"
        warm, _ = _best(lake, place, run_on_ray, repeats)
        yield "Ray Data on a warm cluster / pool", f"{warm / pool:.2f}", "<= 1.30"


def _growth(place: Path, sizes: Sizes, repeats: int) -> Iterator[Row]:
    """Compare the cost per row of few and of many symbols."""
    cost = {}
    with cluster(num_cpus=CORES):
        for count in (sizes.few, sizes.many):
            lake = _market_lake(place / f"of_{count}", [sizes.bars] * count)
            if not cost:
                _best(lake, place, run_on_ray, 1)  # workers import the library
            seconds, rows = _best(lake, place, run_on_ray, repeats)
            cost[count] = seconds / rows
            yield f"cost per row of {count} symbols", f"{1e6 * cost[count]:.2f} us", ""
    yield (
        f"cost per row, {sizes.many} symbols / {sizes.few} symbols",
        f"{cost[sizes.many] / cost[sizes.few]:.2f}",
        "0.85 to 1.15",
    )


def _giant(place: Path, sizes: Sizes, repeats: int) -> Iterator[Row]:
    """Compare the cost per row of equal symbols, and of as many rows of which one symbol has `GIANT` times the share."""
    others = [sizes.short_bars] * GIANT
    lakes = [
        _market_lake(place / "level", others * 2),
        _market_lake(place / "giant", [GIANT * sizes.short_bars, *others]),
    ]
    with cluster(num_cpus=CORES):
        _best(lakes[0], place, run_on_ray, 1)  # workers import the library
        costs = [seconds / rows for seconds, rows in (_best(lake, place, run_on_ray, repeats) for lake in lakes)]
    yield (
        f"cost per row, {GIANT} symbols and one {GIANT} times larger / {2 * GIANT} equal symbols",
        f"{costs[1] / costs[0]:.2f}",
        "<= 1.15",
    )


def _best(lake: Path, place: Path, run: RunItems, repeats: int) -> tuple[float, int]:
    """Return the fewest seconds of several whole builds, and the number of rows of symbols' own features that each wrote."""
    engineer, seconds, rows = AdvancedFeatureEngineer(), [], 0
    for _ in range(repeats):
        out = place / "features"
        begun = time.perf_counter()
        report = build_feature_lake(lake, out, engineer, run=run)
        seconds.append(time.perf_counter() - begun)
        shutil.rmtree(out)
        assert not report.failed, report.failed[0].error
        rows = sum(status.rows for status in report.statuses if status.symbol)
    return min(seconds), rows


@contextmanager
def _pool() -> Iterator[RunItems]:
    with ProcessPoolExecutor(CORES) as pool:
        yield partial(_run_on_pool, pool)


def _run_on_pool(pool: ProcessPoolExecutor, task: ItemTask, items: Sequence[WorkItem]) -> Iterable[ItemStatus]:
    return (future.result() for future in as_completed([pool.submit(task, item) for item in items]))


def _market_lake(folder: Path, bars: Sequence[int]) -> Path:
    """Write a lake with a symbol for each number of bars, all ending at one instant; the first is BTCUSDT.

    The built-in market makes ten symbols; further ones repeat their candles.
    """
    config = MarketConfig(num_assets=min(TEMPLATES, len(bars)), num_bars=max(bars), with_tables=False)
    panel = synthetic_market(config).panel
    frames = [panel.frame(symbol).astype({"num_trades": "int64"}) for symbol in panel.symbols]
    lake = Lake(folder)
    for index, count in enumerate(bars):
        symbol = "BTCUSDT" if index == 0 else f"C{index:03d}USDT"
        lake.append(CANDLES, {"timeframe": "1h", "symbol": symbol}, frames[index % len(frames)].iloc[-count:])
    return folder


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m benchmarks.feature_lake")))
