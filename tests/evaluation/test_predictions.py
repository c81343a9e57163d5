"""The table of predictions: one row per symbol and bar that has a forecast, in named units."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.evaluation.predictions import predictions_frame, quantile_column
from cryptoml.features.targets import REGIMES, TargetConfig
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import Signals, decide

BARS = 6
SYMBOLS = ("ZUSDT", "AUSDT")
CONFIG = TargetConfig(horizons=(1, 4), primary_horizon=4)
COLUMNS = [
    *("symbol", "timestamp", "available_at", "horizon_bars", "p_down", "p_sideways", "p_up", "q10", "q50", "q90"),
    *("volatility", "regime", "position_size", "action", "confidence", "stop_loss_pct", "take_profit_pct"),
]


@pytest.fixture
def panel() -> Panel:
    stamps = pd.date_range("2024-01-01", periods=BARS, freq="4h", tz="UTC")
    candles = np.full((len(SYMBOLS), BARS, len(CANDLE_FIELDS)), 100.0)
    candles[0, 2] = np.nan
    return Panel(SYMBOLS, "4h", stamps, candles)


@pytest.fixture
def predictions() -> Predictions:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet((1, 1, 1), (2, BARS)).astype(np.float32)
    probabilities[1, 0] = np.nan
    quantiles = np.sort(0.02 * random.standard_normal((2, BARS, 2, 3)).astype(np.float32), axis=-1)
    regime = random.dirichlet((1, 1, 1, 1), (2, BARS)).astype(np.float32)
    volatility = 0.01 + random.random((2, BARS)).astype(np.float32) / 100
    return Predictions(probabilities, volatility, regime, random.random((2, BARS)).astype(np.float32), quantiles)


@pytest.fixture
def signals(predictions: Predictions) -> Signals:
    forecasts = Forecasts.of(
        predictions.probabilities,
        predictions.volatility,
        horizon_bars=4,
        timeframe="4h",
        quantiles=predictions.quantiles[:, :, 1],
        quantile_levels=CONFIG.quantiles,
        regime=predictions.regime,
    )
    return decide(forecasts, TradingConfig(min_confidence=0.4, cost_multiple=0.0))


@pytest.fixture
def frame(panel: Panel, predictions: Predictions, signals: Signals) -> pd.DataFrame:
    return predictions_frame(panel, predictions, signals, CONFIG)


def test_columns_types_and_order(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == COLUMNS
    assert str(frame["timestamp"].dt.tz) == "UTC"
    assert frame["horizon_bars"].unique().tolist() == [4]
    keys = frame[["symbol", "timestamp"]]
    assert not keys.duplicated().any()
    pd.testing.assert_frame_equal(keys, keys.sort_values(["symbol", "timestamp"], ignore_index=True))
    assert (frame.dtypes[["p_down", "q10", "volatility", "confidence", "position_size"]] == np.float32).all()


def test_absent_bars_and_missing_forecasts_have_no_row(frame: pd.DataFrame, panel: Panel) -> None:
    assert len(frame) == 2 * BARS - 2
    rows = set(zip(frame["symbol"], frame["timestamp"], strict=True))
    assert ("ZUSDT", panel.timestamps[2]) not in rows
    assert ("AUSDT", panel.timestamps[0]) not in rows


def test_a_forecast_is_available_when_its_bar_has_closed(frame: pd.DataFrame) -> None:
    assert (frame["available_at"] - frame["timestamp"] == pd.Timedelta("4h")).all()


def test_values_stand_at_their_symbol_and_bar(
    frame: pd.DataFrame, panel: Panel, predictions: Predictions, signals: Signals
) -> None:
    row = frame[(frame["symbol"] == "ZUSDT") & (frame["timestamp"] == panel.timestamps[4])].iloc[0]
    assert [row["p_down"], row["p_sideways"], row["p_up"]] == predictions.probabilities[0, 4].tolist()
    assert [row["q10"], row["q50"], row["q90"]] == predictions.quantiles[0, 4, 1].tolist()
    assert row["volatility"] == predictions.volatility[0, 4]
    assert row["regime"] == REGIMES[predictions.regime[0, 4].argmax()]
    assert row["position_size"] == np.float32(signals.position_size[0, 4])
    assert row["confidence"] == np.float32(signals.confidence[0, 4])
    assert row["action"] == ("SELL", "HOLD", "BUY")[int(np.sign(signals.signed_size[0, 4])) + 1]


def test_only_known_words_and_sensible_ranges(frame: pd.DataFrame) -> None:
    assert set(frame["action"]) <= {"BUY", "SELL", "HOLD"}
    assert set(frame["regime"]) <= set(REGIMES)
    assert frame["position_size"].between(0, 1).all()
    assert (frame.loc[frame["action"] == "HOLD", "position_size"] == 0).all()
    np.testing.assert_allclose(frame[["p_down", "p_sideways", "p_up"]].sum(axis=1), 1.0, atol=1e-6)


def test_survives_parquet(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "predictions.parquet"
    frame.to_parquet(path, index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)


def test_nothing_to_say_gives_an_empty_table_of_the_same_columns(
    panel: Panel, predictions: Predictions, signals: Signals
) -> None:
    silent = replace(predictions, probabilities=np.full_like(predictions.probabilities, np.nan))
    found = predictions_frame(panel, silent, signals, CONFIG)
    assert list(found.columns) == COLUMNS
    assert found.empty


@pytest.mark.parametrize(
    ("level", "name"), [(0.1, "q10"), (0.5, "q50"), (0.9, "q90"), (0.025, "q2.5"), (0.07, "q7"), (0.29, "q29")]
)
def test_quantile_columns_are_percentages(level: float, name: str) -> None:
    assert quantile_column(level) == name
