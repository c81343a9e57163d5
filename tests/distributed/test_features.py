"""The feature lake on Ray Data: equal to the plain build for any stretch, through failures, dead workers and on S3."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.loading import load_panel
from cryptoml.data.schema import CANDLES
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.features import build_feature_lake, run_on_ray
from cryptoml.distributed.items import map_items, share_out
from cryptoml.features.contract import Bars, feature
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.store import ItemStatus, WorkItem, read_feature_panel
from cryptoml.features.store import build_feature_lake as build_here
from cryptoml.features.store.build import ItemTask
from tests.conftest import REPOSITORY

FEW = AdvancedFeatureEngineer({"include": ("momentum_rsi_14", "price_log_return_1h", "cross_section_rank_return_1h")})
NUM_BARS = 2_600


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    """A private cluster of two CPUs; its folder has a short path, as sockets need."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setenv("RAY_TMPDIR", folder)
        with cluster(num_cpus=2):
            yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(str(tmp_path_factory.mktemp("lake")))


def write_market(address: str, num_bars: int = NUM_BARS) -> Path:
    """Three symbols, the second listed late, over a turn of the year."""
    start = pd.Timestamp("2022-12-01", tz="UTC")
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=num_bars, with_tables=False, start=start)).panel
    for row, symbol in enumerate(panel.symbols):
        frame = panel.frame(symbol).iloc[num_bars // 3 if row == 1 else 0 :]
        Lake(address).append(CANDLES, {"timeframe": "1h", "symbol": symbol}, frame.astype({"num_trades": "int64"}))
    return Path(address)


def assert_equal(out: Path | str, lake: Path | str, engineer: AdvancedFeatureEngineer = FEW) -> None:
    stored, plain = read_feature_panel(out), build_features(load_panel(lake).panel, engineer)
    assert (stored.symbols, stored.names) == (plain.symbols, plain.names)
    np.testing.assert_allclose(stored.values, plain.values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("chunk_bars", [701, 2_000, 50_000])
def test_equals_the_plain_features_for_any_stretch(lake: Path, tmp_path: Path, chunk_bars: int) -> None:
    engineer = AdvancedFeatureEngineer()
    report = build_feature_lake(lake, tmp_path, engineer, chunk_bars=chunk_bars)
    assert not report.failed
    assert_equal(tmp_path, lake, engineer)


def test_unchanged_input_is_not_computed_again(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = shutil.copytree(lake, tmp_path / "lake")
    for file in old.rglob("*.parquet"):
        os.utime(file, (1e9, 1e9))
    build_feature_lake(old, tmp_path / "out", FEW)
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: pytest.fail("Ray was asked to work"))
    assert set(build_feature_lake(old, tmp_path / "out", FEW).table()["outcome"]) == {"kept"}


def test_what_a_build_without_ray_left_is_kept(lake: Path, tmp_path: Path) -> None:
    build_here(lake, tmp_path, FEW, chunk_bars=1_000)
    assert set(build_feature_lake(lake, tmp_path, FEW, chunk_bars=1_000).table()["outcome"]) == {"kept"}


def test_a_damaged_symbol_is_named_while_others_finish(lake: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(lake, tmp_path / "lake")
    first, second, third = load_panel(lake).panel.symbols
    next((damaged / f"candles/timeframe=1h/symbol={second}").glob("2023*")).write_bytes(b"PAR1 no more")
    report = build_feature_lake(damaged, tmp_path / "out", FEW, chunk_bars=1_500)
    assert {status.symbol for status in report.failed} == {second}
    assert all("2023.parquet" in status.error and status.attempts == 2 for status in report.failed)
    rest = build_features(load_panel(lake, symbols=[first, third]).panel, FEW)
    stored = read_feature_panel(tmp_path / "out", symbols=[first, third])
    np.testing.assert_allclose(stored.values, rest.values, rtol=1e-6, atol=1e-9)


class Deadly(AdvancedFeatureEngineer):
    """Ends the process that works on the symbol that was listed late."""

    @feature("price", lookback=1, inputs=("close",))
    def deadly(self, bars: Bars) -> np.ndarray:
        """The close"""
        if bars.timestamps[0] > pd.Timestamp("2022-12-20", tz="UTC"):
            os._exit(1)
        return bars.close


@pytest.mark.slow
def test_a_symbol_that_kills_its_workers_does_not_stop_the_rest(lake: Path, tmp_path: Path) -> None:
    report = build_feature_lake(lake, tmp_path, Deadly({"include": ("price_deadly",)}), retries=0)
    assert [status.error.partition(":")[0] for status in report.failed] == ["WorkerDied"]
    assert len(report.statuses) == 3


class Traced(AdvancedFeatureEngineer):
    """Leaves the number of the process that works on an item, and takes its time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__({"include": ("price_traced", "momentum_rsi_14", "cross_section_rank_return_1h")})

    @feature("price", lookback=1, inputs=("close",))
    def traced(self, bars: Bars) -> np.ndarray:
        """The close"""
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.2)
        return bars.close


@pytest.mark.slow
def test_killed_workers_are_replaced_and_nothing_is_lost(lake: Path, tmp_path: Path) -> None:
    folder, killed = tmp_path / "workers", set()
    folder.mkdir()

    def kill_workers_on_the_way(task: ItemTask, items: Sequence[WorkItem]) -> Iterator[ItemStatus]:
        for number, status in enumerate(run_on_ray(task, items)):
            if number in (2, 9, 15) and status.symbol:
                victim = max(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
                os.kill(int(victim.name), signal.SIGKILL)
                killed.add(victim.name)
                victim.unlink()
            yield status

    report = build_here(lake, tmp_path / "out", Traced(folder), chunk_bars=300, run=kill_workers_on_the_way)
    assert len(killed) == 3
    assert not report.failed
    assert set(report.table()["attempts"]) == {1}
    assert_equal(tmp_path / "out", lake, Traced(folder))
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_items_come_back_once_each_whatever_their_number() -> None:
    assert list(run_on_ray(lambda item: pytest.fail("nothing to do"), [])) == []
    for number in (1, 7, 40):
        items = [str(place) for place in range(number)]
        assert sorted(map_items(str.upper, items, [1] * number, "items"), key=int) == items


@pytest.mark.parametrize(
    ("sizes", "num_cpus", "expected"),
    [
        ([], 2, []),
        ([10**6, 10, 10], 2, [(0, 1), (1, 2), (2, 3)]),
        ([50_000] * 20, 2, [(0, 4), (4, 8), (8, 11), (11, 13), (13, 14), *((n, n + 1) for n in range(14, 20))]),
        ([50_000] * 3, 64, [(0, 1), (1, 2), (2, 3)]),
        ([0, 0], 0, [(0, 2)]),
    ],
)
def test_tasks_take_several_items_at_first_and_single_ones_at_the_end(
    sizes: list[int], num_cpus: int, expected: list[tuple[int, int]]
) -> None:
    assert share_out(sizes, num_cpus=num_cpus) == expected


def test_from_s3_to_s3(s3_address: str) -> None:
    lake, out = s3_address.format("lake"), s3_address.format("features")
    panel = synthetic_market(MarketConfig(num_assets=2, num_bars=300, with_tables=False)).panel
    for symbol in panel.symbols:
        Lake(lake).append(CANDLES, {"timeframe": "1h", "symbol": symbol}, panel.frame(symbol).astype({"num_trades": "int64"}))
    assert not build_feature_lake(lake, out, FEW, chunk_bars=120).failed
    assert set(build_feature_lake(lake, out, FEW, chunk_bars=120).table()["outcome"]) == {"kept"}
    stored = read_feature_panel(out)
    plain = build_features(load_panel(lake).panel, FEW)
    np.testing.assert_allclose(stored.values, plain.values, rtol=1e-6, atol=1e-9)


TWO_CLUSTERS = """
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.items import map_items
for text in ("a", "b"):
    with cluster("local", num_cpus=1):
        assert list(map_items(str.upper, [text], [1], "items")) == [text.upper()]
"""


def test_one_process_may_use_one_cluster_after_the_other() -> None:
    subprocess.run([sys.executable, "-c", TWO_CLUSTERS], cwd=REPOSITORY, check=True, timeout=120)
