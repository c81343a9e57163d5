"""The face that a bot uses: asynchronous, with the latest signal at hand."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from cryptoml.errors import BundleError, ConfigError
from cryptoml.live.predictor import Predictor
from cryptoml.live.trading_ai import UltimateTradingAI


@pytest.fixture
def loaded(trained: Any) -> UltimateTradingAI:
    ai = UltimateTradingAI(model_dir=trained.path)
    ai.load_state()
    return ai


def test_predicts_as_the_predictor_does(trained: Any, loaded: UltimateTradingAI) -> None:
    frames = trained.frames(2300)
    others = {symbol: frame for symbol, frame in frames.items() if symbol != "ETHUSDT"}
    found = asyncio.run(loaded.predict(frames["ETHUSDT"], "ETH/USDT", others=others))
    assert found["direction"] == pytest.approx(Predictor(trained.path).predict(frames)[1].direction, abs=1e-6)
    signal = loaded.get_trading_signal("ETH/USDT")
    assert signal is None if found["signal"]["action"] == "HOLD" else signal == found["signal"]


def test_signal_needs_confidence(trained: Any, loaded: UltimateTradingAI) -> None:
    for stop in range(2240, 2340, 10):
        found = asyncio.run(loaded.predict(trained.frames(stop)["BTCUSDT"], "BTC/USDT"))
        if found["signal"]["action"] != "HOLD":
            break
    assert loaded.get_trading_signal("BTC/USDT") == found["signal"]
    assert loaded.get_trading_signal("BTC/USDT", min_confidence=0.999) is None


def test_no_signal_before_a_prediction(loaded: UltimateTradingAI) -> None:
    assert loaded.get_trading_signal("BTC/USDT") is None


def test_model_work_leaves_the_event_loop_alone(trained: Any, loaded: UltimateTradingAI, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    original = Predictor.predict

    def recorded(self: Predictor, *args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return original(self, *args, **options)

    monkeypatch.setattr(Predictor, "predict", recorded)
    asyncio.run(loaded.predict(trained.frames(2300)["BTCUSDT"], "BTC/USDT"))
    assert threads[0] is not threading.main_thread()


def test_two_tasks_at_once(trained: Any, loaded: UltimateTradingAI) -> None:
    frames = trained.frames(2300)

    async def both() -> list[dict[str, Any]]:
        return await asyncio.gather(*(loaded.predict(frames[symbol], symbol) for symbol in ("BTCUSDT", "ETHUSDT") * 3))

    together = asyncio.run(both())
    assert together[0] == together[2] == together[4] == asyncio.run(loaded.predict(frames["BTCUSDT"], "BTCUSDT"))


def test_settings_replace_those_of_the_bundle(trained: Any) -> None:
    ai = UltimateTradingAI({"min_confidence": 1.0}, model_dir=trained.path.parent)
    ai.load_state()
    found = asyncio.run(ai.predict(trained.frames(2300)["BTCUSDT"], "BTCUSDT"))
    assert found["signal"]["action"] == "HOLD"


def test_errors(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="min_confidense"):
        UltimateTradingAI({"min_confidense": 0.5})
    with pytest.raises(BundleError, match=r"bundle\.json"):
        UltimateTradingAI(model_dir=tmp_path).load_state()
    with pytest.raises(BundleError, match="load_state"):
        asyncio.run(UltimateTradingAI(model_dir=tmp_path).predict(trained.frames(2300)["BTCUSDT"], "BTC/USDT"))
