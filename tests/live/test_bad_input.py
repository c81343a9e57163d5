"""What users hand over by mistake, or in a form that their exchange has: used as it is meant, or refused by name."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml import integrate_with_existing_bot
from cryptoml.errors import ConfigError, DataError
from cryptoml.live.bots import settings_of
from cryptoml.live.candles import split_symbols, tidy_candles
from cryptoml.live.freqtrade import CryptomlStrategy
from cryptoml.live.readings import Tables, tables_of_readings
from cryptoml.live.settings import LiveSettings
from cryptoml.live.trading_ai import UltimateTradingAI

STAMPS = pd.date_range("2024-01-01", periods=50, freq="h", tz="UTC")
PRICES = pd.DataFrame({"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}, index=range(50))
CANDLES = PRICES.assign(timestamp=STAMPS)
PAIRED = pd.MultiIndex.from_product([["BTC/USDT"], STAMPS])


def test_two_spellings_of_a_symbol_in_a_frame_are_refused() -> None:
    rows = pd.concat([CANDLES.assign(symbol="BTC/USDT"), CANDLES.assign(symbol="BTCUSDT")], ignore_index=True)
    with pytest.raises(DataError, match="candles hold BTCUSDT twice, the second time as 'BTCUSDT'"):
        split_symbols(rows)


def test_two_spellings_of_a_symbol_in_a_mapping_are_refused() -> None:
    with pytest.raises(DataError, match="candles hold BTCUSDT twice, the second time as 'btc-usdt'"):
        split_symbols({"BTC/USDT": CANDLES, "btc-usdt": CANDLES})


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_a_row_without_symbol_is_refused(nothing: Any) -> None:
    rows = CANDLES.assign(Pair=["BTC/USDT"] * 7 + [nothing] + ["BTC/USDT"] * 42)
    with pytest.raises(DataError, match=r"column 'Pair' must name a symbol, row 7 was (None|nan)"):
        split_symbols(rows)


def test_symbols_keep_their_rows_in_the_order_of_the_frame() -> None:
    rows = pd.concat([CANDLES.assign(symbol="ETH/USDT"), CANDLES.assign(symbol="BTC/USDT")], ignore_index=True)
    found = split_symbols(rows.astype({"symbol": "category"}))
    assert {name: len(frame) for name, frame in found.items()} == {"ETHUSDT": 50, "BTCUSDT": 50}
    assert list(found) == ["ETHUSDT", "BTCUSDT"]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(STAMPS.as_unit("ms").asi8),
        pd.Index(STAMPS.as_unit("s").asi8),
        pd.Index(STAMPS.as_unit("ms").asi8, name="date"),
        pd.RangeIndex(1_704_067_200, 1_704_067_200 + 50 * 3600, 3600),
        pd.Index(STAMPS.strftime("%Y-%m-%dT%H:%M:%SZ")),
        pd.Index(list(STAMPS), dtype=object),
        STAMPS,
    ],
)
def test_an_index_of_instants_is_taken_as_the_timestamps(index: pd.Index) -> None:
    assert tidy_candles(PRICES.set_axis(index), "BTCUSDT")["timestamp"].tolist() == list(STAMPS)


def test_a_column_of_instants_counts_before_a_counter() -> None:
    counted = CANDLES.set_axis(pd.Index(STAMPS.as_unit("s").asi8 + 5))
    assert tidy_candles(counted, "BTCUSDT")["timestamp"].tolist() == list(STAMPS)


@pytest.mark.parametrize(
    "index", [pd.RangeIndex(50), pd.RangeIndex(7, 57), pd.Index([*range(49), 60]), pd.Index(["row"] * 50), PAIRED]
)
def test_an_index_that_only_counts_is_no_timestamp(index: pd.Index) -> None:
    with pytest.raises(DataError, match="candles of BTCUSDT must have a column 'timestamp'"):
        tidy_candles(PRICES.set_axis(index), "BTCUSDT")


def test_naive_text_in_the_index_is_refused_as_in_a_column() -> None:
    with pytest.raises(DataError, match="timezone-naive"):
        tidy_candles(PRICES.set_axis(pd.Index(STAMPS.strftime("%Y-%m-%d %H:%M"))), "BTCUSDT")


def test_a_pair_that_the_exchange_has_no_candles_of_is_absent() -> None:
    candles = CANDLES.rename(columns={"timestamp": "date"})
    strategy: Any = CryptomlStrategy.__new__(CryptomlStrategy)
    asked: list[list[str]] = []

    def signals(symbol: str, frames: dict[str, pd.DataFrame], newest: int | None) -> pd.DataFrame:
        asked.append(list(frames))
        return pd.DataFrame({"action": "BUY", "position_size": 0.1, "market_regime": "BULL"}, index=STAMPS)

    given = {"ETH/USDT": pd.DataFrame(), "SOL/USDT": candles.head(0), "XRP/USDT": candles}
    strategy.config = {"stake_currency": "USDT", "runmode": SimpleNamespace(value="backtest")}
    strategy.timeframe = "1h"
    strategy.dp = SimpleNamespace(market=lambda pair: {}, get_pair_dataframe=lambda pair, timeframe: given[pair])
    strategy.cryptoml_source = SimpleNamespace(symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"), signals=signals)
    assert len(strategy.populate_indicators(candles, {"pair": "BTC/USDT"})) == 50
    assert asked == [["XRPUSDT", "BTCUSDT"]]


def tables_of(**given: Any) -> Tables:
    return tables_of_readings({"BTCUSDT": CANDLES}, {"BTCUSDT": given}, "1h")


@pytest.mark.parametrize(
    "book",
    [
        {"bids": [[9.0, 2.0, 1704], [8.0, 3.0, 1704]], "asks": [[10.0, 1.0, 1704]]},
        {"bids": np.array([[9.0, 2.0, 1704], [8.0, 3.0, 1704]]), "asks": ((10.0, 1.0, None),)},
        {"bids": [["9.0", "2.0"], ["8.0", "3.0", "17"]], "asks": [[10.0, 1.0]], "nonce": None, "symbol": "BTC/USDT"},
        pd.DataFrame({"bids": [[[9.0, 2.0, 1], [8.0, 3.0, 1]]], "asks": [[[10.0, 1.0, 1]]], "available_at": STAMPS[-1:]}),
    ],
)
def test_levels_of_a_book_may_say_more_than_price_and_size(book: Any) -> None:
    row = tables_of(orderbook=book)["orderbook"]["BTCUSDT"].iloc[0]
    assert (list(row["bid_prices"]), list(row["bid_sizes"])) == ([9.0, 8.0], [2.0, 3.0])
    assert (list(row["ask_prices"]), list(row["ask_sizes"])) == ([10.0], [1.0])


@pytest.mark.parametrize(
    "given",
    [
        {"orderbook": {"bids": [], "asks": []}},
        {"orderbook": {"bids": None, "asks": None, "timestamp": None}},
        {"orderbook": {}},
        {"orderbook": pd.DataFrame()},
        {"onchain": {}},
        {"onchain": {"active_addresses": None}},
        {"onchain": pd.DataFrame()},
        {"cross_exchange": {"kraken": None}},
        {"cross_exchange": {"kraken": pd.DataFrame(), "funding": None}},
        {"cross_exchange": {}},
        {},
    ],
)
def test_an_absent_reading_is_absent(given: dict[str, Any]) -> None:
    assert not tables_of(**given)


def test_a_symbol_may_have_no_readings() -> None:
    assert not tables_of_readings({"BTCUSDT": CANDLES}, {"BTCUSDT": None}, "1h")


def test_other_readings_count_beside_absent_ones() -> None:
    found = tables_of(orderbook={"bids": [], "asks": []}, cross_exchange={"kraken": None, "okx": 9.5})
    assert {name: list(rows) for name, rows in found.items()} == {"venue_candles": ["okx:BTCUSDT"]}


@pytest.mark.parametrize("metric", ["active_addresses", "AdrActCnt"])
def test_an_onchain_reading_may_be_a_mapping(metric: str) -> None:
    rows = tables_of(onchain={metric: 5, "gas_fees": None})["onchain"]["BTC"]
    assert rows[["metric", "value"]].to_numpy().tolist() == [["active_addresses", 5.0]]
    assert rows["available_at"].tolist() == [STAMPS[-1] + pd.Timedelta(hours=1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"onchain": {"whales": 3.0}}, "onchain must hold each of whale_movements, .*, was 'whales'"),
        ({"onchain": {"gas_fees": 1.0, "FeeTotNtv": 1.0}}, "onchain must hold each .* at most once .*, was 'FeeTotNtv'"),
        ({"onchain": {"gas_fees": "high"}}, "onchain gas_fees must be a number, was 'high'"),
        ({"onchain": [1.0]}, "onchain must be"),
        ({"orderbook": {"bids": [[9.0, 1.0]], "asks": []}}, "orderbook prices of asks must not be empty"),
        ({"orderbook": {"bids": [[9.0]], "asks": [[10.0, 1.0]]}}, "orderbook bids must be pairs"),
        ({"orderbook": {"bids": ["abc"], "asks": ["abd"]}}, "orderbook bids must be pairs"),
        ({"orderbook": [1.0]}, "orderbook must be"),
        ({"cross_exchange": [1.0]}, "cross_exchange must map"),
        ({"cross_exchange": {"kraken": "9.5"}}, "cross_exchange kraken must be a number"),
        ({"order_book": {}}, "readings of BTCUSDT must be among onchain, orderbook, cross_exchange, was 'order_book'"),
    ],
)
def test_a_reading_that_cannot_be_read_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tables_of(**given)


def test_readings_of_a_symbol_must_have_names() -> None:
    with pytest.raises(DataError, match="readings of BTCUSDT must map names to readings, was float"):
        tables_of_readings({"BTCUSDT": CANDLES}, {"BTCUSDT": 9.5}, "1h")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("abc", "config must map names to settings, was str"),
        ([], "config must map names to settings, was list"),
        ({"cryptoml": 5}, "config section 'cryptoml' must map names to settings, was 5"),
        ({"cryptoml": None}, "config section 'cryptoml' must map names to settings, was None"),
        ({"CryptoML": {"dropout": 0.1}}, "config section must be called 'cryptoml', was 'CryptoML'"),
    ],
)
def test_a_bots_config_must_be_one(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(config)
    with pytest.raises(ConfigError, match=message):
        asyncio.run(integrate_with_existing_bot(SimpleNamespace(), config))


class Slotted:
    __slots__ = ()


class ReadOnly:
    @property
    def ai_system(self) -> None:
        return None


class Written:
    """A bot that takes a model and no other thing, and has none at first."""

    @property
    def ai_system(self) -> Any:
        return self.model

    @ai_system.setter
    def ai_system(self, model: Any) -> None:
        if not isinstance(model, UltimateTradingAI):
            raise TypeError("a model is needed")
        self.model = model


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The data and symbols of every training that was asked for; none is done."""
    asked: list[tuple[Any, Any]] = []

    async def train(self: UltimateTradingAI, data: Any, symbols: Any = None, **options: Any) -> dict[str, Any]:
        asked.append((data, symbols))
        return {}

    monkeypatch.setattr(UltimateTradingAI, "train_from_historical_data", train)
    monkeypatch.setattr(UltimateTradingAI, "save_state", lambda self: Path())
    return asked


def integrated(bot: Any, **options: Any) -> UltimateTradingAI:
    options |= {"train_on_startup": True, "historical_data_path": "candles.csv"}
    return asyncio.run(integrate_with_existing_bot(bot, {}, **options))


@pytest.mark.parametrize("bot", [Slotted(), ReadOnly(), None])
def test_a_bot_that_cannot_hold_a_model_is_refused_before_training(bot: Any, trainings: list[Any]) -> None:
    with pytest.raises(ConfigError, match=f"bot_instance must take the attribute ai_system, .*{type(bot).__name__}"):
        integrated(bot)
    assert not trainings


def test_a_bot_without_a_model_stays_as_it_was_where_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any, **__: Any) -> None:
        raise DataError("no candles")

    monkeypatch.setattr(UltimateTradingAI, "train_from_historical_data", failing)
    bare, kept = SimpleNamespace(), SimpleNamespace(ai_system="the old one")
    for bot in (bare, kept):
        with pytest.raises(DataError, match="no candles"):
            integrated(bot)
    assert vars(bare) == {}
    assert vars(kept) == {"ai_system": "the old one"}


def test_a_bot_with_a_setter_gets_its_model(trainings: list[Any]) -> None:
    bot = Written()
    for _ in range(2):
        assert integrated(bot) is bot.ai_system


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [("BTC/USDT", ["BTC/USDT"]), (["BTC/USDT", "ETH/USDT"], ["BTC/USDT", "ETH/USDT"]), (None, None), ([], None)],
)
def test_symbols_of_a_bot(symbols: Any, expected: list[str] | None, trainings: list[Any]) -> None:
    integrated(SimpleNamespace(symbols=symbols))
    integrated(SimpleNamespace(), symbols=symbols)
    assert [asked for _, asked in trainings] == [expected, expected]


@pytest.mark.parametrize(("symbols", "message"), [(lambda: [], "was function"), (5, "was int"), ([5], "symbol must be text")])
def test_symbols_of_a_bot_that_are_none_are_refused(symbols: Any, message: str, trainings: list[Any]) -> None:
    for bot, options in ((SimpleNamespace(symbols=symbols), {}), (SimpleNamespace(), {"symbols": symbols})):
        with pytest.raises(ConfigError, match=message):
            integrated(bot, **options)
    assert not trainings


def test_symbols_that_are_a_method_are_named(trainings: list[Any]) -> None:
    class Bot:
        def symbols(self) -> list[str]:
            raise AssertionError("it is not for us to call")

    with pytest.raises(ConfigError, match="symbols of the bot must be a sequence of symbols, was method"):
        integrated(Bot())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"trading": 5}, "setting trading must map names to settings, was 5"),
        ({"trading": None}, "setting trading must map names to settings, was None"),
        ([], "config must map names to settings, was list"),
        ({"timeframe": "1hour"}, "timeframe must be a number and one of s, m, h, d, w such as '1h', was '1hour'"),
        ({"assume_timezone": "Mars"}, "assume_timezone must be a zone such as 'UTC' or 'Asia/Tokyo', was 'Mars'"),
        ({"assume_timezone": ""}, "assume_timezone must be a zone .*, was ''"),
        ({"assume_timezone": "Asia"}, "assume_timezone must be a zone .*, was 'Asia'"),
        ({"learning_rate": float("inf")}, "setting learning_rate: .*finite.*, was inf"),
        ({"max_position": float("inf")}, "setting max_position: .*finite.*, was inf"),
        ({"costs": {"fee_bps": float("inf")}}, r"setting costs\.fee_bps: .*finite.*, was inf"),
        ({"stop_loss_pct": 0.3}, "stop_loss_pct must be within min_stop_pct 0.002 and max_stop_pct 0.25, was 0.3$"),
    ],
)
def test_impossible_settings_are_told_at_once(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UltimateTradingAI(config)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "Europe/Berlin", "+01:00"])
def test_zones_are_those_that_timestamps_are_read_with(zone: str) -> None:
    assert LiveSettings.of({"assume_timezone": zone, "timeframe": "4h"}).assume_timezone == zone


def test_a_book_with_stamped_levels_is_remembered(trained: Any, open_ai: Callable[..., UltimateTradingAI]) -> None:
    ai = open_ai()
    frame = trained.frames(2300)["BTCUSDT"]
    book = {"bids": [[9.0, 2.0, 1704067200000]], "asks": [[10.0, 1.0, 1704067200000]]}
    found = asyncio.run(ai.predict(frame, "BTC/USDT", {"gas_fees": 3.0}, book, {"kraken": None}, explain=False))
    assert found["refusal"] is None
    assert set(ai._session.tables) == {"orderbook", "onchain"}
