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

import pandas as pd
import tyro

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.feature_lake import run_on_ray
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import ItemStatus, WorkItem, build_feature_lake
from cryptoml.features.store.build import ItemTask, RunItems

__all__ = ["Arguments", "main"]

CORES = 2
TEMPLATES = 10
GIANT = 20


@dataclass(frozen=True)
class Arguments:
    """Measure the feature lake on two cores and print ratios; everything lies in a temporary folder."""

    small: bool = False
    """A quick run that proves nothing but that it works."""
    folder: Path | None = None
    """Where to make the temporary folder: 20 GB of free space for a full run."""
    repeats: int = 2
    """Builds per measurement; the fastest counts."""


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
    """Run all measurements, print the table of ratios."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        rows = _measure(Path(place), SMALL if arguments.small else Sizes(), arguments.repeats)
    table = pd.DataFrame(rows, columns=["what", "measured", "bar"])
    sys.stdout.write(f"{table.to_string(index=False)}\n")
    return 0


def _measure(place: Path, sizes: Sizes, repeats: int) -> list[tuple[str, str, str]]:
    equal = _market_lake(place / "equal", [sizes.bars] * sizes.symbols)
    with _pool() as run_on_pool:
        pool, _ = _best(equal, place, run_on_pool, repeats)
    with cluster(num_cpus=CORES):
        cold, _ = _best(equal, place, run_on_ray, 1)
        warm, _ = _best(equal, place, run_on_ray, repeats)
        rows = [
            (f"pool of {CORES} processes, {sizes.symbols} symbols x {sizes.bars} bars", f"{pool:.1f} s", ""),
            ("Ray Data on a cold cluster / pool", f"{cold / pool:.2f}", "<= 1.30"),
            ("Ray Data on a warm cluster / pool", f"{warm / pool:.2f}", "<= 1.30"),
        ]
        rows += _growth(place, sizes, repeats)
        rows += _giant(place, sizes, repeats)
    return rows


def _growth(place: Path, sizes: Sizes, repeats: int) -> list[tuple[str, str, str]]:
    """Compare the cost per row of few and of many symbols."""
    cost = {}
    for count in (sizes.few, sizes.many):
        lake = _market_lake(place / f"of_{count}", [sizes.bars] * count)
        seconds, rows = _best(lake, place, run_on_ray, repeats)
        cost[count] = seconds / rows
        shutil.rmtree(lake)
    ratio = cost[sizes.many] / cost[sizes.few]
    label = f"cost per row, {sizes.many} symbols / {sizes.few} symbols"
    return [
        (f"cost per row of {sizes.few} symbols", f"{1e6 * cost[sizes.few]:.2f} us", ""),
        (label, f"{ratio:.2f}", "0.85 to 1.15"),
    ]


def _giant(place: Path, sizes: Sizes, repeats: int) -> list[tuple[str, str, str]]:
    """Compare the cost per row with one symbol of `GIANT` times the bars of the others, and without it."""
    others = [sizes.short_bars] * GIANT
    level = _market_lake(place / "level", others * 2)
    with_giant = _market_lake(place / "giant", [GIANT * sizes.short_bars, *others])
    costs = [seconds / rows for seconds, rows in (_best(lake, place, run_on_ray, repeats) for lake in (level, with_giant))]
    label = f"cost per row, {GIANT} symbols and one {GIANT} times larger / {2 * GIANT} equal symbols"
    return [(label, f"{costs[1] / costs[0]:.2f}", "<= 1.15")]


def _best(lake: Path, place: Path, run: RunItems, repeats: int) -> tuple[float, int]:
    """Return the fewest seconds of several whole builds, and the number of rows of one symbol's kind that each wrote."""
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
