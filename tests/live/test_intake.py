"""Candles at the door: what is used, what is refused and why."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import DataError
from cryptoml.live.intake import Requirements, admit, live_panel
from cryptoml.live.prediction import Refusal

NEEDS = Requirements(symbols=("ETHUSDT", "BTCUSDT"), timeframe="1h", history_bars=10, max_age_bars=1)
START = pd.Timestamp("2024-01-01", tz="UTC")
HOUR = pd.Timedelta(hours=1)


def candles(bars: int = 20, start: pd.Timestamp = START) -> pd.DataFrame:
    stamps = pd.date_range(start, periods=bars, freq="h")
    close = 10.0 + np.arange(bars)
    return pd.DataFrame({"timestamp": stamps, "open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1.0})


def changed(row: int, column: str, value: Any) -> pd.DataFrame:
    frame = candles()
    frame.loc[row, column] = value
    return frame


def test_symbols_are_normalised_and_placed_in_the_order_of_the_model() -> None:
    intake = admit({"BTC/USDT": candles(), "eth-usdt": candles()}, NEEDS, None)
    assert intake.order == ("BTCUSDT", "ETHUSDT")
    assert not intake.refused
    assert live_panel(intake, NEEDS, None).symbols == ("ETHUSDT", "BTCUSDT")


def test_absent_symbols_are_rows_of_nan() -> None:
    panel = live_panel(admit({"BTCUSDT": candles()}, NEEDS, None), NEEDS, None)
    assert not panel.present[0].any()
    assert panel.present[1].all()


def test_only_reach_is_kept() -> None:
    usable = admit({"BTCUSDT": candles(500)}, NEEDS, None).usable["BTCUSDT"]
    assert len(usable) == NEEDS.history_bars + NEEDS.max_age_bars


def test_unfinished_bar_is_left_out() -> None:
    now = START + 19 * HOUR + pd.Timedelta(minutes=20)  # the last of 20 bars closes at +20 h
    intake = admit({"BTCUSDT": candles()}, NEEDS, now)
    assert intake.last_open["BTCUSDT"] == START + 18 * HOUR
    assert not intake.refused


def test_index_of_instants_will_do() -> None:
    assert not admit({"BTCUSDT": candles().set_index("timestamp")}, NEEDS, None).refused


@pytest.mark.parametrize(
    ("frames", "now", "symbol", "refusal"),
    [
        ({"DOGEUSDT": candles(), "BTCUSDT": candles()}, None, "DOGEUSDT", Refusal.NEVER_TRAINED),
        ({"BTCUSDT": candles(9)}, None, "BTCUSDT", Refusal.TOO_LITTLE_HISTORY),
        ({"BTCUSDT": candles(0)}, None, "BTCUSDT", Refusal.TOO_LITTLE_HISTORY),
        ({"BTCUSDT": candles()}, START + 22 * HOUR, "BTCUSDT", Refusal.STALE),
        ({"BTCUSDT": candles(18), "ETHUSDT": candles()}, None, "BTCUSDT", Refusal.STALE),
        ({"BTCUSDT": changed(19, "close", np.nan)}, START + 20 * HOUR, "BTCUSDT", Refusal.INVALID_CANDLES),
        ({"BTCUSDT": changed(15, "high", 1.0)}, None, "BTCUSDT", Refusal.INVALID_CANDLES),
    ],
)
def test_refusals(frames: dict[str, pd.DataFrame], now: pd.Timestamp | None, symbol: str, refusal: Refusal) -> None:
    intake = admit(frames, NEEDS, now)
    assert intake.refused[symbol][0] is refusal
    assert symbol not in intake.usable


def test_one_bar_late_is_fresh() -> None:
    assert not admit({"BTCUSDT": candles()}, NEEDS, START + 21.9 * HOUR).refused
    assert not admit({"BTCUSDT": candles(19), "ETHUSDT": candles()}, NEEDS, None).refused


def test_bad_rows_out_of_reach_do_not_matter() -> None:
    assert not admit({"BTCUSDT": changed(3, "close", np.nan)}, NEEDS, None).refused
    unfinished = changed(19, "close", np.nan)
    assert not admit({"BTCUSDT": unfinished}, NEEDS, START + 19.5 * HOUR).refused


@pytest.mark.parametrize(
    ("frames", "now", "message"),
    [
        ({}, None, "at least one symbol"),
        ({"é//": candles()}, None, "letters and digits"),
        ({"BTC/USDT": candles(), "BTCUSDT": candles()}, None, "BTCUSDT twice"),
        ({"BTCUSDT": candles()}, START + 5 * HOUR, "after 2024-01-01 05:00"),
        ({"BTCUSDT": candles().drop(columns="volume")}, None, "volume"),
        ({"BTCUSDT": candles().assign(timestamp=lambda frame: frame["timestamp"].dt.tz_localize(None))}, None, "naive|timezone"),
    ],
)
def test_errors(frames: dict[str, pd.DataFrame], now: pd.Timestamp | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        admit(frames, NEEDS, now)
