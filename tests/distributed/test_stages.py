"""Ray maps the plain functions: features, fits and sweeps come out the same on a cluster as in one process."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryptoml.data.panel import Panel
from cryptoml.data.splits import walk_forward
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.distributed import features, training, tuning
from cryptoml.distributed.cluster import cluster, num_slots
from cryptoml.distributed.stages import ray_stages
from cryptoml.errors import ConfigError, CryptomlError, DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, build_features
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.pipeline import open_market, run_pipeline
from cryptoml.training.config import TrainingConfig
from cryptoml.training.member import FittedMember, FoldData, MemberConfig, MemberTask, fit_member
from cryptoml.training.sweep import SweepConfig, run_trial
from tests.tiny import tiny_experiment

NUM_BARS, LOOKBACK = 900, 8
TARGETS = TargetConfig(
    horizons=(1, 4), primary_horizon=4, volatility_halflife_bars=12, minimum_history_bars=12, long_run_halflife_bars=24
)


@pytest.fixture(scope="module")
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
def panel() -> Panel:
    """Three symbols with tables: one listed late, one delisted with a gap before, one never absent."""
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=NUM_BARS)).panel
    candles = panel.candles.copy()
    candles[1, :137] = np.nan
    candles[2, 300:320] = np.nan
    candles[2, 700:] = np.nan
    return replace(panel, candles=candles)


@pytest.fixture(scope="module")
def fold_data() -> FoldData:
    random = np.random.default_rng(0)
    panel = synthetic_market(MarketConfig(num_assets=2, num_bars=400, with_tables=False)).panel
    values = random.standard_normal((2, 400, 3)).astype(np.float32)
    fold = walk_forward(400, test_start=320, label_bars=4, embargo_bars=4, validation_bars=52)[0]
    return FoldData(values, make_targets(panel, TARGETS), fold, TARGETS, panel.symbols)


@pytest.fixture(scope="module")
def tasks(fold_data: FoldData) -> list[MemberTask]:
    loop = TrainingConfig(max_epochs=2, chunk_bars=64, batch_size=4)
    members = [
        MemberConfig(name=name, architecture="tcn", hidden_size=8, num_heads=2, seed=len(name)) for name in ("tcn", "other")
    ]
    return [member.task(fold_data, loop, LOOKBACK) for member in members]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The workers of the cluster compute with one thread each; sums come out the same only with as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_address_where_nothing_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(ConfigError, match="RAY_ADDRESS 'nonsense'") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)


def assert_same_weights(left: FittedMember, right: FittedMember) -> None:
    assert left.weights.keys() == right.weights.keys()
    for name in left.weights:
        np.testing.assert_allclose(left.weights[name], right.weights[name], atol=1e-6, err_msg=name)
    assert left.validation_loss == pytest.approx(right.validation_loss, abs=1e-6)
    assert left.history["val_loss"] == pytest.approx(right.history["val_loss"], abs=1e-6)


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

    def test_members(self, tmp_path: Path, fold_data: FoldData, tasks: list[MemberTask]) -> None:
        found = training.fit_members(fold_data, tasks, str(tmp_path))
        assert [member.name for member in found] == ["tcn", "other"]
        for member, task in zip(found, tasks, strict=True):
            assert_same_weights(member, fit_member(fold_data, task))
        again = training.fit_members(fold_data, tasks[:1], str(tmp_path))[0]
        assert_same_weights(again, found[0])

    def test_a_member_that_cannot_be_fitted_is_named(self, tmp_path: Path, fold_data: FoldData, tasks: list[MemberTask]) -> None:
        infinite = fold_data.features.copy()
        infinite[:, 100] = np.inf
        workers = training.WorkerConfig(max_failures=0)
        with pytest.raises(CryptomlError, match=r"member tcn could not be fitted: .*finite") as caught:
            training.fit_members(replace(fold_data, features=infinite), tasks[:1], str(tmp_path), workers=workers)
        assert "\n" not in str(caught.value)

    def test_sweep(self, fold_data: FoldData, tasks: list[MemberTask]) -> None:
        space = {"hidden_size": (8,), "num_heads": (2,), "num_layers": (1,), "batch_size": (4,)}
        config = SweepConfig(num_trials=3, max_epochs=1, space=space).around(tasks[0])
        trials = tuning.run_sweep(fold_data, tasks[0], config)
        assert [(trial.number, trial.state) for trial in trials] == [(number, "COMPLETE") for number in range(3)]
        for trial in trials:
            assert trial.loss == pytest.approx(run_trial(fold_data, tasks[0], trial.parameters, 1), abs=1e-6)

    def test_a_sweep_without_success_says_why(self, fold_data: FoldData, tasks: list[MemberTask]) -> None:
        infinite = fold_data.features.copy()
        infinite[:, 100] = np.inf
        config = SweepConfig(num_trials=1, max_epochs=1).around(tasks[0])
        with pytest.raises(CryptomlError, match=r"every trial .*finite"):
            tuning.run_sweep(replace(fold_data, features=infinite), tasks[0], config)

    def test_slots_follow_the_resources(self) -> None:
        assert num_slots(1.0) == 2
        assert num_slots(0.5) == 4
        assert num_slots(16.0) == 1
        assert num_slots(1.0, gpus_per_task=1.0) == 1


@pytest.mark.slow
def test_folds_side_by_side_forecast_the_same(tmp_path: Path, ray_cluster: None, one_thread: None) -> None:
    config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, walk_forward={"num_folds": 2})
    market = open_market("synthetic", config)
    plain = run_pipeline(config, market, tmp_path / "plain")
    mapped = run_pipeline(config, market, tmp_path / "ray", stages=ray_stages(parallel_folds=2))
    numbers = plain.predictions.columns[plain.predictions.dtypes == np.float32]
    np.testing.assert_allclose(mapped.predictions[numbers], plain.predictions[numbers], atol=1e-5)
