"""What members read of kept bars, however those came: bit for bit what the predictor makes of the same candles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.live.predictor import Predictor
from serve.kept_bars import BarArrays, KeptBars
from serve.windows import WarmInputs

HOUR = pd.Timedelta(hours=1)
Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def predictor(today: Any) -> Predictor:
    return Predictor(today.bundle)


@pytest.fixture
def kept(predictor: Predictor) -> KeptBars:
    return KeptBars("1h", predictor.history_bars + 300)


def put(kept: KeptBars, symbol: str, frame: pd.DataFrame) -> None:
    kept.merge(symbol, BarArrays.of_frame(frame))


def assert_same(warm: WarmInputs, predictor: Predictor, frames: Frames) -> None:
    now = max(frame["timestamp"].iloc[-1] for frame in frames.values()) + HOUR
    expected, found = predictor.question(frames, now=now), warm.window(now).question
    assert set(found.intake.usable) == set(expected.intake.usable)
    origins = len(found.timestamps)
    np.testing.assert_array_equal(found.features, expected.features[:, -found.features.shape[1] :])
    np.testing.assert_array_equal(found.sigma[:, -origins:], expected.sigma[:, -origins:])
    np.testing.assert_array_equal(found.present, expected.present[:, -origins:])


def test_bars_one_by_one_several_at_once_and_late_ones(predictor: Predictor, kept: KeptBars, today: Any) -> None:
    warm, stop = WarmInputs(predictor, kept), {symbol: len(frame) - 40 for symbol, frame in today.frames.items()}
    for symbol, frame in today.frames.items():
        put(kept, symbol, frame.iloc[: stop[symbol]])
    draw = np.random.default_rng(3)
    for turn in range(12):
        for symbol, frame in today.frames.items():
            late = turn % 4 == 1 and symbol == "ETHUSDT"
            more = 0 if late else min(int(draw.choice([1, 1, 1, 2])), len(frame) - stop[symbol])
            put(kept, symbol, frame.iloc[stop[symbol] : stop[symbol] + more])
            stop[symbol] += more
        newest = max(today.frames[symbol]["timestamp"].iloc[count - 1] for symbol, count in stop.items())
        for symbol, frame in today.frames.items():  # nobody falls behind by more than a bar
            behind = int((newest - frame["timestamp"].iloc[stop[symbol] - 1]) // HOUR) - 1
            put(kept, symbol, frame.iloc[stop[symbol] : stop[symbol] + max(behind, 0)])
            stop[symbol] += max(behind, 0)
        warm.follow(today.frames)
        assert_same(warm, predictor, {symbol: frame.iloc[: stop[symbol]] for symbol, frame in today.frames.items()})


def without(frame: pd.DataFrame, *places: int) -> pd.DataFrame:
    return frame.drop(frame.index[list(places)])


@pytest.mark.parametrize(
    "gap",
    [lambda frame: without(frame, -3), lambda frame: without(frame, *range(-9, -2)), lambda frame: without(frame, -200, -5)],
)
def test_gaps(predictor: Predictor, kept: KeptBars, today: Any, gap: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    warm, frames = WarmInputs(predictor, kept), dict(today.frames)
    frames["ETHUSDT"] = gap(frames["ETHUSDT"])
    for stop in (-12, -4, -2, -1, None):
        shown = {
            symbol: frame[frame["timestamp"] <= today.frames["BTCUSDT"]["timestamp"].iloc[:stop].iloc[-1]]
            for symbol, frame in frames.items()
        }
        for symbol, frame in shown.items():
            put(
                kept,
                symbol,
                frame[frame["timestamp"] > pd.Timestamp(kept.bars(symbol).stamps[-1], unit="us", tz="UTC")]
                if len(kept.bars(symbol))
                else frame,
            )
        warm.follow(frames)
        assert_same(warm, predictor, shown)


def test_a_symbol_begun_again_and_one_filled_in_between(predictor: Predictor, kept: KeptBars, today: Any) -> None:
    warm = WarmInputs(predictor, kept)
    for symbol, frame in today.frames.items():
        put(kept, symbol, without(frame.iloc[:-1], -7) if symbol == "SOLUSDT" else frame)
    warm.follow(today.frames)
    put(kept, "SOLUSDT", today.frames["SOLUSDT"])  # another replica took the missing bar
    assert_same(warm, predictor, today.frames)
    kept.drop("ETHUSDT")
    other = today.frames["ETHUSDT"].assign(volume=lambda frame: 2 * frame["volume"])
    put(kept, "ETHUSDT", other)
    assert_same(warm, predictor, {**today.frames, "ETHUSDT": other})
    kept.drop("BTCUSDT")
    assert_same(
        warm, predictor, {symbol: frame for symbol, frame in {**today.frames, "ETHUSDT": other}.items() if symbol != "BTCUSDT"}
    )


def test_it_knows_when_a_bar_time_is_complete(predictor: Predictor, kept: KeptBars, today: Any) -> None:
    warm = WarmInputs(predictor, kept)
    assert not warm.all_here()
    for symbol, frame in today.frames.items():
        put(kept, symbol, frame.iloc[:-1])
    assert warm.all_here()
    for symbol, done in zip(today.frames, (False, False, True), strict=True):
        put(kept, symbol, today.frames[symbol].iloc[[-1]])
        assert warm.all_here() == done
