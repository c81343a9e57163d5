"""Live rows equal batch rows at every bar, for every feature; what a live buffer refuses."""

import pickle

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import DataError
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.onchain import OnChainMetrics

BAR = pd.Timedelta(hours=6)
STRETCH = 250
LATE = 2_600 - 60


@pytest.fixture(scope="module")
def candles(panel):
    return panel.frame("SOLUSDT").drop(index=[LATE, LATE + 1])  # two skipped bars inside the stretch


@pytest.fixture(scope="module")
def inputs(panel):
    """Every external input of one symbol as the public face takes it, books one per bar."""
    venues, chain = panel.tables["venue_candles"], panel.tables["onchain"]["SOL"]
    return {
        "trades": panel.tables["trades"]["SOLUSDT"],
        "onchain": chain[chain["available_at"] <= panel.timestamps[-1] + BAR],
        "orderbook": panel.tables["orderbook"]["SOLUSDT"],
        "cross_exchange": {
            "spot": venues["binance_spot:SOLUSDT"],
            "kraken": venues["kraken:SOLUSDT"],
            "okx": venues["binance_spot:SOLUSDT"].assign(close=lambda f: f["close"] * 1.001),
            "triangle": venues["kraken:SOLBTC"].assign(close=lambda f: f["close"] * 100),
            "funding": panel.tables["funding"]["SOLUSDT"],
        },
    }


def between(given, after, until):
    """Return the rows of each input that became readable in (after, until]."""
    if isinstance(given, dict):
        return {name: between(frame, after, until) for name, frame in given.items()}
    return given[(given["available_at"] > after) & (given["available_at"] <= until)]


def replay(engineer, candles, inputs):
    """Return the live rows of the last bars, each fed with what became readable since the bar before."""
    first = len(candles) - STRETCH
    closes = candles["timestamp"] + BAR
    start = closes.iloc[first - 1]
    never = pd.Timestamp("2000-01-01", tz="UTC")
    live = engineer.live(candles.iloc[:first], **{name: between(given, never, start) for name, given in inputs.items()})
    rows = []
    for bar in candles.iloc[first:].to_dict("records"):
        now = bar["timestamp"] + BAR
        new = {name: between(given, start, now) for name, given in inputs.items()}
        rows.append(live.update(bar, **new))
        start = now
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def batch(engineer, candles, inputs):
    return engineer.extract_all_features(candles.reset_index(drop=True), **inputs)


def test_live_row_is_the_batch_row_at_every_bar(engineer, candles, inputs, batch):
    live = replay(engineer, candles, inputs)
    expected = batch.iloc[-STRETCH:]
    assert list(live.index) == list(candles["timestamp"].iloc[-STRETCH:])
    assert tuple(live.columns) == engineer.symbol_names
    assert expected.notna().any().all(), "every feature is exercised"
    for name in expected:
        np.testing.assert_allclose(live[name], expected[name], rtol=1e-6, atol=0, err_msg=name)


@pytest.fixture(scope="module")
def hourly(make_candles):
    stamps = pd.date_range("2024", periods=300, freq="h", tz="UTC")
    return make_candles(300, 1).assign(timestamp=stamps)


@pytest.fixture(scope="module")
def plain():
    return AdvancedFeatureEngineer()


def test_from_the_first_bar_on(plain, hourly):
    live = plain.live(hourly.iloc[:0])
    rows = [live.update(bar) for bar in hourly.iloc[:60].to_dict("records")]
    np.testing.assert_allclose(rows, plain.extract_all_features(hourly.iloc[:60]), rtol=1e-6, atol=0)


def test_readings_and_numbers_count_as_in_the_batch(plain, hourly):
    bars = hourly.to_dict("records")
    live = plain.live(hourly.iloc[:298])
    reading = OnChainMetrics(exchange_inflows=2000, exchange_outflows=3000)
    book = {"bids": [[99.0, 3.0], [98.0, 1.0]], "asks": [[101.0, 1.0], [102.0, 1.0]]}
    close = bars[298]["close"]
    venues = {"kraken": close * 1.002, "spot": close * 0.999, "okx": close, "funding": 0.0003}
    row = live.update(bars[298], onchain=reading, orderbook=book, cross_exchange=venues)
    expected = plain.extract_all_features(hourly.iloc[:299], onchain=reading, orderbook=book, cross_exchange=venues)
    np.testing.assert_allclose(row, expected.iloc[-1], rtol=1e-6, atol=0)
    after = live.update(bars[299])
    assert after["onchain_net_flow"] == pytest.approx(-0.2), "a reading stays in force"
    assert after["cross_exchange_funding_rate"] == pytest.approx(3)
    assert np.isnan(after["cross_exchange_basis"]), "a price counts for its bar alone"
    assert np.isnan(after["microstructure_relative_spread"])


BAD_BARS = {
    "later than the last bar .*was 2024-01-01 09:00": lambda bar: bar | {"timestamp": pd.Timestamp("2024-01-01 09:00", tz="UTC")},
    "later than the last bar .*was 2024-01-01 08:00": lambda bar: bar | {"timestamp": pd.Timestamp("2024-01-01 08:00", tz="UTC")},
    "by whole bars of 1h, was 2024-01-01 10:30": lambda bar: bar | {"timestamp": pd.Timestamp("2024-01-01 10:30", tz="UTC")},
    "timezone-aware": lambda bar: bar | {"timestamp": pd.Timestamp("2024-01-01 10:00")},
    "bar must have volume": lambda bar: {name: value for name, value in bar.items() if name != "volume"},
    "bar close must be a number, was '1'": lambda bar: bar | {"close": "1"},
}


@pytest.mark.parametrize("message", BAD_BARS)
def test_bad_bars_are_refused_and_change_nothing(plain, hourly, message):
    live, bars = plain.live(hourly.iloc[:10]), hourly.to_dict("records")
    before = live.latest()
    with pytest.raises(DataError, match=message):
        live.update(BAD_BARS[message](bars[10]))
    pd.testing.assert_series_equal(live.latest(), before)
    assert live.timestamp == bars[9]["timestamp"]
    live.update(bars[10])


BAD_INPUTS = {
    "prices of asks must not be empty": {"orderbook": {"bids": [[1, 1]], "asks": []}},
    "onchain available_at must not lie after": {
        "onchain": pd.DataFrame({"available_at": [pd.Timestamp("2025", tz="UTC")], "active_addresses": 1.0})
    },
    "cross_exchange kraken must be a number or a DataFrame": {"cross_exchange": {"kraken": "x"}},
}


@pytest.mark.parametrize("message", BAD_INPUTS)
def test_bad_inputs_are_refused_and_change_nothing(plain, hourly, message):
    live, bars = plain.live(hourly.iloc[:10]), hourly.to_dict("records")
    with pytest.raises(DataError, match=message):
        live.update(bars[10], **BAD_INPUTS[message])
    assert live.timestamp == bars[9]["timestamp"]


def test_an_empty_buffer_has_no_row(plain, hourly):
    with pytest.raises(DataError, match="at least one bar"):
        plain.live(hourly.iloc[:0]).latest()


def test_a_long_pause_starts_afresh(plain, hourly):
    live = plain.live(hourly.iloc[:299])
    late = hourly.iloc[299].copy()
    late["timestamp"] = pd.Timestamp("2026", tz="UTC")
    row = live.update(late)
    assert np.isnan(row["price_log_return_1h"])
    assert np.isfinite(row["price_body_return"])


CHOICES = ({"categories": ("time",)}, {"include": ("momentum_aroon_25",)}, {"include": ("onchain_net_flow",)}, {"categories": ()})


@pytest.mark.parametrize("choice", CHOICES)
def test_any_choice_of_features(choice, hourly):
    engineer = AdvancedFeatureEngineer(choice)
    row = engineer.live(hourly.iloc[:299]).update(hourly.iloc[299])
    np.testing.assert_array_equal(row, engineer.extract_all_features(hourly).iloc[299])


def test_a_live_buffer_travels(plain, hourly):
    live = plain.live(hourly.iloc[:200])
    twin = pickle.loads(pickle.dumps(live))
    for bar in hourly.iloc[200:210].to_dict("records"):
        pd.testing.assert_series_equal(twin.update(bar), live.update(bar))
