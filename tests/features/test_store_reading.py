"""Features read back from a feature lake: spans, symbols, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest

from cryptoml.errors import ConfigError, DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import build_feature_lake, read_feature_panel, read_features
from cryptoml.features.store.reading import stored_symbols
from tests.features.conftest import FEW


class TestReading:
    @pytest.fixture
    def out(self, lake: Path, tmp_path: Path) -> Path:
        build_feature_lake(lake, tmp_path / "out", FEW, chunk_bars=300)
        return tmp_path / "out"

    def test_half_open_span(self, out: Path) -> None:
        whole = read_features(out, "BTC/USDT")
        assert (whole.dtypes == np.float32).all()
        assert list(whole.columns) == list(FEW.names)
        part = read_features(out, "BTC/USDT", start="2022-12-31", end=pd.Timestamp("2023-01-02", tz="UTC"))
        pd.testing.assert_frame_equal(part, whole.loc["2022-12-31":"2023-01-01"], check_freq=False)
        assert read_features(out, "BTCUSDT", end="2020-01-01").empty

    def test_order_of_symbols_and_absent_ones(self, out: Path) -> None:
        first, *rest = stored_symbols(out)
        panel = read_feature_panel(out, symbols=[*rest, first], start="2023-01-01", end="2023-01-03")
        assert panel.symbols == (*rest, first)
        assert panel.values.shape == (3, 48, len(FEW.names))
        with pytest.raises(DataError, match="no features of symbol NOPEUSDT"):
            read_feature_panel(out, symbols=["NOPE/USDT"])
        with pytest.raises(DataError, match="no features of timeframe 5m"):
            read_feature_panel(out, "5m")
        with pytest.raises(ConfigError, match="start and end must be times"):
            read_features(out, "BTC/USDT", start="yesterday-ish")

    def test_files_of_two_catalogues_are_refused(self, lake: Path, out: Path) -> None:
        symbol = stored_symbols(out)[1]
        other = AdvancedFeatureEngineer({"include": ("momentum_rsi_*", "cross_section_rank_return_1h")})
        build_feature_lake(lake, out, other, symbols=[symbol])
        with pytest.raises(DataError, match="build both with one catalogue"):
            read_feature_panel(out)

    def test_a_flipped_bit_is_named(self, out: Path) -> None:
        path = sorted((out / "features/timeframe=1h/symbol=BTCUSDT").glob("*.parquet"))[1]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        for span in ({}, {"start": "2023-01-01", "end": "2023-01-20"}):
            with pytest.raises(DataError, match=f"{path.name} is damaged"):
                read_features(out, "BTC/USDT", **span)

    def test_is_a_plain_partitioned_dataset_too(self, out: Path) -> None:
        table = pyarrow.dataset.dataset(out / "features", partitioning="hive").to_table()
        assert table.num_rows == 3 * 800
        assert set(table["symbol"].to_pylist()) == set(stored_symbols(out))

    def test_status_file_and_manifest(self, out: Path) -> None:
        status = pd.read_csv(out / "features/timeframe=1h/_status.csv")
        assert {"symbol", "rows", "seconds", "nan_share", "error"} <= set(status.columns)
        assert status["rows"].sum() == 2 * 3 * 800
        entries = json.loads((out / "features/timeframe=1h/_manifest.json").read_text())["items"]
        assert {entry["path"] for entry in entries} == {str(file.relative_to(out)) for file in out.rglob("*.parquet")}
