"""What a caller may hand over, as the product describes it, and what is refused by column and row."""

import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import ConfigError, DataError
from cryptoml.features.contract import feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.onchain import OnChainMetrics

HOUR = pd.Timedelta(hours=1)
NUM_BARS = 60


@pytest.fixture(scope="module")
def engineer():
    return AdvancedFeatureEngineer({})


@pytest.fixture(scope="module")
def candles(make_candles):
    return make_candles(NUM_BARS, 1).assign(timestamp=pd.date_range("2024", periods=NUM_BARS, freq="h", tz="UTC"))


def replaced(frame, column, row, value):
    values = frame[column].astype(object).copy()
    values[row] = value
    return frame.assign(**{column: values if isinstance(value, str) else values.astype(frame[column].dtype)})


BAD_CANDLES = {
    "ohlcv must be a DataFrame, was list": lambda f: [1],
    "volume must be numeric, dtype was object, row 2 was 'x'": lambda f: f.assign(
        volume=pd.Series([np.int64(1), np.float32(1), "x", *range(NUM_BARS - 3)], dtype=object)
    ),
    "timestamp must be filled, row 4 was NaT": lambda f: f.assign(timestamp=f["timestamp"].where(f.index != 4)),
    "timestamp must be timezone-aware UTC, dtype was int64": lambda f: f.assign(timestamp=range(NUM_BARS)),
    "open must be numeric, dtype was str, row 0": lambda f: f.assign(open=f["open"].astype(str)),
    "volume must be numeric, dtype was bool, row 0": lambda f: f.assign(volume=True),
    "low must be numeric, dtype was object, row 7 was 'x'": lambda f: replaced(f, "low", 7, "x"),
    r"close must be positive, row 3 was -1\.0": lambda f: replaced(f, "close", 3, -1.0),
    "close must be positive, row 3 was inf": lambda f: replaced(f, "close", 3, np.inf),
    "volume must be at least 0, row 5": lambda f: replaced(f, "volume", 5, -1.0),
    "high must not lie below low, row 9": lambda f: replaced(f, "high", 9, 0.5),
    "must have column close once, it had 2": lambda f: pd.concat([f, f[["close"]]], axis=1),
    "volume must be numeric, dtype was object, row 0 was": lambda f: f.assign(volume=f["volume"].astype(object)),
    "open must be numeric, dtype was complex128, row 0": lambda f: f.assign(open=f["open"].astype(complex)),
    "must have column timestamp once, it had 2": lambda f: pd.concat([f, f[["timestamp"]]], axis=1),
    "must follow the timeframe '1h', the nearest rows were 0 days 04:00:00 apart": lambda f: f.iloc[::4],
    "must lie on a grid of 0 days 01:00:00, row 1": lambda f: f.assign(
        timestamp=pd.date_range("2024", periods=NUM_BARS, freq="5min", tz="UTC")
    ),
}


@pytest.mark.parametrize("message", BAD_CANDLES)
def test_bad_candles(engineer, candles, message):
    with pytest.raises(DataError, match=message):
        engineer.extract_all_features(BAD_CANDLES[message](candles))


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
def test_each_required_column_is_named(engineer, candles, column):
    with pytest.raises(DataError, match=f"must have column {column}"):
        engineer.extract_all_features(candles.drop(columns=column))


def chain(candles, **columns):
    return pd.DataFrame({"available_at": candles["timestamp"], "active_addresses": 1.0}).assign(**columns)


BAD_CHAINS = {
    "onchain whale_movements must be a number, was 'x'": lambda f: OnChainMetrics(whale_movements="x"),
    "onchain gas_fees must be finite, was inf": lambda f: OnChainMetrics(gas_fees=np.inf),
    "onchain active_addresses must be finite, row 4 was inf": lambda f: chain(
        f, active_addresses=np.where(f.index == 4, np.inf, 1)
    ),
    "onchain must be a DataFrame, was dict": lambda f: {"active_addresses": 3},
    "onchain must have the column available_at": lambda f: chain(f).drop(columns="available_at").set_index(f["timestamp"]),
    "onchain available_at must be timezone-aware UTC": lambda f: chain(f, available_at=f["timestamp"].dt.tz_localize(None)),
    "onchain available_at must be filled, row 2 was NaT": lambda f: chain(f, available_at=f["timestamp"].where(f.index != 2)),
    "onchain available_at must not lie after the last bar's close .*, row 30": lambda f: chain(
        f, available_at=f["timestamp"] + HOUR * np.where(f.index == 30, 99, 0)
    ),
    "onchain timestamp must not lie after available_at, row 8": lambda f: chain(
        f, timestamp=f["timestamp"] + HOUR * (f.index == 8).astype(int)
    ),
    "onchain active_addresses must be numeric, dtype was str, row 0": lambda f: chain(f, active_addresses="x"),
    "onchain must have one of the columns whale_movements": lambda f: chain(f).drop(columns="active_addresses"),
}


@pytest.mark.parametrize("message", BAD_CHAINS)
def test_bad_chains(engineer, candles, message):
    with pytest.raises(DataError, match=message):
        engineer.extract_all_features(candles, onchain=BAD_CHAINS[message](candles))


def history(candles, bids, asks, bid_sizes=None):
    sizes = [[1.0] * len(side) for side in bids] if bid_sizes is None else bid_sizes
    rows = {"bid_prices": bids, "bid_sizes": sizes, "ask_prices": asks, "ask_sizes": [[1.0] * len(side) for side in asks]}
    return pd.DataFrame({"available_at": candles["timestamp"].iloc[: len(bids)], **rows})


def pairs(candles):
    return pd.DataFrame({"available_at": candles["timestamp"].iloc[:2] + HOUR, "bids": [[[1, 1]]] * 2, "asks": [[[2, 1]]] * 2})


BAD_BOOKS = {
    "orderbook must be a mapping of bids and asks or a DataFrame, was list": lambda f: [1],
    "orderbook must have asks": lambda f: {"bids": [[1, 1]]},
    "orderbook bids must be pairs of price and size": lambda f: {"bids": [[1, 1, 1]], "asks": [[2, 1]]},
    "orderbook bids must be pairs of price and size, row 0 was .*7": lambda f: {"bids": [[99, 1, 7], [98, 1, 7]], "asks": []},
    "orderbook bids must be pairs of price and size, row 0 was 5": lambda f: {"bids": 5, "asks": [[2, 1]]},
    "orderbook prices of asks must not be empty, row 1": lambda f: pairs(f).assign(asks=[[[2, 1]], []]),
    "orderbook asks must be pairs of price and size, row 0 was .*'a'": lambda f: {"bids": [[1, 1]], "asks": [["a", 1]]},
    "orderbook prices of bids must not be empty, row 0": lambda f: {"bids": [], "asks": [[2, 1]]},
    "orderbook prices of bids must be finite": lambda f: {"bids": [[np.nan, 1]], "asks": [[2, 1]]},
    "orderbook sizes of asks must be finite and at least 0": lambda f: {"bids": [[1, 1]], "asks": [[2, -1]]},
    "orderbook prices of asks must come best first": lambda f: {"bids": [[1, 1]], "asks": [[3, 1], [2, 1]]},
    "orderbook prices of bids must lie below prices of asks, row 0": lambda f: {"bids": [[2, 1]], "asks": [[2, 1]]},
    "orderbook must have column asks": lambda f: pairs(f).drop(columns="asks"),
    "orderbook must have column bid_sizes": lambda f: history(f, [[1.0]], [[2.0]]).drop(columns="bid_sizes"),
    "orderbook ask_prices must not be empty, row 2": lambda f: history(f, [[1.0]] * 3, [[2.0], [2.0], []]),
    "orderbook bid_prices must lie below ask_prices, row 1 had bid 2.0, ask 2.0": lambda f: history(
        f, [[1.0], [2.0]], [[2.0]] * 2
    ),
    "orderbook bid_sizes must be as many as bid_prices, row 0": lambda f: history(f, [[1.0]], [[2.0]], [[1.0, 1.0]]),
}


@pytest.mark.parametrize("message", BAD_BOOKS)
def test_bad_books(engineer, candles, message):
    with pytest.raises(DataError, match=message):
        engineer.extract_all_features(candles, orderbook=BAD_BOOKS[message](candles))


BAD_VENUES = {
    "cross_exchange must map venues": lambda f: [1],
    "cross_exchange must map venues to prices or candles, was DataFrame": lambda f: f,
    "cross_exchange must map venues to prices or candles, was str": lambda f: "",
    "cross_exchange okx timestamp must be ascending, row 1": lambda f: {"okx": f.iloc[::-1]},
    "cross_exchange okx timestamp must be free of duplicates, row 5": lambda f: {"okx": f.iloc[[0, 1, 2, 3, 4, 4]]},
    "cross_exchange okx must be a positive price or a rate, was -5": lambda f: {"okx": -5.0},
    "cross_exchange okx must be a positive price or a rate, was nan": lambda f: {"okx": np.nan},
    "cross_exchange okx must be a number or a DataFrame": lambda f: {"okx": "5"},
    "cross_exchange must name a venue once": lambda f: {"okx": 1.0, "OKX": 1.0},
    "cross_exchange okx must have column close": lambda f: {"okx": f.drop(columns="close")},
    "cross_exchange okx timestamp must be timezone-aware": lambda f: {
        "okx": f.assign(timestamp=f["timestamp"].dt.tz_localize(None))
    },
    "cross_exchange okx close must be a positive price or a rate, row 6": lambda f: {"okx": replaced(f, "close", 6, 0.0)},
    "cross_exchange funding funding_rate must be numeric": lambda f: {"funding": f[["timestamp"]].assign(funding_rate="x")},
}


@pytest.mark.parametrize("message", BAD_VENUES)
def test_bad_venues(engineer, candles, message):
    with pytest.raises(DataError, match=message):
        engineer.extract_all_features(candles, cross_exchange=BAD_VENUES[message](candles))


def trades_of(candles, **columns):
    return pd.DataFrame({"available_at": candles["timestamp"], "size": 1.0, "is_buyer_taker": True}).assign(**columns)


BAD_TRADES = {
    "trades must have the boolean column is_buyer_taker": lambda f: trades_of(f).drop(columns="is_buyer_taker"),
    "trades size must be at least 0, row 3 was -1": lambda f: trades_of(f, size=np.where(f.index == 3, -1.0, 1.0)),
    "trades size must be at least 0, row 3 was nan": lambda f: trades_of(f, size=np.where(f.index == 3, np.nan, 1.0)),
    "trades available_at must be timezone-aware": lambda f: trades_of(f, available_at=f["timestamp"].dt.tz_localize(None)),
}


@pytest.mark.parametrize("message", BAD_TRADES)
def test_bad_trades(engineer, candles, message):
    with pytest.raises(DataError, match=message):
        engineer.extract_all_features(candles, trades=BAD_TRADES[message](candles))


GOOD_CANDLES = {
    "whole numbers": lambda f: f.assign(**{name: np.ceil(f[name] * 10).astype("int64") for name in PRICED}),
    "few bits": lambda f: f.astype(dict.fromkeys(PRICED, "float32")),
    "nullable": lambda f: f.astype(dict.fromkeys(PRICED, "Float64")),
    "arrow": lambda f: f.astype(dict.fromkeys(PRICED, "double[pyarrow]") | {"timestamp": "timestamp[us, tz=UTC][pyarrow]"}),
    "another time zone": lambda f: f.assign(timestamp=f["timestamp"].dt.tz_convert("America/New_York")),
    "seconds": lambda f: f.assign(timestamp=f["timestamp"].dt.as_unit("s")),
    "nanoseconds in the index": lambda f: f.assign(timestamp=f["timestamp"].dt.as_unit("ns")).set_index("timestamp"),
    "another index": lambda f: f.set_index(pd.Index(list("ab") * (NUM_BARS // 2))),
    "columns in another order": lambda f: f[f.columns[::-1]],
    "further columns": lambda f: f.assign(symbol="BTC", ignored=None),
}
PRICED = ["open", "high", "low", "close", "volume"]


@pytest.mark.parametrize("name", GOOD_CANDLES)
def test_candles_of_any_make(engineer, candles, name):
    given = GOOD_CANDLES[name](candles[["timestamp", *PRICED]])
    numbers = {column: np.asarray(given[column], dtype=float) for column in PRICED}
    plain = pd.DataFrame(numbers).assign(timestamp=candles["timestamp"])
    out, expected = engineer.extract_all_features(given), engineer.extract_all_features(plain)
    np.testing.assert_array_equal(out, expected)
    assert out.index.equals(given.index)
    assert out["momentum_roc_10"].notna().sum() == NUM_BARS - 10


def test_missing_figures_of_a_reading_are_missing(engineer, candles):
    last = engineer.extract_all_features(candles, onchain=OnChainMetrics(exchange_inflows=3, exchange_outflows=None)).iloc[-1]
    assert np.isnan(last["onchain_net_flow"])


def test_history_of_books_in_pairs_is_that_in_lists(engineer, candles):
    out = engineer.extract_all_features(candles, orderbook=pairs(candles).assign(bids=[[[1, 3]]] * 2))
    assert out["microstructure_book_imbalance_1"].notna().sum() == 2
    assert out["microstructure_book_imbalance_1"].max() == 0.5


def test_names_of_legs_may_be_written_in_capitals(engineer, candles):
    given = {"Funding": 1e-4, "SPOT": float(candles["close"].iloc[-1])}
    last = engineer.extract_all_features(candles, cross_exchange=given).iloc[-1]
    assert last["cross_exchange_funding_rate"] == pytest.approx(1)
    assert last["cross_exchange_basis"] == pytest.approx(0)
    live = engineer.live(candles.iloc[:-1]).update(candles.iloc[-1], cross_exchange=given)
    np.testing.assert_array_equal(live, last)


def test_the_call_of_the_product(engineer, candles):
    metrics = OnChainMetrics(
        whale_movements=1500,
        exchange_inflows=2000,
        exchange_outflows=3000,
        active_addresses=50000,
        transaction_count=100000,
        gas_fees=50,
        stablecoin_supply=150000000000,
        long_term_holder_supply=18000000,
    )
    close = float(candles["close"].iloc[-1])
    book = {"bids": [[close - step, 2.0] for step in range(1, 21)], "asks": [[close + step, 1.0] for step in range(1, 21)]}
    venues = {"binance": close, "kraken": close * 1.001, "spot": close * 0.999, "future": close * 1.002, "funding": 1e-4}
    features = engineer.extract_all_features(ohlcv=candles, onchain=metrics, orderbook=book, cross_exchange=venues)
    assert len(features.columns) >= 150
    assert features.index.equals(candles.index)
    assert set(features.dtypes) == {np.dtype("float32")}
    last = features.iloc[-1]
    assert last["onchain_net_flow"] == pytest.approx(-0.2)
    assert last["onchain_transactions_per_address"] == pytest.approx(np.log(2))
    assert last["microstructure_book_imbalance_20"] == pytest.approx(1 / 3)
    assert last["cross_exchange_basis"] == pytest.approx(1e4 * (np.log(1.002) - np.log(0.999)), rel=1e-5)
    assert last["cross_exchange_funding_arbitrage"] == pytest.approx(1 + last["cross_exchange_basis"], rel=1e-5)
    outside = [name for name in features if name.startswith(("onchain_", "cross_exchange_", "microstructure_book"))]
    assert features[outside].iloc[:-1].isna().all(axis=None), "a reading says nothing about the past"


def test_books_as_exchanges_send_them_in_text(engineer, candles):
    out = engineer.extract_all_features(candles, orderbook={"bids": [["99", "3"]], "asks": [["101", "1"]]})
    assert out["microstructure_book_imbalance_1"].iloc[-1] == pytest.approx(0.5)


def test_a_subclass_adds_its_indicator(candles):
    class MyCustomFeatures(AdvancedFeatureEngineer):
        @feature(category="price", lookback=3, inputs=("close",))
        def custom_indicator(self, bars):
            """(close_t - close_{t-2}) / close_t"""
            return (bars.close - np.roll(bars.close, 2)) / bars.close

    mine = MyCustomFeatures({})
    out = mine.extract_all_features(candles)["price_custom_indicator"]
    assert out[:2].isna().all(), "what a formula gives before its lookback does not count"
    np.testing.assert_allclose(out[2:], (candles["close"].diff(2) / candles["close"])[2:], rtol=1e-5, atol=1e-9)
    live = mine.live(candles.iloc[:-1]).update(candles.iloc[-1])
    assert live["price_custom_indicator"] == pytest.approx(out.iloc[-1])


def test_the_subclass_of_the_product(candles):
    """A plain method is the user's own business: it neither becomes a feature nor does it harm."""

    class MyCustomFeatures(AdvancedFeatureEngineer):
        def custom_indicator(self, df):
            df["my_indicator"] = df["close"] / df["open"]
            return df

    mine = MyCustomFeatures({})
    assert mine.names == AdvancedFeatureEngineer().names
    assert "my_indicator" in mine.custom_indicator(mine.extract_all_features(candles).assign(close=1.0, open=1.0))


def declared(function, **options):
    """Return an engineer with one more feature."""
    method = feature(category="price", name="custom", **({"lookback": 3, "inputs": ("close",)} | options))(function)
    return type("Mine", (AdvancedFeatureEngineer,), {"custom": method})({"categories": ("price",)})


def test_own_feature_by_pandas_in_the_batch_and_live(candles):
    def custom(self, bars):
        return pd.Series(bars.close).rolling(3).mean()

    mine = declared(custom, inputs="close")
    out = mine.extract_all_features(candles)["price_custom"]
    np.testing.assert_allclose(out, candles["close"].rolling(3).mean(), rtol=1e-6)
    assert mine.live(candles.iloc[:-1]).update(candles.iloc[-1])["price_custom"] == out.iloc[-1]


def test_own_features_that_break_the_rules_are_named(candles):
    with pytest.raises(ConfigError, match=r"inputs of price_custom must be among .*, was 'closes'"):
        declared(lambda self, bars: bars.close, inputs=("closes",))
    with pytest.raises(DataError, match=r"price_custom must return one value per bar, \(60,\), returned \(58,\)"):
        declared(lambda self, bars: bars.close[2:]).extract_all_features(candles)
    with pytest.raises(DataError, match="price_custom must return numbers, returned list"):
        declared(lambda self, bars: ["up"] * len(bars)).extract_all_features(candles)
    for wrong in (0, 2.5, True, "3"):
        with pytest.raises(ConfigError, match=f"^lookback must be a whole number of at least 1 bar, was {wrong!r}"):
            feature("price", lookback=wrong)
    with pytest.raises(ConfigError, match="lookback of price_custom_3 must be a whole number of at least 1 bar, was -3"):
        declared(lambda self, bars, n: bars.close, lookback=lambda n: -n, params=(3,))
    with pytest.raises(ConfigError, match="config must be a FeatureConfig or a mapping of its fields, was '1h'"):
        AdvancedFeatureEngineer("1h")
