"""Ray maps the plain functions: features and fits come out the same on a cluster as in one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed import features
from cryptoml.distributed.cluster import cluster
from cryptoml.distributed.stages import ray_stages
from cryptoml.errors import ConfigError, DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, build_features
from cryptoml.features.targets import TargetConfig
from cryptoml.pipeline import open_market, run_pipeline
from tests.tiny import tiny_experiment

NUM_BARS, LOOKBACK = 900, 8
TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=12, minimum_history_bars=12, long_run_halflife_bars=24
)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Three symbols with tables: one listed late, one delisted with a gap before, one never absent."""
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=NUM_BARS)).panel
    candles = panel.candles.copy()
    candles[1, :137] = np.nan
    candles[2, 300:320] = np.nan
    candles[2, 700:] = np.nan
    return replace(panel, candles=candles)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:9", "ray://127.0.0.1:9", "nowhere.invalid:6379"])
def test_an_address_where_nothing_answers_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS '{address}' cannot be joined.*unset RAY_ADDRESS") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster", "one_thread")
class TestParity:
    @pytest.mark.parametrize("chunk_bars", [250, 10_000])
    def test_features(self, panel: Panel, tmp_path: Path, chunk_bars: int) -> None:
        config = FeatureConfig(categories=("price", "time", "onchain", "cross_exchange", "cross_section"))
        plain = build_features(panel, AdvancedFeatureEngineer(config))
        found = features.build_features(panel, config, tmp_path, chunk_bars=chunk_bars)
        assert (found.names, found.symbols, found.timeframe) == (plain.names, plain.symbols, plain.timeframe)
        np.testing.assert_allclose(found.values, plain.values, rtol=1e-6, atol=1e-7)

    def test_features_of_a_symbol_without_a_bar_and_of_bars_without_a_symbol(self, panel: Panel, tmp_path: Path) -> None:
        candles = panel.candles.copy()
        candles[1] = np.nan
        candles[:, -5:] = np.nan
        thinned, config = replace(panel, candles=candles), FeatureConfig(categories=("price", "cross_section"))
        found = features.build_features(thinned, config, tmp_path)
        assert found.timestamps.equals(panel.timestamps)
        plain = build_features(thinned, AdvancedFeatureEngineer(config))
        np.testing.assert_allclose(found.values, plain.values, rtol=1e-6, atol=1e-7)

    def test_features_begun_by_a_driver_that_died_are_not_computed_again(self, panel: Panel, tmp_path: Path) -> None:
        config = FeatureConfig(categories=("price",))
        features.build_features(panel, config, tmp_path)
        files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("features/**/*.parquet")}
        features.build_features(panel, config, tmp_path)
        assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("features/**/*.parquet")}
        assert len(files) == 3

    def test_a_failed_item_names_its_symbol(self, panel: Panel, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no candles of timeframe '4h'"):
            features.build_features(panel, FeatureConfig(timeframe="4h", categories=("price",)), tmp_path)


@pytest.mark.slow
def test_folds_side_by_side_forecast_the_same(tmp_path: Path, ray_cluster: None, one_thread: None) -> None:
    config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, walk_forward={"num_folds": 2})
    market = open_market("synthetic", config)
    plain = run_pipeline(config, market, tmp_path / "plain")
    mapped = run_pipeline(config, market, tmp_path / "ray", stages=ray_stages(parallel_folds=2))
    numbers = plain.predictions.columns[plain.predictions.dtypes == np.float32]
    np.testing.assert_allclose(mapped.predictions[numbers], plain.predictions[numbers], atol=1e-5)
