"""Served forecasts equal offline ones; what cannot be forecast is HOLD with the reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, DataError
from cryptoml.live.prediction import Refusal, prediction_frame
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import save_bundle
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.signals import action_names, decide

HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def predictor(trained: Any) -> Predictor:
    return Predictor(trained.path)


def recent(trained: Any, predictor: Predictor, stop: int) -> dict[str, pd.DataFrame]:
    """Return no more candles than the predictor says it needs."""
    return {symbol: frame.tail(predictor.history_bars) for symbol, frame in trained.frames(stop).items()}


@pytest.mark.parametrize("stop", [2210, 2300, 2400])
def test_served_equals_offline(trained: Any, predictor: Predictor, stop: int) -> None:
    served = predictor.predict(recent(trained, predictor, stop))
    for row, one in enumerate(served):
        assert one.refusal is None
        assert one.timestamp == trained.panel.timestamps[stop - 1]
        assert one.available_at == one.timestamp + HOUR
        place = (row, stop - 1)
        np.testing.assert_allclose(list(one.direction.values()), trained.offline.probabilities[place], atol=1e-6)
        np.testing.assert_allclose(list(one.regime.values()), trained.offline.regime[place], atol=1e-6)
        np.testing.assert_allclose(one.volatility, trained.offline.volatility[place], atol=1e-6)
        np.testing.assert_allclose(one.position_size, trained.offline.position_size[place], atol=1e-6)
        quantiles = [list(levels.values()) for levels in one.quantiles.values()]
        np.testing.assert_allclose(quantiles, trained.offline.quantiles[place], atol=1e-6)


def test_signals_equal_those_decided_over_the_whole_past(trained: Any, predictor: Predictor) -> None:
    offline = trained.offline
    forecasts = Forecasts.of(
        offline.probabilities,
        offline.volatility,
        horizon_bars=24,
        timeframe="1h",
        quantiles=offline.quantiles[:, :, 2],
        quantile_levels=(0.1, 0.5, 0.9),
        regime=offline.regime,
    )
    signals = decide(forecasts, TradingConfig(min_confidence=0.34, cost_multiple=0.0))
    for stop in (2220, 2280, 2340):
        for row, one in enumerate(predictor.predict(trained.frames(stop))):
            assert one.signal["action"] == action_names(signals.action)[row, stop - 1]
            assert one.signal["position_size"] == pytest.approx(signals.position_size[row, stop - 1], abs=1e-6)
            assert one.signal["stop_loss_pct"] == pytest.approx(signals.stop_loss_pct[row, stop - 1], abs=1e-6)


def test_rows_after_the_decision_change_nothing(trained: Any, predictor: Predictor) -> None:
    now = trained.panel.timestamps[2299] + HOUR
    closed = predictor.predict(trained.frames(2300), now=now)
    with_open_bar = predictor.predict(trained.frames(2301), now=now)
    assert closed == with_open_bar


def test_late_symbol_is_forecast_at_its_own_last_bar(trained: Any, predictor: Predictor) -> None:
    frames = trained.frames(2300)
    frames["ETHUSDT"] = frames["ETHUSDT"].iloc[:-1]
    late = predictor.predict(frames)[1]
    assert late.timestamp == trained.panel.timestamps[2298]
    np.testing.assert_allclose(list(late.direction.values()), trained.offline.probabilities[1, 2298], atol=1e-6)


def test_order_and_spelling_of_the_caller(trained: Any, predictor: Predictor) -> None:
    frames = trained.frames(2300)
    spelled = {"sol-usdt": frames["SOLUSDT"], "BTC/USDT": frames["BTCUSDT"], "ETH_USDT": frames["ETHUSDT"]}
    served = {one.symbol: one for one in predictor.predict(spelled)}
    assert list(served) == ["SOLUSDT", "BTCUSDT", "ETHUSDT"]
    assert list(served.values())[1] == predictor.predict(frames)[0]


def test_refused_symbols_hold_and_the_others_are_forecast(trained: Any, predictor: Predictor) -> None:
    frames = trained.frames(2300)
    frames["DOGEUSDT"] = frames["BTCUSDT"]
    frames["ETHUSDT"] = frames["ETHUSDT"].tail(20)
    frames["SOLUSDT"] = frames["SOLUSDT"].assign(close=frames["SOLUSDT"]["close"].where(lambda close: close.index < 2298))
    served = {one.symbol: one for one in predictor.predict(frames)}
    assert served["BTCUSDT"].refusal is None
    expected = {
        "DOGEUSDT": Refusal.NEVER_TRAINED,
        "ETHUSDT": Refusal.TOO_LITTLE_HISTORY,
        "SOLUSDT": Refusal.INVALID_CANDLES,
    }
    for symbol, refusal in expected.items():
        assert served[symbol].refusal is refusal
        assert served[symbol].signal["action"] == "HOLD"
        assert served[symbol].signal["position_size"] == 0
        assert served[symbol].signal["reasoning"].startswith("HOLD: ")


def test_stale_candles_hold(trained: Any, predictor: Predictor) -> None:
    now = trained.panel.timestamps[2299] + 3 * HOUR
    assert {one.refusal for one in predictor.predict(trained.frames(2300), now=now)} == {Refusal.STALE}


def test_prices_that_never_move_have_no_forecast(trained: Any, predictor: Predictor) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    flat = frame.assign(open=1.0, high=1.0, low=1.0, close=1.0)
    one = predictor.predict({"BTCUSDT": flat})[0]
    assert one.signal["action"] == "HOLD"


def test_table_has_the_columns_of_the_pipeline(trained: Any, predictor: Predictor) -> None:
    table = prediction_frame(predictor.predict(trained.frames(2300)))
    expected = ["symbol", "timestamp", "available_at", "horizon_bars", "p_down", "p_sideways", "p_up", "q10", "q50", "q90"]
    expected += ["volatility", "regime", "position_size", "action", "confidence"]
    assert [name for name in table.columns if name in expected] == expected
    assert len(table) == 3


def test_bundle_with_other_features_is_refused(trained: Any) -> None:
    names = ("price_of_tea", *trained.bundle.feature_names[1:])
    predictor = Predictor(replace(trained.bundle, feature_names=names))
    with pytest.raises(BundleError, match="feature 0 is price_of_tea there"):
        predictor.predict(trained.frames(2300))


def test_a_symbol_on_the_axis_that_was_never_trained_is_refused(trained: Any, tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", replace(trained.bundle, untrained=("ETHUSDT",)))
    predictor = Predictor(tmp_path / "bundle")
    assert (predictor.symbols, predictor.trained) == (("BTCUSDT", "ETHUSDT", "SOLUSDT"), ("BTCUSDT", "SOLUSDT"))
    found = predictor.predict(recent(trained, predictor, 2300))
    assert [one.refusal for one in found] == [None, Refusal.NEVER_TRAINED, None]
    assert found[1].signal["action"] == "HOLD"
    known = np.isfinite(predictor.decide_bars(trained.panel, 5)[0].volatility)
    assert known.tolist() == [[True] * 5, [False] * 5, [True] * 5]
    with pytest.raises(DataError, match="never trained on ETHUSDT"):
        predictor.adapt(recent(trained, predictor, 2300), symbols=["ETHUSDT"])
