"""The face that a bot uses: asynchronous, with the latest signal at hand, safe while it adapts."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.features.onchain import OnChainMetrics
from cryptoml.live.predictor import Predictor
from cryptoml.live.trading_ai import UltimateTradingAI

HOUR = pd.Timedelta(hours=1)
SIGNAL = [
    *("action", "position_size", "confidence", "stop_loss_pct", "take_profit_pct"),
    *("market_regime", "predicted_volatility", "reasoning"),
]
NO_LOOP_BLOCK_S = 0.1


@pytest.fixture
def loaded(open_ai: Callable[..., UltimateTradingAI]) -> UltimateTradingAI:
    return open_ai()


@pytest.fixture
def acting(trained: Any, loaded: UltimateTradingAI) -> dict[str, Any]:
    """Return a prediction of BTCUSDT that trades."""
    for stop in range(2240, 2340, 10):
        found = asyncio.run(loaded.predict(trained.frames(stop)["BTCUSDT"], "BTC/USDT"))
        if found["signal"]["action"] != "HOLD":
            return found
    raise AssertionError("no bar trades")


def test_predicts_as_the_predictor_does(trained: Any, loaded: UltimateTradingAI) -> None:
    frames = trained.frames(2300)
    others = {symbol: frame for symbol, frame in frames.items() if symbol != "ETHUSDT"}
    found = asyncio.run(loaded.predict(frames["ETHUSDT"], "ETH/USDT", others=others))
    expected = Predictor(trained.path).predict(frames)[1]
    assert found["direction"] == pytest.approx(expected.direction, abs=1e-6)
    assert found["threshold"] == expected.threshold
    assert (loaded.get_trading_signal("ETH/USDT") is None) == (found["signal"]["action"] == "HOLD")


def test_importance_and_attention_tell_what_the_forecast_rests_on(trained: Any, loaded: UltimateTradingAI) -> None:
    found = asyncio.run(loaded.predict(trained.frames(2300)["ETHUSDT"], "ETH/USDT"))
    importance, attention = found["feature_importance"], found["temporal_attention"]
    assert set(importance) == set(trained.bundle.feature_names)
    assert sum(importance.values()) == pytest.approx(1, abs=1e-4)
    assert list(importance.values()) == sorted(importance.values(), reverse=True)
    assert list(attention) == list(range(trained.bundle.context_bars))
    assert sum(attention.values()) == pytest.approx(1, abs=1e-4)
    without = asyncio.run(loaded.predict(trained.frames(2300)["ETHUSDT"], "ETH/USDT", explain=False))
    assert not without["feature_importance"]
    assert without["direction"] == found["direction"]


def test_all_forms_of_candles_give_one_forecast(trained: Any, loaded: UltimateTradingAI) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    epoch = frame["timestamp"].dt.as_unit("ms").astype("int64")
    forms = [
        frame,
        frame.set_index("timestamp"),
        frame.rename(columns={"timestamp": "date", "close": "Close"}),
        frame.assign(timestamp=epoch),
        frame.assign(timestamp=frame["timestamp"].astype(str)),
    ]
    found = [asyncio.run(loaded.predict(form, "BTC/USDT", explain=False)) for form in forms]
    assert all(one == found[0] for one in found)
    with pytest.raises(DataError, match="timezone"):
        asyncio.run(loaded.predict(frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)), "BTC/USDT"))


def test_signal_has_the_keys_of_an_order(loaded: UltimateTradingAI, acting: dict[str, Any]) -> None:
    signal = loaded.get_trading_signal("BTC/USDT")
    assert signal is not None
    assert [name for name in signal if name in SIGNAL] == SIGNAL
    assert signal | acting["signal"] == signal
    assert abs(signal["target_position"]) <= signal["position_size"]
    assert signal["reasoning"].startswith(("UP with ", "DOWN with "))


def test_signal_needs_confidence_and_freshness(loaded: UltimateTradingAI, acting: dict[str, Any]) -> None:
    assert loaded.get_trading_signal("BTC/USDT", min_confidence=0.999) is None
    assert loaded.get_trading_signal("BTC/USDT", now=acting["available_at"] + HOUR) is not None
    assert loaded.get_trading_signal("BTC/USDT", now=acting["available_at"] + 2 * HOUR) is None


def test_no_signal_before_a_prediction(loaded: UltimateTradingAI) -> None:
    assert loaded.get_trading_signal("BTC/USDT") is None
    assert set(loaded.target_positions().values()) == {0.0}


def test_later_calls_may_bring_the_new_bars_alone(
    trained: Any, loaded: UltimateTradingAI, open_ai: Callable[..., UltimateTradingAI]
) -> None:
    whole = open_ai()
    asyncio.run(loaded.predict_all(trained.frames(2290)))
    for stop in (2291, 2294, 2299):
        frames = trained.frames(stop)
        new = {symbol: frame.tail(5) for symbol, frame in frames.items()}
        short, long = (asyncio.run(ai.predict_all(given)) for ai, given in ((loaded, new), (whole, frames)))
        for symbol, expected in long.items():
            assert short[symbol]["timestamp"] == expected["timestamp"]
            assert short[symbol]["direction"] == pytest.approx(expected["direction"], abs=1e-6)


def test_a_hole_before_the_new_bars_is_no_history(trained: Any, loaded: UltimateTradingAI) -> None:
    asyncio.run(loaded.predict(trained.frames(2290)["BTCUSDT"], "BTCUSDT"))
    found = asyncio.run(loaded.predict(trained.frames(2300)["BTCUSDT"].tail(5), "BTCUSDT"))
    assert found["refusal"] == "too_little_history"


def test_readings_are_remembered(trained: Any, loaded: UltimateTradingAI) -> None:
    for stop in (2299, 2300):
        frame = trained.frames(stop)["BTCUSDT"]
        price = float(frame["close"].iloc[-1])
        book = {"bids": [[price * 0.999, 2.0]], "asks": [[price * 1.001, 1.0]]}
        asyncio.run(
            loaded.predict(frame, "BTC/USDT", OnChainMetrics(active_addresses=9.0), book, {"kraken": price, "funding": 1e-4})
        )
    tables = loaded._session.tables
    kept = {name: list(rows) for name, rows in tables.items()}
    assert kept == {
        "onchain": ["BTC"],
        "orderbook": ["BTCUSDT"],
        "venue_candles": ["kraken:BTCUSDT"],
        "funding": ["BTCUSDT"],
    }
    for rows in tables.values():
        for frame in rows.values():
            closes = trained.panel.timestamps[[2298, 2299]] + HOUR
            assert frame["available_at"].tolist() == list(closes)


@contextmanager
def heartbeat(loop_gaps: list[float]) -> Iterator[Callable[[], Awaitable[None]]]:
    """Give a coroutine that measures how much work this process did between two of its turns.

    Work, not time: on a busy machine a loop waits for the processor too.
    """

    async def beat() -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.002)
            now = time.process_time()
            loop_gaps.append(now - last)
            last = now

    yield beat


def test_the_event_loop_goes_on_while_models_work(trained: Any, loaded: UltimateTradingAI) -> None:
    gaps: list[float] = []

    async def work() -> None:
        with heartbeat(gaps) as beat:
            pulse = asyncio.create_task(beat())
            for stop in (2300, 2301, 2302):
                await loaded.predict_all(trained.frames(stop))
            await loaded.adapt_to_new_regime(trained.frames(2302))
            pulse.cancel()

    asyncio.run(loaded.predict_all(trained.frames(2299)))  # what is loaded on first use
    asyncio.run(work())
    assert len(gaps) > 20
    assert max(gaps) < NO_LOOP_BLOCK_S


def test_two_tasks_predict_while_a_third_adapts(
    trained: Any, loaded: UltimateTradingAI, shifted: dict[str, pd.DataFrame]
) -> None:
    predictor = Predictor(trained.path)

    async def forecast(found: list[dict[str, Any]], done: asyncio.Event) -> None:
        while not done.is_set() or len(found) < 3:
            found.append((await loaded.predict_all(shifted, explain=False))["ETHUSDT"])

    async def together() -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
        done, one, two = asyncio.Event(), [], []
        tasks = [asyncio.create_task(forecast(found, done)) for found in (one, two)]
        await asyncio.sleep(0.05)
        adaptation = await loaded.adapt_to_new_regime(shifted)
        await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*tasks)
        return adaptation, one, two

    adaptation, one, two = asyncio.run(together())
    assert adaptation.accepted
    before = predictor.predict(shifted)[1]
    after = predictor.predict(shifted, adaptations=[adaptation])[1]
    assert before.direction != after.direction
    for found in (one, two):
        adapted = [row["adaptation"] is not None for row in found]
        assert adapted == sorted(adapted)
        for row, moved in zip(found, adapted, strict=True):
            expected = after if moved else before
            assert row["direction"] == pytest.approx(expected.direction, abs=1e-6)
            assert row["quantiles"][24] == pytest.approx(expected.quantiles[24], abs=1e-6)
    last = asyncio.run(loaded.predict_all(shifted))["ETHUSDT"]
    assert last["adaptation"] == adaptation.id


def test_many_threads_share_one(trained: Any, loaded: UltimateTradingAI) -> None:
    frames = trained.frames(2300)

    async def both() -> list[dict[str, Any]]:
        return await asyncio.gather(*(loaded.predict(frames[symbol], symbol) for symbol in ("BTCUSDT", "ETHUSDT") * 3))

    together = asyncio.run(both())
    assert together[0] == together[2] == together[4] == asyncio.run(loaded.predict(frames["BTCUSDT"], "BTCUSDT"))


def test_model_work_happens_in_another_thread(trained: Any, loaded: UltimateTradingAI, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    original = Predictor.predict

    def recorded(self: Predictor, *args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return original(self, *args, **options)

    monkeypatch.setattr(Predictor, "predict", recorded)
    asyncio.run(loaded.predict(trained.frames(2300)["BTCUSDT"], "BTC/USDT"))
    assert threads[0] is not threading.main_thread()


def test_candles_without_a_name_are_known_by_their_closes(
    trained: Any, loaded: UltimateTradingAI, shifted: dict[str, pd.DataFrame]
) -> None:
    with pytest.raises(DataError, match="by symbol=, a column 'symbol' or a mapping"):
        asyncio.run(loaded.adapt_to_new_regime(shifted["ETHUSDT"]))
    asyncio.run(loaded.predict_all(shifted))
    found = asyncio.run(loaded.adapt_to_new_regime(shifted["ETHUSDT"].tail(50), learning_rate=0.0001))
    assert found.symbols == ("ETHUSDT",)
    named = asyncio.run(loaded.adapt_to_new_regime(shifted["ETHUSDT"], symbol="ETH/USDT"))
    assert named.knobs == found.knobs
    slower = asyncio.run(loaded.adapt_to_new_regime(shifted["ETHUSDT"], 0.00005, symbol="ETH/USDT"))
    assert np.abs(slower.knobs).sum() < np.abs(found.knobs).sum()


def test_the_instant_of_a_decision_may_be_written_in_any_way(
    trained: Any, loaded: UltimateTradingAI, open_ai: Callable[..., UltimateTradingAI]
) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    close = frame["timestamp"].iloc[-1] + HOUR
    naive = close.tz_localize(None).to_pydatetime()
    for late, refusal in ((0, None), (5, "stale")):
        now = close + late * HOUR
        for written in (now, now.to_pydatetime(), now.isoformat(), now.timestamp(), int(now.timestamp() * 1000)):
            found = asyncio.run(loaded.predict(frame, "BTCUSDT", now=written, explain=False))
            assert found["refusal"] == refusal
            assert (loaded.get_trading_signal("BTCUSDT", min_confidence=0.0, now=written) is None) == (late > 0)
    with pytest.raises(DataError, match="now must carry a timezone"):
        asyncio.run(loaded.predict(frame, "BTCUSDT", now=naive))
    with pytest.raises(DataError, match=r"now must be an instant such as .*, was 'soon'"):
        loaded.get_trading_signal("BTCUSDT", now="soon")
    local = open_ai({"assume_timezone": "UTC"})
    assert asyncio.run(local.predict(frame, "BTCUSDT", now=naive, explain=False))["refusal"] is None


def test_a_call_may_ask_for_less_confidence_than_the_setting(trained: Any, open_ai: Callable[..., UltimateTradingAI]) -> None:
    strict, loose = open_ai({"min_confidence": 0.99}), open_ai({"min_confidence": 0.0})
    frames, decided = trained.frames(2300), 0
    for ai in (strict, loose):
        asyncio.run(ai.predict_all(frames, explain=False))
    for symbol in frames:
        assert strict.get_trading_signal(symbol) is None
        told, expected = strict.get_trading_signal(symbol, min_confidence=0.0), loose.get_trading_signal(symbol)
        assert (told is None) == (expected is None)
        if told is not None and expected is not None:
            decided += 1
            same = ("action", "confidence", "stop_loss_pct", "take_profit_pct", "market_regime", "reasoning")
            assert [told[name] for name in same] == [expected[name] for name in same]
            assert told["target_position"] == 0
            assert strict.get_trading_signal(symbol, min_confidence=told["confidence"]) == told
            assert strict.get_trading_signal(symbol, min_confidence=told["confidence"] + 1e-6) is None
    assert decided


def test_settings_replace_those_of_the_bundle(trained: Any, open_ai: Callable[..., UltimateTradingAI]) -> None:
    ai = open_ai({"min_confidence": 1.0})
    found = asyncio.run(ai.predict(trained.frames(2300)["BTCUSDT"], "BTCUSDT"))
    assert found["signal"]["action"] == "HOLD"


@pytest.mark.parametrize(
    ("symbol", "change", "late", "refusal", "reason"),
    [
        ("DOGE/USDT", lambda frame: frame, 0, "never_trained", "the model was never trained on DOGEUSDT"),
        ("BTC/USDT", lambda frame: frame.tail(50), 0, "too_little_history", "closed bars of history are needed, 50 were given"),
        ("BTC/USDT", lambda frame: frame.iloc[:0], 0, "too_little_history", "closed bars of history are needed, 0 were given"),
        ("BTC/USDT", lambda frame: frame, 5, "stale", "the newest closed candle is 5 bars old, at most 1 are allowed"),
        (
            "BTC/USDT",
            lambda frame: frame.assign(close=frame["close"].mask(frame.index == 2299)),
            0,
            "invalid_candles",
            "close of",
        ),
        ("BTC/USDT", lambda frame: frame.assign(low=frame["low"] * -1), 0, "invalid_candles", "low of"),
        ("BTC/USDT", lambda frame: frame.assign(open=7.0, high=7.0, low=7.0, close=7.0), 0, "missing_inputs", ""),
    ],
)
def test_what_cannot_be_forecast_is_held_for_a_reason(
    trained: Any, loaded: UltimateTradingAI, symbol: str, change: Any, late: int, refusal: str, reason: str
) -> None:
    frame = trained.frames(2300)["BTCUSDT"]
    now = frame["timestamp"].iloc[-1] + (1 + late) * HOUR
    found = asyncio.run(loaded.predict(change(frame), symbol, now=now))
    if refusal != "missing_inputs":
        assert found["refusal"] == refusal
        assert reason in found["signal"]["reasoning"]
    assert found["signal"]["action"] == "HOLD"
    assert found["signal"]["position_size"] == 0
    assert found["signal"]["reasoning"].startswith("HOLD: ")
    assert loaded.get_trading_signal(symbol, now=now) is None
    assert not any(loaded.target_positions().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="close"), "close"),
        (lambda frame: frame.drop(columns="timestamp"), "timestamp"),
        (lambda frame: frame.iloc[::4], "timeframe|grid|1h"),
        (lambda frame: None, "candles of BTCUSDT must be a DataFrame, was NoneType"),
        (lambda frame: {"close": 1.0}, "candles of BTCUSDT must be a DataFrame, was dict"),
    ],
)
def test_candles_that_cannot_be_read_are_refused(trained: Any, loaded: UltimateTradingAI, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        asyncio.run(loaded.predict(change(trained.frames(2300)["BTCUSDT"]), "BTC/USDT"))


def test_errors(trained: Any, tmp_path: Path, loaded: UltimateTradingAI) -> None:
    with pytest.raises(ConfigError, match="'min_confidense' is unknown, the nearest known name is 'min_confidence'"):
        UltimateTradingAI({"min_confidense": 0.5})
    with pytest.raises(BundleError, match=r"bundle\.json"):
        UltimateTradingAI(model_dir=tmp_path / "empty").load_state()
    for call in ("save_state", "get_performance_report", "target_positions"):
        with pytest.raises(BundleError, match="call load_state or train_from_historical_data first"):
            getattr(UltimateTradingAI(model_dir=tmp_path), call)()
    with pytest.raises(BundleError, match="load_state"):
        asyncio.run(UltimateTradingAI(model_dir=tmp_path).predict(trained.frames(2300)["BTCUSDT"], "BTC/USDT"))
    for rate in (0.0, float("nan"), "fast"):
        with pytest.raises(ConfigError, match="learning_rate must be a number above 0"):
            asyncio.run(loaded.adapt_to_new_regime(trained.frames(2300), learning_rate=rate))
    with pytest.raises(ConfigError, match="device must be one that this machine has, was 'warp'"):
        UltimateTradingAI(device="warp")
    with pytest.raises(ConfigError, match="config must map names to settings, was list"):
        UltimateTradingAI(["min_confidence"])
    with pytest.raises(ConfigError, match="symbol must be text such as 'BTC/USDT', was None"):
        loaded.get_trading_signal(None)
