"""What a bot remembers is never lost, never goes back, and holds no hindsight."""

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.live.outcomes import OutcomeLog
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.models.bundle import save_bundle
from tests.live.test_track_record import bars, forecast

HOUR = pd.Timedelta(hours=1)
BUSY = {"min_confidence": 0.34, "cost_multiple": 0.0, "holding_bars": 24}

Open = Callable[..., UltimateTradingAI]


def ask(ai: UltimateTradingAI, frames: dict[str, pd.DataFrame], **options: Any) -> dict[str, dict[str, Any]]:
    return asyncio.run(ai.predict_all(frames, explain=False, **options))


def live_through(ai: UltimateTradingAI, trained: Any, first: int, last: int) -> None:
    for stop in range(first, last + 1):
        ask(ai, trained.frames(stop))


def newest(frames: dict[str, pd.DataFrame], count: int) -> dict[str, pd.DataFrame]:
    return {symbol: frame.tail(count) for symbol, frame in frames.items()}


@pytest.fixture
def invested(trained: Any, open_ai: Open) -> UltimateTradingAI:
    ai = open_ai(BUSY)
    live_through(ai, trained, 2291, 2300)
    assert any(ai.target_positions().values())
    return ai


@pytest.mark.parametrize("close", [None, np.nan])
def test_a_bar_of_the_future_is_refused_and_changes_nothing(
    trained: Any, invested: UltimateTradingAI, close: float | None
) -> None:
    before, frame = invested.target_positions(), trained.frames(2300)["BTCUSDT"]
    leap = pd.concat([frame, frame.tail(1).assign(timestamp=pd.Timestamp("2090-01-01", tz="UTC"), close=close or frame["close"])])
    with pytest.raises(DataError, match=r"timestamp of BTCUSDT reaches 2090-01-01 .* after the present"):
        asyncio.run(invested.predict(leap, "BTCUSDT"))
    assert invested.target_positions() == before
    assert ask(invested, newest(trained.frames(2301), 1))["BTCUSDT"]["refusal"] is None


def test_a_simulation_may_run_past_the_present(trained: Any, open_ai: Open) -> None:
    later = {
        symbol: frame.assign(timestamp=frame["timestamp"] + 24 * 40_000 * HOUR) for symbol, frame in trained.frames(2300).items()
    }
    assert ask(open_ai(), later)["BTCUSDT"]["refusal"] is None


def test_a_hole_loses_neither_bars_nor_outcomes(trained: Any, invested: UltimateTradingAI) -> None:
    log = invested._session.log
    found = ask(invested, newest(trained.frames(2340), 1))
    assert found["BTCUSDT"]["refusal"] == "too_little_history"
    assert not any(invested.target_positions().values())
    assert not log.settled
    found = ask(invested, newest(trained.frames(2340), 40))
    assert found["BTCUSDT"]["refusal"] is None
    assert len(log.settled) == 3 * 10
    assert all(None not in (out.first_open, out.second_open, out.final_close) for _, out in log.settled)


def test_an_answer_about_an_older_bar_replaces_nothing_newer(trained: Any, invested: UltimateTradingAI) -> None:
    before, signal = invested.target_positions(), invested._session.latest["BTCUSDT"]
    ask(invested, trained.frames(2285))
    ask(invested, trained.frames(2295))
    assert invested.target_positions() == before
    assert invested._session.latest["BTCUSDT"] is signal
    assert ask(invested, newest(trained.frames(2301), 1))["BTCUSDT"]["refusal"] is None


def test_the_log_takes_no_hindsight(trained: Any, open_ai: Open, shifted: dict[str, pd.DataFrame]) -> None:
    ai = open_ai(BUSY)
    ask(ai, trained.frames(2240))
    ask(ai, shifted)
    first = ai._session.log.forecasts
    asyncio.run(ai.adapt_to_new_regime(shifted))
    for stop in (2240, 2250):
        ask(ai, trained.frames(stop))
    assert ai._session.log.forecasts == first


def test_the_log_takes_nothing_that_the_model_learned_from(trained: Any, tmp_path: Path) -> None:
    known = trained.panel.timestamps[2294]
    save_bundle(tmp_path / "bundle", replace(trained.bundle, known_until=known.isoformat()))
    ai = UltimateTradingAI(BUSY, model_dir=tmp_path)
    ai.load_state()
    live_through(ai, trained, 2291, 2300)
    assert min(one.timestamp for one in ai._session.log.forecasts) == known


@pytest.mark.parametrize("bad", [1, 48])
@pytest.mark.parametrize("value", [np.nan, -5.0])
def test_bad_newest_candles_hold_and_leave_the_position(
    trained: Any, invested: UltimateTradingAI, bad: int, value: float
) -> None:
    frame = trained.frames(2300 + bad)["BTCUSDT"]
    frame.loc[frame.index[-bad:], ["open", "high", "low", "close"]] = value
    found = asyncio.run(invested.predict(frame, "BTCUSDT"))
    assert found["refusal"] == "invalid_candles"
    assert f"{bad} candles in reach are bad" in found["signal"]["reasoning"]
    assert invested.get_trading_signal("BTCUSDT") is None
    assert invested.target_positions()["BTCUSDT"] == 0


def test_stale_candles_leave_the_position(trained: Any, invested: UltimateTradingAI) -> None:
    frames = trained.frames(2300)
    found = ask(invested, frames, now=frames["BTCUSDT"]["timestamp"].iloc[-1] + 72.4 * HOUR)
    assert found["BTCUSDT"]["refusal"] == "stale"
    assert invested.get_trading_signal("BTCUSDT") is None
    assert not any(invested.target_positions().values())


@pytest.mark.parametrize("late", [None, 1])
def test_a_feed_that_went_silent_gives_no_signal(trained: Any, invested: UltimateTradingAI, late: int | None) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    now = None if late is None else frame["timestamp"].iloc[-1] + (1 + late) * HOUR
    found = asyncio.run(invested.predict(frame.iloc[:0], "BTCUSDT", now=now))
    assert found["refusal"] == "too_little_history"
    assert invested._session.latest["BTCUSDT"].signal["action"] == "HOLD"
    if late is not None:
        assert invested.target_positions()["BTCUSDT"] == 0


def test_a_new_model_goes_on_with_what_the_bot_knows(trained: Any, invested: UltimateTradingAI) -> None:
    before, signal = invested.target_positions(), invested._session.latest["BTCUSDT"]
    price = float(trained.frames(2300)["BTCUSDT"]["close"].iloc[-1])
    book = {"bids": [[price * 0.999, 3.0]], "asks": [[price * 1.001, 2.0]]}
    asyncio.run(invested.predict(trained.frames(2300)["BTCUSDT"], "BTCUSDT", orderbook=book))
    readings = invested._session.tables
    fresh = invested._workshop.open()
    live_through(invested, trained, 2301, 2301)  # while the new model is in training
    invested._go_on_with(fresh)
    assert invested._session is fresh
    assert fresh.tables.keys() == readings.keys()
    assert len(fresh.log) == 3 * 11
    assert invested.target_positions() != before
    assert invested._session.latest["BTCUSDT"].timestamp == signal.timestamp + HOUR
    assert ask(invested, newest(trained.frames(2302), 1))["BTCUSDT"]["refusal"] is None


def test_nothing_waits_for_a_training(trained: Any, invested: UltimateTradingAI, shifted: dict[str, pd.DataFrame]) -> None:
    done = threading.Event()
    invested._learning.submit(done.wait)
    try:

        async def together() -> list[Any]:
            adapts = [invested.adapt_to_new_regime(shifted) for _ in range(8)]
            return await asyncio.wait_for(asyncio.gather(*adapts, invested.predict_all(shifted, explain=False)), 60)

        *adaptations, found = asyncio.run(together())
    finally:
        done.set()
    assert all(one.accepted for one in adaptations)
    assert found["BTCUSDT"]["refusal"] is None


def test_an_adaptation_is_of_the_model_that_serves(
    trained: Any, invested: UltimateTradingAI, shifted: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    retired, adapt = invested._session, type(invested._session).adapt

    def retire(session: Any, *args: Any, **options: Any) -> Any:
        if session is retired:
            invested._go_on_with(invested._workshop.open())
        return adapt(session, *args, **options)

    monkeypatch.setattr(type(retired), "adapt", retire)
    assert asyncio.run(invested.adapt_to_new_regime(shifted)).accepted
    assert invested._session is not retired
    assert len(invested._session.adaptations) == 1


def test_who_reads_does_not_wait_for_the_disk(trained: Any, invested: UltimateTradingAI, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, syncing = os.fsync, threading.Event()

    def slow(descriptor: int) -> None:
        syncing.set()
        time.sleep(1.5)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    asking = threading.Thread(target=ask, args=(invested, trained.frames(2301)))
    asking.start()
    assert syncing.wait(60)
    start = time.perf_counter()
    invested.get_trading_signal("BTC/USDT")
    invested.target_positions()
    invested.get_performance_report()
    assert time.perf_counter() - start < 1
    asking.join()


def test_lines_that_a_full_disk_refused_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = OutcomeLog(path, "1h")
    log.add([forecast(0, 1)])
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        log.add([forecast(1, -1)])
    assert path.read_bytes() == before
    log.add([forecast(2, 0)])
    log.settle("BTCUSDT", bars(8))
    again = OutcomeLog(path, "1h")
    assert again.forecasts == log.forecasts
    assert again.settled == log.settled
    assert len(again.settled) == 3


def test_a_settled_forecast_stands(tmp_path: Path) -> None:
    log = OutcomeLog(tmp_path / "log.jsonl", "1h")
    log.add([forecast(0, 1)])
    log.settle("BTCUSDT", bars(6))
    log.add([forecast(0, -1)])
    assert log.forecasts == [forecast(0, 1)]


@pytest.mark.parametrize(
    "line",
    [
        b"5",
        b"null",
        b"\xff\xfe",
        b'{"kind": "forecast"}',
        json.dumps({"kind": "forecast", "symbol": "BTCUSDT", "timestamp": "2024-01-01T00:00:00"}).encode(),
        json.dumps(
            {
                "kind": "forecast",
                "timestamp": "2024-01-01T00:00:00+00:00",
                **{name: None for name in vars(forecast(0, 1)) if name != "timestamp"},
            }
        ).encode(),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    OutcomeLog(path, "1h").add([forecast(0, 1)])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(BundleError, match="line 2 is damaged"):
        OutcomeLog(path, "1h")


def test_impossible_arguments_are_named(trained: Any, invested: UltimateTradingAI, open_ai: Open) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    for value in ("0.5", 65, -1, float("nan")):
        with pytest.raises(ConfigError, match="min_confidence must be a number from 0 to 1"):
            invested.get_trading_signal("BTC/USDT", min_confidence=value)
        with pytest.raises(ConfigError, match="drawdown must be a number from 0 to 1"):
            invested.target_positions(drawdown=value)
    for bars_ in (1.5, "x", 0):
        with pytest.raises(ConfigError, match="bars must be a whole number of at least 1"):
            asyncio.run(invested.adapt_to_new_regime(frame, symbol="BTCUSDT", bars=bars_))
    with pytest.raises(ConfigError, match="regime must be text, was 5"):
        asyncio.run(invested.adapt_to_new_regime(frame, symbol="BTCUSDT", regime=5))
    with pytest.raises(ConfigError, match="learning_rate must be a number above 0, was inf"):
        asyncio.run(invested.adapt_to_new_regime(frame, float("inf"), symbol="BTCUSDT"))
    with pytest.raises(DataError, match="others must map symbols to candles, was list"):
        asyncio.run(invested.predict(frame, "BTCUSDT", others=[frame]))
    with pytest.raises(ConfigError, match="timeframe must be 1h, which the model was trained on, was '5m'"):
        open_ai({"timeframe": "5m"})


def test_a_bar_that_is_not_closed_teaches_nothing(trained: Any, invested: UltimateTradingAI) -> None:
    frames = trained.frames(2300)
    last = frames["BTCUSDT"]["timestamp"].iloc[-1]
    found = asyncio.run(invested.adapt_to_new_regime(frames, now=last + HOUR / 2))
    assert found.end == last - HOUR


def test_one_name_is_one_symbol(trained: Any, open_ai: Open) -> None:
    with pytest.raises(DataError, match="candles must hold XRPUSDT"):
        asyncio.run(open_ai().train_from_historical_data(trained.frames(2300), "XRP/USDT"))
