"""The pipeline on data that lack something: history, symbols, labels, trades, or the data themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.config import ExperimentConfig
from cryptoml.data.panel import Panel
from cryptoml.data.synthetic import synthetic_market
from cryptoml.errors import DataError
from cryptoml.evaluation.report import strict_json
from cryptoml.evaluation.report.summary import sentences
from cryptoml.live.prediction import Refusal
from cryptoml.live.predictor import Predictor
from cryptoml.pipeline import Market, Outcome, open_market, run_pipeline
from tests.tiny import tiny_experiment

TRAIN_END = "2021-02-15"
MIDNIGHT = pd.Timestamp("2021-02-16", tz="UTC")
SHORT = ["price_return_1h", "price_zscore_close_20", "price_sma_distance_200", "time_hour_*"]
"""Features that need at most 200 bars of history."""
FORECAST = ["p_down", "p_sideways", "p_up", "q10", "q90", "volatility"]


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return tiny_experiment(sweep={"num_trials": 0})


@pytest.fixture(scope="module")
def market(config: ExperimentConfig) -> Market:
    return open_market("synthetic", config)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig, market: Market) -> Outcome:
    return run_pipeline(config, market, tmp_path_factory.mktemp("plain"), train_end=TRAIN_END)


@pytest.fixture(scope="module")
def listed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("listed")


@pytest.fixture(scope="module")
def listed(listed_folder: Path, market: Market) -> tuple[Panel, pd.DataFrame]:
    """Of three symbols one is listed late in the training span, one after it."""
    config = tiny_experiment(sweep={"num_trials": 0}, features={"include": SHORT})
    candles = market.panel.candles.copy()
    candles[1, :900] = np.nan
    candles[2, :1000] = np.nan
    panel = replace(market.panel, candles=candles)
    outcome = run_pipeline(config, replace(market, panel=panel, synthetic=None), listed_folder, train_end=TRAIN_END)
    return panel, outcome.predictions


class TestHistory:
    """What live refuses is not forecast offline either."""

    def test_offline_forecasts_stand_where_live_ones_do(self, listed_folder: Path, listed: tuple[Panel, pd.DataFrame]) -> None:
        panel, frame = listed
        predictor = Predictor(listed_folder / "bundle")
        start = panel.timestamps.get_loc(MIDNIGHT)
        assert 900 < start < 900 + predictor.history_bars - 1 < panel.num_bars
        live = np.isfinite(predictor.decide_bars(panel)[0].volatility)
        table = np.zeros_like(live)
        for symbol, rows in frame.groupby("symbol"):
            table[panel.index_of(str(symbol)), panel.timestamps.get_indexer(pd.DatetimeIndex(rows["timestamp"]))] = True
        np.testing.assert_array_equal(table[:, start:], live[:, start:])
        assert table[0, start:].all()
        assert table[1].argmax() == 900 + predictor.history_bars - 1

    def test_a_symbol_without_training_labels_is_none_that_the_bundle_was_trained_on(
        self, listed_folder: Path, listed: tuple[Panel, pd.DataFrame]
    ) -> None:
        panel, frame = listed
        predictor = Predictor(listed_folder / "bundle")
        assert predictor.symbols == panel.symbols
        assert predictor.trained == panel.symbols[:2]
        assert panel.symbols[2] not in set(frame["symbol"])
        found = predictor.predict({symbol: panel.frame(symbol) for symbol in panel.symbols})
        assert [one.refusal for one in found] == [None, None, Refusal.NEVER_TRAINED]

    def test_data_shorter_than_live_demands_are_forecast_and_say_so(self, plain: Outcome, market: Market) -> None:
        assert plain.predictions.groupby("symbol").size().tolist() == [1500 - market.panel.timestamps.get_loc(MIDNIGHT)] * 3
        assert "live demands 2063 bars" in plain.report.missing["history of a live forecast"]

    def test_symbols_that_are_old_enough_keep_every_figure(
        self, tmp_path: Path, config: ExperimentConfig, market: Market, plain: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cryptoml.walk_forward.forget", lambda predictions, _: predictions)
        kept = run_pipeline(config, market, tmp_path, train_end=TRAIN_END)
        pd.testing.assert_frame_equal(kept.predictions, plain.predictions, check_exact=True)
        assert strict_json(kept.report.ensemble.figures) == strict_json(plain.report.ensemble.figures)


class TestData:
    def test_gaps_listings_and_another_timeframe(self, tmp_path: Path) -> None:
        config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, market={"timeframe": "4h"})
        config = config.updated(features={"include": SHORT})
        panel = synthetic_market(config.market).panel
        candles = panel.candles.copy()
        candles[1, :500] = np.nan
        candles[2, 1300:] = np.nan
        candles[0, 1210:1216] = np.nan
        market = Market(replace(panel, candles=candles), open_market("synthetic", config).health, "a market with gaps")
        frame = run_pipeline(config, market, tmp_path).predictions
        assert (frame["available_at"] - frame["timestamp"] == pd.Timedelta("4h")).all()
        counts = frame.groupby("symbol").size()
        assert counts[panel.symbols[0]] == 375 - 6
        assert counts[panel.symbols[1]] == 375
        assert counts[panel.symbols[2]] == 1300 - 1125
        assert np.isfinite(frame[FORECAST]).all(axis=None)

    def test_one_symbol_is_enough(self, tmp_path: Path) -> None:
        config = tiny_experiment(sweep={"num_trials": 0}, shuffled_label_run=False, market={"num_assets": 1})
        outcome = run_pipeline(config, open_market("synthetic", config), tmp_path)
        assert outcome.predictions["symbol"].nunique() == 1

    def test_figures_that_two_symbols_or_no_trade_cannot_have_are_explained(self, tmp_path: Path) -> None:
        config = tiny_experiment(sweep={"num_trials": 0}, market={"num_assets": 2}, trading={"min_confidence": 0.99})
        report = run_pipeline(config.updated(ablations=True), open_market("synthetic", config), tmp_path).report
        assert "at least 3 symbols" in report.missing["IC, rank IC and ICIR"]
        assert "traded nothing" in report.missing["Sharpe ratio"]
        assert "one seed was fitted" in report.missing["spread between initialisations"]
        assert all("rank_ic" not in measures for measures in report.comparisons.values())
        said = dict(sentences(report))
        assert "nothing was traded" in said["Trading"]
        assert "n/a" not in " ".join(said.values())
        assert "n/a (" not in (tmp_path / "report.html").read_text()

    def test_a_folder_of_candles_is_a_market(self, tmp_path: Path, market: Market, config: ExperimentConfig) -> None:
        for symbol in market.panel.symbols:
            market.panel.frame(symbol).to_csv(tmp_path / f"{symbol}-1h.csv", index=False)
        opened = open_market(str(tmp_path), config, ["BTC/USDT"])
        assert opened.panel.symbols == ("BTCUSDT",)
        assert opened.synthetic is None
        assert opened.health.ok

    def test_nothing_there_is_bad_data(self, tmp_path: Path, config: ExperimentConfig) -> None:
        with pytest.raises(DataError, match="absent"):
            open_market(str(tmp_path / "absent"), config)
