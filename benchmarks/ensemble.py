"""An ensemble of three on two cores: side by side on Ray Train against one after the other.

python -m benchmarks.ensemble [--small]

Both parts fit the same members on the same fold with one thread each, through the same function and storage; only the
number of members at once differs. Each part has a fresh cluster, whose start is left out; that of the workers, which
import the library, is not. The members differ in architecture, seed and feature groups, and take about as long as each
other: no order can end before the longest of them, so that its share of the sum, shown below, is a floor of the ratio.

With a GPU, `--gpus 0.33` lets the members share it by fractions and prints its utilisation.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import ray
import torch
import tyro

from benchmarks.bars import Bar, report
from cryptoml.config import ExperimentConfig, preset
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.training import WorkerConfig, fit_members
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.targets import make_targets
from cryptoml.pipeline import open_market, plan_folds
from cryptoml.training.fold import scale_fold
from cryptoml.training.member import FittedMember, FoldData, MemberTask

__all__ = ["Arguments", "main"]

CORES = 2
WATCH_SECONDS = 5.0  # reading the memory of a process takes a part of a core, which members side by side lack
CANDLES = ("price", "volume", "volatility", "momentum")
MEMBERS = (
    {"name": "tft", "architecture": "tft", "hidden_size": 16, "num_heads": 2, "variable_size": 4},
    {"name": "tcn", "architecture": "tcn", "hidden_size": 64, "seed": 1, "feature_groups": CANDLES},
    {"name": "patch", "architecture": "patch", "hidden_size": 64, "seed": 2},
)


@dataclass(frozen=True)
class Arguments:
    """Measure members side by side against one after the other; everything lies in a temporary folder."""

    small: bool = False
    """A quick run that proves nothing but that it works."""
    epochs: int = 10
    """Epochs of each member; none stops early."""
    gpus: float = 0.0
    """GPUs of each member."""


@dataclass(frozen=True)
class Measured:
    """One way to fit the members.

    Attributes:
        seconds: Wall time of the whole submission.
        private_mb: Largest memory that one member's process had for itself.
        stored_mb: What the object store held at most.
    """

    fitted: list[FittedMember]
    seconds: float
    private_mb: float
    stored_mb: float


def main(arguments: Arguments) -> int:
    """Run both parts and print the table; the exit code is 1 where the bar is missed."""
    torch.set_num_threads(1)
    data, tasks = _members(arguments)
    with cluster(num_cpus=CORES), _utilisation(arguments.gpus) as used:
        together = _measured(data, tasks, arguments.gpus)
    with cluster(num_cpus=CORES):
        one_by_one = _measured(data, tasks, arguments.gpus, max_concurrent=1)
    for left, right in zip(together.fitted, one_by_one.fitted, strict=True):
        assert abs(left.validation_loss - right.validation_loss) < 1e-3, f"{left.name} came out differently"
    shown = report("ensemble of 3 on 2 cores", _bars(arguments, data, together, one_by_one))
    if used:
        sys.stdout.write(f"GPU utilisation while members shared it: mean {sum(used) / len(used):.0f}%, peak {max(used):.0f}%\n")
    return shown


def _bars(arguments: Arguments, data: FoldData, together: Measured, one_by_one: Measured) -> list[Bar]:
    alone = [member.seconds for member in one_by_one.fitted]
    most = None if arguments.small or arguments.gpus else 0.6
    return [
        Bar("wall time side by side, s", together.seconds),
        Bar("wall time one after the other, s", one_by_one.seconds),
        Bar("ratio", together.seconds / one_by_one.seconds, most=most, note="worker starts included"),
        Bar("longest member's share of the sum", max(alone) / sum(alone), note="no order can beat it"),
        *(Bar(f"{member.name}: training alone, s", seconds) for member, seconds in zip(together.fitted, alone, strict=True)),
        Bar("fold's arrays, MB", data.features.nbytes / 1e6, note="features alone"),
        Bar("object store at most, MB", together.stored_mb, note="once per node, whatever the number of members"),
        Bar("private memory of a member at most, MB", together.private_mb),
    ]


def _measured(data: FoldData, tasks: list[MemberTask], gpus: float, max_concurrent: int | None = None) -> Measured:
    workers = WorkerConfig(gpus=gpus, max_concurrent=max_concurrent)
    with tempfile.TemporaryDirectory() as folder, _memory() as peaks:
        started = time.perf_counter()
        fitted = fit_members(data, tasks, folder, workers=workers)
        seconds = time.perf_counter() - started
    return Measured(fitted, seconds, *peaks)


def _members(arguments: Arguments) -> tuple[FoldData, list[MemberTask]]:
    size = {"num_assets": 3, "num_bars": 2000} if arguments.small else {"num_assets": 6, "num_bars": 16_000}
    epochs = 1 if arguments.small else arguments.epochs
    config = preset("baseline").updated(market=size, members=MEMBERS, training={"max_epochs": epochs, "patience": epochs})
    data = _fold(config)
    return data, [member.task(data, config.training, config.lookback) for member in config.members]


def _fold(config: ExperimentConfig) -> FoldData:
    panel = open_market("synthetic", config).panel
    features = build_features(panel, AdvancedFeatureEngineer(config.features))
    fold = plan_folds(config, panel, None)[0]
    return scale_fold(features, make_targets(panel, config.targets), fold, config.targets, config.scaling).data


@contextmanager
def _memory() -> Iterator[list[float]]:
    """Watch members' processes and the object store; the list holds their peaks in MB afterwards."""
    before, stop = _stored(), threading.Event()
    peaks = [0.0, 0.0]

    def watch() -> None:
        while not stop.wait(WATCH_SECONDS):
            peaks[0] = max([peaks[0], *(_private(process) for process in psutil.process_iter(["cmdline"]))])
            peaks[1] = max(peaks[1], before - _stored())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()


def _stored() -> float:
    return ray.available_resources().get("object_store_memory", 0.0) / 1e6


def _private(process: psutil.Process) -> float:
    try:
        title = (process.info["cmdline"] or [""])[0]
        return process.memory_full_info().uss / 1e6 if title.startswith("ray::member") else 0.0
    except psutil.Error:  # ended meanwhile
        return 0.0


@contextmanager
def _utilisation(gpus: float) -> Iterator[list[float]]:
    """Sample the first GPU's utilisation in percent, where GPUs are asked for."""
    used, stop = list[float](), threading.Event()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]

    def watch() -> None:
        while not stop.wait(1.0):
            used.append(float(subprocess.run(query, capture_output=True, text=True, check=True).stdout))

    watcher = threading.Thread(target=watch, daemon=True)
    if gpus:
        watcher.start()
    try:
        yield used
    finally:
        stop.set()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
