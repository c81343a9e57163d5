"""The whole flow in one process: complete outputs, nothing from the future, the same again, and clean interruptions."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cryptoml import pipeline
from cryptoml.config import ExperimentConfig
from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.data.run_folder import RunFolder
from cryptoml.data.stage import read_stage
from cryptoml.errors import ConfigError, CryptomlError, DataError
from cryptoml.evaluation.selection import deflated_sharpe_of_returns
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.models.bundle import load_bundle
from cryptoml.pipeline import Market, Outcome, Stages, open_market, plan_folds, run_pipeline
from cryptoml.training.adaptation import build_learner
from tests.tiny import tiny_experiment

TRAIN_END = "2021-02-15"
MIDNIGHT = pd.Timestamp("2021-02-16", tz="UTC")
ISSUED = [
    *("symbol", "timestamp", "available_at", "horizon_bars", "p_down", "p_sideways", "p_up", "q10", "q50", "q90"),
    *("volatility", "regime", "position_size", "action", "confidence"),
]
PROBABILITIES = ["p_down", "p_sideways", "p_up"]
OUTPUTS = ["bundle", "predictions.parquet", "report.html", "report.json"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a test."""


@dataclass
class Counted:
    """The plain stages, counting their calls; `stop_at` interrupts one of them, before or after its work."""

    stop_at: str = ""
    calls: list[str] = field(default_factory=list)

    def stages(self) -> Stages:
        plain = Stages()
        names = [one.name for one in fields(Stages) if one.name != "folds"]
        return Stages(**{name: self._watched(name, getattr(plain, name)) for name in names})

    def _watched(self, name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.calls.append(name)
            result = stage(*arguments)
            if name == self.stop_at:
                raise Interrupted
            return result

        return watched


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return tiny_experiment(sweep={"num_trials": 0})


@pytest.fixture(scope="module")
def market(config: ExperimentConfig) -> Market:
    return open_market("synthetic", config)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, market: Market) -> Outcome:
    return run_pipeline(tiny_experiment(), market, tmp_path_factory.mktemp("run") / "out", train_end=TRAIN_END)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig, market: Market) -> Outcome:
    """A run without a sweep."""
    return run_pipeline(config, market, tmp_path_factory.mktemp("plain"), train_end=TRAIN_END)


class TestOutputs:
    def test_are_there_and_nothing_else_is(self, outcome: Outcome) -> None:
        assert sorted(path.name for path in outcome.folder.iterdir()) == [*OUTPUTS, "sweep", "tensorboard"]
        assert outcome.folder.is_absolute()

    def test_predictions_have_the_promised_columns(self, outcome: Outcome) -> None:
        frame = pd.read_parquet(outcome.folder / "predictions.parquet")
        assert list(frame.columns)[: len(ISSUED)] == ISSUED
        pd.testing.assert_frame_equal(frame, outcome.predictions)

    def test_each_symbol_and_bar_after_the_training_end_has_one_row(self, outcome: Outcome, market: Market) -> None:
        frame = outcome.predictions
        stamps = market.panel.timestamps
        expected = [(symbol, stamp) for symbol in sorted(market.panel.symbols) for stamp in stamps[stamps >= MIDNIGHT]]
        assert list(zip(frame["symbol"], frame["timestamp"], strict=True)) == expected
        assert (frame["available_at"] == frame["timestamp"] + pd.Timedelta("1h")).all()

    def test_predictions_make_sense(self, outcome: Outcome) -> None:
        frame = outcome.predictions
        assert frame[PROBABILITIES].to_numpy().min() >= 0
        np.testing.assert_allclose(frame[PROBABILITIES].sum(axis=1), 1.0, atol=1e-5)
        assert (frame["q10"] <= frame["q50"]).all()
        assert (frame["q50"] <= frame["q90"]).all()
        assert (frame["volatility"] > 0).all()
        assert frame["position_size"].between(0, 1).all()
        assert set(frame["action"]) <= {"BUY", "SELL", "HOLD"}
        assert (frame["horizon_bars"] == 4).all()

    def test_the_report_is_strict_json_with_every_candidate(self, outcome: Outcome) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"report.json must be strict JSON, holds {constant}")

        report = json.loads((outcome.folder / "report.json").read_text(), parse_constant=refuse)
        assert {"member_tft", "member_tcn", "shuffled_labels", "buy_and_hold"} <= set(report["baselines"])
        assert [report["ablations"]["meta_learning"][side] for side in ("without", "with")] == [
            "ensemble",
            "ensemble_meta_learning",
        ]
        assert report["ensemble"]["direction"]["accuracy"]["value"] is not None
        assert "Built-in market" in report["extras"]
        assert len(report["trials"]) == 2
        assert report["config"]["lookback"] == 16
        assert "probability of backtest overfitting" not in report["missing"]
        assert {"funding", "five seeds", "ablation of the continual step"} <= set(report["missing"])
        assert not {"learned asset graph", "feature importance", "sweep history"} & set(report["missing"])
        assert report["baselines"]["member_tft"]["trading"]["num_trials"] == 2
        assert report["baselines"]["lightgbm"]["trading"]["num_trials"] == 1
        page = (outcome.folder / "report.html").read_text()
        assert page.lstrip().lower().startswith("<!doctype html")

    def test_the_luck_of_the_sweep_is_judged_by_its_own_trials(self, outcome: Outcome) -> None:
        selection, kept = outcome.report.selection, sorted(outcome.folder.glob("sweep/arrays/*/trial_*.npz"))
        returns = np.stack([np.load(path)["returns"] for path in kept], axis=1).astype(np.float64)
        assert (selection["num_trials"], selection["num_ended"]) == (2, 0)
        assert selection["num_bars"] == len(returns)
        ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        assert selection["best_sharpe_per_bar"] == pytest.approx(ratios.max())
        assert 0 <= selection["overfitting_probability"] <= 1
        trading = outcome.report.ensemble.figures["trading"]
        assert outcome.report.inputs.trial_sharpe_variance == pytest.approx(ratios.var(ddof=1))
        net, variance = outcome.report.ensemble.backtest.net, outcome.report.inputs.trial_sharpe_variance
        assert trading["deflated_sharpe_ratio"] == pytest.approx(deflated_sharpe_of_returns(net, 2, variance), nan_ok=True)
        assert "Luck of the search" in (outcome.folder / "report.html").read_text()

    def test_the_bundle_forecasts_what_the_table_says(self, outcome: Outcome, market: Market) -> None:
        bundle = load_bundle(outcome.folder / "bundle")
        features = build_features(market.panel, AdvancedFeatureEngineer(bundle.feature_config))
        assert features.names == bundle.feature_names
        scaled = FeatureScaler.from_arrays(bundle.scaler).transform(features.values)
        sigma = make_targets(market.panel, TargetConfig(**bundle.target_config)).sigma
        found = bundle.ensemble.predict(scaled, sigma, bundle.context_bars)
        assert bundle.data_fingerprint == market.panel.fingerprint()
        for symbol, rows in outcome.predictions.groupby("symbol"):
            asset = bundle.symbols.index(str(symbol))
            bars = market.panel.timestamps.get_indexer(pd.DatetimeIndex(rows["timestamp"]))
            np.testing.assert_allclose(rows[PROBABILITIES], found.probabilities[asset, bars], atol=1e-6)
            np.testing.assert_allclose(rows[["q10", "q50", "q90"]], found.quantiles[asset, bars, 1], atol=1e-6)
            np.testing.assert_allclose(rows["volatility"], found.volatility[asset, bars], rtol=1e-5)

    def test_the_bundle_holds_what_it_rehearsed(self, outcome: Outcome) -> None:
        start, bundle = tiny_experiment(), load_bundle(outcome.folder / "bundle")
        assert bundle.adaptation_config == start.adaptation.model_dump(mode="json")
        learned = build_learner(start.targets, start.adaptation, bundle.adapter).state_dict()
        fresh = build_learner(start.targets, start.adaptation).state_dict()
        assert any(not torch.equal(learned[name], fresh[name]) for name in fresh)

    def test_the_scaler_and_all_labels_end_with_the_training_end(self, outcome: Outcome) -> None:
        span = FeatureScaler.from_arrays(load_bundle(outcome.folder / "bundle").scaler).span
        assert span is not None
        assert span[1] <= MIDNIGHT


class TestComparisons:
    def test_ablations_and_continual_steps_are_judged_too(self, tmp_path: Path, market: Market) -> None:
        config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, ablations=True, continual_steps=1)
        config = config.updated(renewal={"memory_size": 4, "chunk_bars": 32, "epochs": 1})
        report = run_pipeline(config, market, tmp_path, train_end=TRAIN_END).report
        assert {"without_graph", "without_price", "without_time", "ensemble_continual"} <= set(report.baselines)
        continual, own = report.baselines["ensemble_continual"], report.ensemble
        assert continual.candidate.forecasts is not None
        assert own.candidate.forecasts is not None
        change = continual.candidate.forecasts.probabilities - own.candidate.forecasts.probabilities
        moved = np.abs(change).max(axis=(0, 2)) > 1e-6  # windows forecast in other batches round differently
        assert not moved[: len(moved) // 2].any()
        assert moved[len(moved) // 2 + 1 :].any()

    def test_a_category_without_any_value_is_not_ablated(self, tmp_path: Path, market: Market) -> None:
        config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, ablations=True, num_seeds=2)
        config = config.updated(features={"categories": ["price", "time", "onchain"]}, adaptation={"rehearsals": 0})
        run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        report = json.loads((tmp_path / "report.json").read_text())
        assert list(report["ablations"]) == ["graph", "price", "time"]
        assert report["missing"]["ablation of onchain"] == "no onchain feature holds a value in the training data"
        assert report["ablations"]["price"]["num_seeds"] == 2
        spread, change = (report["ablations"]["price"]["change"]["auc"][name] for name in ("seed_spread", "better"))
        assert spread > 0
        assert change in (None, True, False)
        assert list(report["seeds"]) == ["ensemble", "member_tft"]


class TestRepetition:
    def test_the_same_seed_gives_identical_predictions(self, tmp_path: Path, outcome: Outcome, market: Market) -> None:
        again = run_pipeline(tiny_experiment(), market, tmp_path, train_end=TRAIN_END)
        pd.testing.assert_frame_equal(again.predictions, outcome.predictions, check_exact=True)

    def test_another_seed_does_not(self, tmp_path: Path, plain: Outcome, market: Market) -> None:
        other = run_pipeline(tiny_experiment(sweep={"num_trials": 0}, seed=1), market, tmp_path, train_end=TRAIN_END)
        assert not np.array_equal(other.predictions["p_up"], plain.predictions["p_up"])


class TestNoLeak:
    @pytest.mark.parametrize("fold_count", [1, 2])
    def test_no_forecast_changes_with_what_comes_after_it(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, fold_count: int
    ) -> None:
        config = config.updated(walk_forward={"num_folds": fold_count}, shuffled_label_run=False)
        bar = 1400
        candles = market.panel.candles.copy()
        noise = np.exp(np.cumsum(0.05 * np.random.default_rng(5).standard_normal((3, 1500 - bar - 1)), axis=1))
        for name in ("open", "high", "low", "close"):
            candles[:, bar + 1 :, CANDLE_FIELDS.index(name)] *= noise
        candles[:, bar + 1 :, CANDLE_FIELDS.index("volume")] *= 7
        moved = replace(market, panel=replace(market.panel, candles=candles), synthetic=None)
        runs = [(market, "before"), (moved, "after")]
        before, after = (run_pipeline(config, one, tmp_path / name, train_end=TRAIN_END).predictions for one, name in runs)
        known = before["timestamp"] <= market.panel.timestamps[bar]
        pd.testing.assert_frame_equal(before[known], after[known], check_exact=True)
        assert not np.array_equal(before.loc[~known, "p_up"], after.loc[~known, "p_up"])

    def test_cutting_the_data_off_changes_no_earlier_forecast(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, plain: Outcome
    ) -> None:
        cut = replace(market, panel=market.panel.slice_time(None, 1300), synthetic=None)
        short = run_pipeline(config, cut, tmp_path, train_end=TRAIN_END).predictions
        whole = plain.predictions[plain.predictions["timestamp"] < market.panel.timestamps[1300]].reset_index(drop=True)
        numbers = whole.columns[whole.dtypes == np.float32]
        np.testing.assert_allclose(short[numbers], whole[numbers], atol=1e-6)
        assert short["timestamp"].tolist() == whole["timestamp"].tolist()


class TestFolds:
    def test_a_plain_date_means_the_end_of_that_day(self, config: ExperimentConfig, market: Market) -> None:
        fold = plan_folds(config, market.panel, TRAIN_END)[0]
        assert market.panel.timestamps[fold.test.start] == MIDNIGHT
        for instant in ("2021-02-16 00:00", MIDNIGHT):
            assert plan_folds(config, market.panel, instant) == [fold]

    def test_no_label_of_training_or_validation_reaches_the_test(self, config: ExperimentConfig, market: Market) -> None:
        fold = plan_folds(config.updated(walk_forward={"embargo_bars": 0}), market.panel, TRAIN_END)[0]
        longest = config.targets.horizons[-1]
        closes = market.panel.timestamps + pd.Timedelta("1h")
        assert closes[fold.train.stop - 1 + longest] <= market.panel.timestamps[fold.validation.start]
        assert closes[fold.validation.stop - 1 + longest] <= MIDNIGHT

    def test_an_embargo_of_a_day_keeps_all_labels_a_day_away(self, config: ExperimentConfig, market: Market) -> None:
        fold = plan_folds(config.updated(walk_forward={"embargo_bars": 24}), market.panel, TRAIN_END)[0]
        last_read = market.panel.timestamps[fold.validation.stop - 1 + config.targets.horizons[-1]]
        assert last_read + pd.Timedelta("1h") <= MIDNIGHT - pd.Timedelta("24h")

    def test_without_a_training_end_the_last_share_is_the_test(self, config: ExperimentConfig, market: Market) -> None:
        folds = plan_folds(config.updated(walk_forward={"num_folds": 3, "test_fraction": 0.2}), market.panel, None)
        assert [(fold.test.start, fold.test.stop) for fold in folds] == [(1200, 1300), (1300, 1400), (1400, 1500)]

    @pytest.mark.parametrize("train_end", ["2019-12-31", "2030-01-01", "2021-03-04", "never", "2021-13-45", "NaT"])
    def test_one_outside_the_data_is_refused(self, config: ExperimentConfig, market: Market, train_end: str) -> None:
        with pytest.raises(ConfigError, match=rf"train_end must .*{train_end}"):
            plan_folds(config, market.panel, train_end)

    def test_one_that_leaves_too_little_is_refused(self, config: ExperimentConfig, market: Market) -> None:
        with pytest.raises(ConfigError, match="too few bars"):
            plan_folds(config.updated(targets={"horizons": [1, 4, 200]}), market.panel, "2021-01-02")

    def test_a_lookback_longer_than_the_training_span_is_refused(
        self, tmp_path: Path, config: ExperimentConfig, market: Market
    ) -> None:
        with pytest.raises(CryptomlError, match="lookback"):
            run_pipeline(config.updated(lookback=1200), market, tmp_path, train_end=TRAIN_END)


def test_a_stage_that_cannot_be_read_twice_is_named(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise ValueError("mmap length is greater than file size")

    with pytest.raises(DataError, match=r"features cannot be read: mmap length"):
        read_stage(RunFolder(tmp_path, "key"), "features", lambda folder: None, refuse)


class TestInterruption:
    @pytest.mark.parametrize("stage", ["features", "fit"])
    def test_leaves_no_output_and_goes_on_where_it_stopped(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, plain: Outcome, stage: str
    ) -> None:
        first, second = Counted(stop_at=stage), Counted()
        with pytest.raises(Interrupted):
            run_pipeline(config, market, tmp_path, train_end=TRAIN_END, stages=first.stages())
        assert {path.name for path in tmp_path.iterdir()} - {"tensorboard"} == {".work"}  # curves grow while members learn
        resumed = run_pipeline(config, market, tmp_path, train_end=TRAIN_END, stages=second.stages())
        assert second.calls == (["features", "fit"] if stage == "features" else ["fit"])
        pd.testing.assert_frame_equal(resumed.predictions, plain.predictions, check_exact=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == [*OUTPUTS, "tensorboard"]

    def test_in_the_evaluation_recomputes_no_stage(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, plain: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "evaluate_all", interrupt)
            with pytest.raises(Interrupted):
                run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        counted = Counted()
        resumed = run_pipeline(config, market, tmp_path, train_end=TRAIN_END, stages=counted.stages())
        assert counted.calls == []
        pd.testing.assert_frame_equal(resumed.predictions, plain.predictions, check_exact=True)

    @pytest.mark.parametrize(("file", "again"), [("features/values.npy", "features"), ("fold_*/tcn.safetensors", "fit")])
    def test_a_damaged_stage_is_made_again_with_a_warning(
        self,
        tmp_path: Path,
        config: ExperimentConfig,
        market: Market,
        plain: Outcome,
        file: str,
        again: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "evaluate_all", interrupt)
            with pytest.raises(Interrupted):
                run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        damaged = next(tmp_path.glob(f".work/*/{file}"))
        with damaged.open("r+b") as handle:
            handle.truncate(500)
        counted = Counted()
        resumed = run_pipeline(config, market, tmp_path, train_end=TRAIN_END, stages=counted.stages())
        assert counted.calls == [again]
        assert f"{damaged.parent} is damaged and made again" in caplog.text
        pd.testing.assert_frame_equal(resumed.predictions, plain.predictions, check_exact=True)

    @pytest.mark.parametrize("step", ["save_bundle", "write_report"])
    def test_while_publishing_leaves_whole_outputs_only(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, step, interrupt)
            with pytest.raises(Interrupted):
                run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        present = {path.name for path in tmp_path.iterdir()} - {".work", "tensorboard"}
        assert present == (set() if step == "save_bundle" else {"bundle", "predictions.parquet"})
        if present:
            load_bundle(tmp_path / "bundle")
        run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        assert sorted(path.name for path in tmp_path.iterdir()) == [*OUTPUTS, "tensorboard"]

    def test_a_sweep_is_not_repeated(self, tmp_path: Path, market: Market, outcome: Outcome) -> None:
        first, second = Counted(stop_at="fit"), Counted()
        with pytest.raises(Interrupted):
            run_pipeline(tiny_experiment(), market, tmp_path, train_end=TRAIN_END, stages=first.stages())
        resumed = run_pipeline(tiny_experiment(), market, tmp_path, train_end=TRAIN_END, stages=second.stages())
        assert (first.calls, second.calls) == (["features", "sweep", "fit"], ["fit"])
        pd.testing.assert_frame_equal(resumed.predictions, outcome.predictions, check_exact=True)

    def test_other_settings_do_not_resume(self, tmp_path: Path, config: ExperimentConfig, market: Market) -> None:
        with pytest.raises(Interrupted):
            run_pipeline(config, market, tmp_path, train_end=TRAIN_END, stages=Counted(stop_at="fit").stages())
        counted = Counted(stop_at="features")
        with pytest.raises(Interrupted):
            run_pipeline(config.updated(seed=3), market, tmp_path, train_end=TRAIN_END, stages=counted.stages())
        assert counted.calls == ["features"]


def interrupt(*_: Any, **__: Any) -> None:
    raise Interrupted
