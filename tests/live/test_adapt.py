"""A predictor adapts to its newest bars: it follows what they show, beside the shared weights, and can be kept and restored."""

import json
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import BundleError, DataError
from cryptoml.live.adaptation import Adaptation
from cryptoml.live.prediction import Refusal
from cryptoml.live.predictor import Predictor

HOUR = pd.Timedelta(hours=1)
STOP = 2350


@pytest.fixture(scope="module")
def predictor(trained: Any) -> Predictor:
    return Predictor(trained.path)


def wilder(trained: Any, factor: float = 3.0, drift: float = 0.0, bars: int = 50) -> dict[str, pd.DataFrame]:
    """Return candles whose newest moves are larger than any before."""
    frames = {}
    for symbol, frame in trained.frames(STOP).items():
        log_close = np.log(frame["close"].to_numpy())
        steps = np.diff(log_close)
        steps[-bars:] = factor * steps[-bars:] + drift
        shift = np.exp(np.concatenate([[log_close[0]], log_close[0] + np.cumsum(steps)]) - log_close)
        prices = {name: frame[name] * shift for name in ("open", "high", "low", "close")}
        prices["high"] = np.maximum(prices["high"], prices["open"])
        frames[symbol] = frame.assign(**prices)
    return frames


def test_wild_bars_widen_what_is_forecast(trained: Any, predictor: Predictor) -> None:
    frames = wilder(trained)
    began = time.process_time()
    learned = predictor.adapt(frames)
    assert time.process_time() - began < 2.0
    assert learned.accepted
    assert learned.loss_before is not None
    assert learned.loss_after is not None
    assert learned.loss_after < learned.loss_before
    assert learned.volatility > 0.1
    assert learned.num_bars == 50
    assert learned.num_labels == 3 * (50 + 47 + 27)
    assert learned.end == trained.panel.timestamps[STOP - 1]
    for base, moved in zip(predictor.predict(frames), predictor.predict(frames, adaptations=[learned]), strict=True):
        assert moved.volatility is not None
        assert base.volatility is not None
        assert moved.volatility > base.volatility
        assert moved.quantiles[1][0.9] - moved.quantiles[1][0.1] > base.quantiles[1][0.9] - base.quantiles[1][0.1]
        assert (base.adaptation, moved.adaptation) == (None, learned.id)


@pytest.mark.parametrize("bars", [10, 25])
def test_few_bars_are_enough(trained: Any, predictor: Predictor, bars: int) -> None:
    learned = predictor.adapt(wilder(trained, bars=bars), bars=bars)
    assert learned.num_bars == bars
    assert learned.volatility > 0


def test_shared_weights_and_other_callers_stay_as_they_are(trained: Any, predictor: Predictor) -> None:
    frames, calm = wilder(trained), trained.frames(STOP)
    before = predictor.predict(calm)
    learned = predictor.adapt(frames)
    predictor.predict(frames, adaptations=[learned])
    assert predictor.predict(calm) == before


def test_only_its_symbols_move_and_the_last_one_counts(trained: Any, predictor: Predictor) -> None:
    frames = wilder(trained)
    one, all_of_them = predictor.adapt(frames, symbols=["ETH/USDT"]), predictor.adapt(frames)
    assert one.symbols == ("ETHUSDT",)
    assert one.num_labels == 50 + 47 + 27
    base, moved = predictor.predict(frames), predictor.predict(frames, adaptations=[one])
    assert [left == right for left, right in zip(base, moved, strict=True)] == [True, False, True]
    ids = [found.adaptation for found in predictor.predict(frames, adaptations=[all_of_them, one])]
    assert ids == [all_of_them.id, one.id, all_of_them.id]


def test_one_decision_path(trained: Any, predictor: Predictor) -> None:
    learned = predictor.adapt(wilder(trained))
    panel = trained.panel.slice_time(None, STOP)
    predictions, signals = predictor.decide_bars(panel, 3, adaptations=[learned])
    for row, one in enumerate(predictor.predict(trained.frames(STOP), adaptations=[learned])):
        np.testing.assert_allclose(list(one.direction.values()), predictions.probabilities[row, -1], atol=1e-6)
        assert one.signal["position_size"] == pytest.approx(signals.position_size[row, -1], abs=1e-6)
    base = predictor.decide_bars(panel, 3)[0]
    assert not np.array_equal(base.volatility, predictions.volatility)
    refused = learned.model_copy(update={"accepted": False})
    unmoved = predictor.decide_bars(panel, 3, adaptations=[refused])[0]
    for part in fields(base):
        np.testing.assert_array_equal(getattr(base, part.name), getattr(unmoved, part.name))


def test_rows_after_now_teach_nothing(trained: Any, predictor: Predictor) -> None:
    now = trained.panel.timestamps[2299] + HOUR
    learned = predictor.adapt(trained.frames(2300), now=now, bars=20)
    assert learned == predictor.adapt(trained.frames(2301), now=now, bars=20)
    assert learned.id == predictor.adapt(trained.frames(2300), now=now, bars=20).id


def test_it_is_kept_in_a_small_file(trained: Any, predictor: Predictor, tmp_path: Path) -> None:
    learned = predictor.adapt(wilder(trained), regime="PANIC")
    learned.save(tmp_path / "panic.json")
    again = Adaptation.load(tmp_path / "panic.json")
    assert again == learned
    assert again.regime == "PANIC"
    assert (tmp_path / "panic.json").stat().st_size < 2000
    assert predictor.predict(trained.frames(STOP), adaptations=[again]) == predictor.predict(
        trained.frames(STOP), adaptations=[learned]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"drift": 0.2}, "id must be"), ({"drift": "far"}, "drift"), ({"id": None}, "id must be"), ({"extra": 1}, "extra")],
)
def test_damaged_file_is_named(trained: Any, predictor: Predictor, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "delta.json"
    path.write_text(json.dumps(json.loads(predictor.adapt(wilder(trained)).to_json()) | changes))
    with pytest.raises(BundleError, match=message):
        Adaptation.load(path)
    path.write_text("not json")
    with pytest.raises(BundleError, match="not JSON"):
        Adaptation.load(path)
    with pytest.raises(BundleError, match="cannot be read"):
        Adaptation.load(tmp_path / "absent.json")


def test_another_model_refuses_it(trained: Any, predictor: Predictor) -> None:
    learned = predictor.adapt(wilder(trained))
    other = Predictor(replace(trained.bundle, created_at="2025-01-01T00:00:00Z"))
    with pytest.raises(BundleError, match="was learned with model"):
        other.predict(trained.frames(STOP), adaptations=[learned])


def test_what_cannot_teach_is_refused(trained: Any, predictor: Predictor) -> None:
    frames = trained.frames(STOP)
    with pytest.raises(DataError, match="bars must be at least 1, was 0"):
        predictor.adapt(frames, bars=0)
    with pytest.raises(DataError, match="never trained on XRPUSDT"):
        predictor.adapt({"XRPUSDT": frames["BTCUSDT"]})
    with pytest.raises(DataError, match="among the candles given"):
        predictor.adapt(frames, symbols=["XRPUSDT"])
    with pytest.raises(DataError, match="adapting needs"):
        predictor.adapt({symbol: frame.tail(predictor.history_bars) for symbol, frame in frames.items()})
    refused = predictor.predict({"XRPUSDT": frames["BTCUSDT"]}, adaptations=[predictor.adapt(frames)])
    assert refused[0].refusal is Refusal.NEVER_TRAINED


def test_threads_may_predict_while_another_adapts(trained: Any, predictor: Predictor) -> None:
    frames, learned = trained.frames(STOP), predictor.adapt(wilder(trained))
    expected = {(): predictor.predict(frames), (learned,): predictor.predict(frames, adaptations=[learned])}
    found: list[bool] = []

    def repeat(given: tuple[Adaptation, ...]) -> None:
        found.extend(predictor.predict(frames, adaptations=given) == expected[given] for _ in range(3))

    threads = [threading.Thread(target=repeat, args=(given,)) for given in expected]
    threads.append(threading.Thread(target=lambda: found.append(predictor.adapt(wilder(trained)) == learned)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 7
