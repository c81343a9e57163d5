"""A lake ten times larger than the object store: candles and features stay out of it."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
from ray._private.internal_api import memory_summary

from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES
from cryptoml.distributed import cluster as clusters
from cryptoml.distributed.features import build_feature_lake
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import read_features

MIB = 1 << 20
OBJECT_STORE_BYTES = 80 * MIB
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
NUM_BARS = 4_000_000
WANTED = (
    *(f"price_log_return_{span}" for span in ("1h", "5h", "15h", "30h", "1d")),
    "momentum_rsi_*",
    "momentum_roc_*",
    "volatility_parkinson_24h",
    "cross_section_rank_return_1h",
)


@pytest.fixture
def small_object_store() -> Iterator[None]:
    """A private cluster of two CPUs with as little shared memory as Ray allows for."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setenv("RAY_TMPDIR", folder)
        patched.setattr(clusters, "LOCAL_OBJECT_STORE_BYTES", OBJECT_STORE_BYTES)
        with clusters.cluster(num_cpus=2):
            yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def large_lake(tmp_path: Path) -> Path:
    """Minutes of several symbols, each of random candles, which hardly compress."""
    rng = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(1e-4 * rng.standard_normal(NUM_BARS)))
    body, spread = np.exp(1e-4 * rng.standard_normal((2, NUM_BARS)))
    volume = rng.lognormal(0, 1, NUM_BARS)
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2017-01-01", periods=NUM_BARS, freq="min", tz="UTC", unit="us"),
            "open": close * body,
            "high": close * np.maximum(body, 1.0) * np.maximum(spread, 1 / spread),
            "low": close * np.minimum(body, 1.0) * np.minimum(spread, 1 / spread),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "taker_buy_volume": volume * rng.random(NUM_BARS),
        }
    )
    lake = tmp_path / "lake"
    Lake(lake).append(CANDLES, {"timeframe": "1m", "symbol": SYMBOLS[0]}, frame)
    folder = lake / "candles/timeframe=1m"
    for symbol in SYMBOLS[1:]:
        shutil.copytree(folder / f"symbol={SYMBOLS[0]}", folder / f"symbol={symbol}")
    return lake


def spilled_bytes() -> float:
    """Return what Ray has moved from the object store to disk so far."""
    found = re.search(r"Spilled (\d+) MiB", memory_summary(ray.get_runtime_context().gcs_address, stats_only=True))
    return float(found[1]) * MIB if found else 0.0


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("small_object_store")
def test_a_lake_ten_times_the_object_store_is_never_in_it(large_lake: Path, tmp_path: Path) -> None:
    assert size_of(large_lake) >= 10 * OBJECT_STORE_BYTES
    engineer = AdvancedFeatureEngineer({"timeframe": "1m", "include": WANTED})
    report = build_feature_lake(large_lake, tmp_path / "out", engineer)
    assert not report.failed
    assert size_of(tmp_path / "out") > 5 * OBJECT_STORE_BYTES
    assert spilled_bytes() == 0
    held = [ray.put(np.zeros(8 * MIB, np.uint8)) for _ in range(16)]
    assert spilled_bytes() > 0, "what does not fit is seen"
    del held
    assert len(read_features(tmp_path / "out", "SOL/USDT", "1m", "2020-01-01", "2020-01-02")) == 1_440
