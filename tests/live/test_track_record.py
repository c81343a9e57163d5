"""Outcomes are those of the candles, and live decisions earn what the backtest says."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation.backtest import backtest
from cryptoml.evaluation.performance import sharpe_ratio
from cryptoml.features.targets import make_targets
from cryptoml.live.outcomes import LoggedForecast, OutcomeLog
from cryptoml.live.predictor import Predictor
from cryptoml.live.track_record import direction_accuracy, net_returns
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.positions import plan_trades
from tests.live.conftest import TARGETS

FIRST, BARS = 2230, 60
TRADING = {"min_confidence": 0.34, "cost_multiple": 0.0, "holding_bars": 3, "max_gross": 0.06}
REPORT = {
    *("prediction_accuracy", "sharpe_ratio", "num_predictions", "avg_confidence"),
    *("active_symbols", "device", "model_parameters"),
}


@pytest.fixture(scope="module")
def lived(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[UltimateTradingAI, list[dict[str, float]], list[Any]]:
    """A bot that was asked at every bar, what it held after each, and its predictions."""
    from cryptoml.models.bundle import save_bundle

    folder = tmp_path_factory.mktemp("lived")
    save_bundle(folder / "bundle", trained.bundle)
    ai = UltimateTradingAI(TRADING, model_dir=folder)
    ai.load_state()
    held, found = [], []
    for stop in range(FIRST + 1, FIRST + BARS + 1):
        found.append(asyncio.run(ai.predict_all(trained.frames(stop), explain=False)))
        held.append(ai.target_positions())
    return ai, held, found


@pytest.fixture(scope="module")
def offline(trained: Any) -> Any:
    """What the backtest's own path decides on the same bars, beginning as the bot did."""
    panel = trained.panel.slice_time(FIRST, FIRST + BARS)
    found = trained.offline.on_bars(slice(FIRST, FIRST + BARS))
    forecasts = Forecasts.of(
        found.probabilities,
        found.volatility,
        horizon_bars=24,
        timeframe="1h",
        quantiles=found.quantiles[:, :, 2],
        quantile_levels=(0.1, 0.5, 0.9),
        regime=found.regime,
    )
    return panel, forecasts, plan_trades(forecasts, TradingConfig(**TRADING))


def test_live_decisions_bar_by_bar_are_those_of_the_backtest(lived: Any, offline: Any, trained: Any) -> None:
    _, held, found = lived
    panel, _, plan = offline
    names = np.array(["SELL", "HOLD", "BUY"])[plan.signals.action + 1]
    for bar in range(BARS):
        for row, symbol in enumerate(panel.symbols):
            assert found[bar][symbol]["signal"]["action"] == names[row, bar]
            assert found[bar][symbol]["signal"]["stop_loss_pct"] == pytest.approx(plan.signals.stop_loss_pct[row, bar], abs=1e-6)
    live = np.array([[targets[symbol] for targets in held] for symbol in panel.symbols])
    assert len(np.unique(np.sign(live))) == 3
    np.testing.assert_allclose(live, plan.target, atol=1e-6)
    trades = [backtest(target, panel, TradingConfig(**TRADING)) for target in (live, plan.target)]
    np.testing.assert_allclose(trades[0].position, trades[1].position, atol=1e-6)
    np.testing.assert_allclose(trades[0].net, trades[1].net, atol=1e-7)


def test_the_log_earns_what_the_backtest_earns(lived: Any, offline: Any) -> None:
    ai, _, _ = lived
    panel, _, plan = offline
    config = TradingConfig(**TRADING)
    returns = net_returns(ai._session.log, config)
    assert len(returns) == BARS - 24
    account = backtest(plan.target, panel, config)
    np.testing.assert_allclose(returns, account.net[1 : len(returns) + 1], atol=1e-6)  # a decision is filled a bar later
    report = ai.get_performance_report()
    assert report["sharpe_ratio"] == pytest.approx(sharpe_ratio(account.net[1 : len(returns) + 1], bars_per_year("1h")), rel=1e-3)


def test_accuracy_is_that_of_the_labels(lived: Any, offline: Any, trained: Any) -> None:
    ai, _, _ = lived
    direction = make_targets(trained.panel, TARGETS).direction[:, FIRST : FIRST + BARS - 24]
    _, forecasts, _ = offline
    expected = (forecasts.probabilities[:, : BARS - 24].argmax(axis=-1) == direction).mean()
    report = ai.get_performance_report()
    assert set(report) == REPORT
    assert report["prediction_accuracy"] == pytest.approx(expected)
    assert report["num_predictions"] == 3 * BARS
    assert report["active_symbols"] == 3
    assert report["device"] == "cpu"
    assert report["model_parameters"] == Predictor(trained.path).num_parameters > 1000
    confidence = np.fmax(forecasts.probabilities[..., 0], forecasts.probabilities[..., 2])
    assert report["avg_confidence"] == pytest.approx(confidence.mean(), abs=1e-6)


def test_nothing_is_known_before_the_first_outcome(trained: Any, open_ai: Callable[..., UltimateTradingAI]) -> None:
    report = open_ai().get_performance_report()
    assert report["prediction_accuracy"] is report["sharpe_ratio"] is report["avg_confidence"] is None
    assert report["num_predictions"] == report["active_symbols"] == 0


def bars(count: int, start: str = "2024-01-01") -> pd.DataFrame:
    stamps = pd.date_range(start, periods=count, freq="h", tz="UTC")
    price = 100.0 + np.arange(count)
    return pd.DataFrame({"timestamp": stamps, "open": price, "close": price + 0.5})


def forecast(bar: int, direction: int, **changes: Any) -> LoggedForecast:
    stamp = pd.Timestamp("2024-01-01", tz="UTC") + bar * pd.Timedelta(hours=1)
    values = {"horizon_bars": 4, "close": 100.5 + bar, "threshold": 0.01, "confidence": 0.5, "size": 0.02}
    return LoggedForecast(symbol="BTCUSDT", timestamp=stamp, direction=direction, **(values | changes))


def test_outcomes_by_hand(tmp_path: Path) -> None:
    log = OutcomeLog(tmp_path / "log.jsonl", "1h")
    log.add([forecast(0, 1), forecast(1, 0), forecast(2, 1)])
    log.settle("BTCUSDT", bars(6))  # bar 4 ends the first horizon, bar 5 the second; the third is still open
    assert [(out.first_open, out.second_open, out.final_close) for _, out in log.settled] == [
        (101, 102, 104.5),
        (102, 103, 105.5),
    ]
    assert direction_accuracy(log) == 0.5
    again = OutcomeLog(tmp_path / "log.jsonl", "1h")
    assert again.settled == log.settled
    assert again.forecasts == log.forecasts
    again.settle("BTCUSDT", bars(7))
    assert len(again.settled) == 3


def test_a_bar_that_never_was_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    log = OutcomeLog(None, "1h")
    log.add([forecast(0, 1)])
    log.settle("BTCUSDT", bars(8).drop(index=4))
    assert not log.settled  # the bar may still come
    log.settle("BTCUSDT", bars(8).drop(index=[0, 4]))
    assert log.settled[0][1].final_close is None
    assert direction_accuracy(log) is None
    assert not list(tmp_path.iterdir())


def test_a_forecast_made_again_counts_once(tmp_path: Path) -> None:
    log = OutcomeLog(tmp_path / "log.jsonl", "1h")
    log.add([forecast(0, 1)])
    log.add([forecast(0, 1)])
    log.add([forecast(0, -1)])
    assert len(log) == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert OutcomeLog(tmp_path / "log.jsonl", "1h").forecasts == [forecast(0, -1)]


def test_a_full_disk_does_not_stop_a_bot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    log = OutcomeLog(tmp_path / "file" / "log.jsonl", "1h")
    log.add([forecast(0, 1)])
    assert len(log) == 1
    assert "cannot be written" in caplog.text
