"""Loading a panel: a folder of mixed files, a lake, and bad input that is named or put aside."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.lake import Lake
from cryptoml.data.loading import load_panel
from cryptoml.data.schema import CANDLES, FUNDING, ONCHAIN, TRADE_BARS, TRADES, VENUE_CANDLES, parse_timeframe
from cryptoml.errors import CryptomlError, DataError

START = pd.Timestamp("2024-01-01", tz="UTC")


def candles(bars: int = 40, *, first: int = 0, step: str = "1h", base: float = 100.0) -> pd.DataFrame:
    """Candles of bars [first, first + bars) after START; close = base + bar number."""
    numbers = np.arange(first, first + bars)
    close = base + numbers.astype(float)
    columns = {"open": close - 0.5, "high": close + 1, "low": close - 1, "close": close, "volume": np.full(bars, 2.0)}
    return pd.DataFrame({"timestamp": START + numbers * parse_timeframe(step), **columns})


def refused(source: object, **options: object) -> str:
    """Return the message of the error, which must be of one line."""
    with pytest.raises(DataError) as caught:
        load_panel(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """BTC as CSV and ETH as Parquet, one hour apart."""
    candles().to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
    candles(first=1, base=50.0).to_parquet(tmp_path / "ETHUSDT-1h.parquet")
    return tmp_path


class TestFolder:
    def test_formats_mix_and_listings_differ(self, folder: Path) -> None:
        loaded = load_panel(folder)
        assert loaded.panel.symbols == ("BTCUSDT", "ETHUSDT")
        assert (loaded.panel.timeframe, loaded.panel.num_bars) == ("1h", 41)
        assert loaded.panel.timestamps[0] == START
        assert loaded.panel.field("close")[1, 1:3].tolist() == [51.0, 52.0]
        assert loaded.panel.present.sum(axis=1).tolist() == [40, 40]
        assert loaded.health.ok
        assert loaded.quarantine.empty

    def test_bad_rows_are_put_aside_with_their_place(self, folder: Path) -> None:
        frame = candles().astype({"close": object})
        frame.loc[5, "close"] = "oops"
        frame.loc[9, "low"] = 500.0
        frame.loc[12, "open"] = -1.0
        frame.to_csv(folder / "BTCUSDT-1h.csv", index=False)
        loaded = load_panel(folder)
        assert loaded.quarantine["reason"].tolist() == ["not_a_number", "high_below_low", "non_positive_price"]
        first = loaded.quarantine.iloc[0]
        assert (first["column"], first["value"], first["symbol"]) == ("close", "oops", "BTCUSDT")
        assert first["source"].endswith("BTCUSDT-1h.csv")
        assert first["row"] - loaded.quarantine["row"][1] == 5 - 9
        assert not loaded.panel.present[0, [5, 9, 12]].any()
        assert loaded.panel.present[0].sum() == 37
        assert loaded.health.symbols[0].rows_quarantined == 3

    def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(self, folder: Path) -> None:
        (folder / "SOLUSDT-1h.parquet").write_bytes(b"PAR1 but not really")
        candles().drop(columns="close").to_csv(folder / "XRPUSDT-1h.csv", index=False)
        loaded = load_panel(folder)
        assert loaded.panel.symbols == ("BTCUSDT", "ETHUSDT")
        assert [Path(error.source).name for error in loaded.health.file_errors] == ["SOLUSDT-1h.parquet", "XRPUSDT-1h.csv"]
        assert "'close' is missing" in loaded.health.file_errors[1].message
        assert all("\n" not in error.message for error in loaded.health.file_errors)
        assert not loaded.health.ok

    def test_a_file_cut_off_in_the_middle_gives_none_of_its_rows(self, folder: Path) -> None:
        packed = gzip.compress(candles(5_000, base=3.0).to_csv(index=False).encode())
        (folder / "SOLUSDT-1h.csv.gz").write_bytes(packed[: len(packed) // 2])
        loaded = load_panel(folder)
        assert loaded.panel.symbols == ("BTCUSDT", "ETHUSDT")
        assert "SOLUSDT-1h.csv.gz" in loaded.health.file_errors[0].message

    def test_unordered_and_duplicated_rows_are_sorted_and_dropped(self, folder: Path) -> None:
        clean = load_panel(folder).panel
        mixed = pd.concat([candles(), candles(3, first=7)]).sample(frac=1.0, random_state=0)
        mixed.to_csv(folder / "BTCUSDT-1h.csv", index=False)
        loaded = load_panel(folder)
        np.testing.assert_array_equal(loaded.panel.candles, clean.candles)
        assert loaded.health.symbols[0].duplicates == 3
        assert loaded.health.symbols[0].unordered > 0

    def test_a_contradicting_duplicate_is_put_aside(self, folder: Path) -> None:
        pd.concat([candles(), candles(1, first=3, base=70.0)]).to_csv(folder / "BTCUSDT-1h.csv", index=False)
        loaded = load_panel(folder)
        assert loaded.quarantine["reason"].tolist() == ["duplicate"]
        assert loaded.panel.field("close")[0, 3] == 103.0

    def test_one_symbol_may_lie_in_several_files(self, tmp_path: Path) -> None:
        candles(20).to_csv(tmp_path / "BTCUSDT-1h-2024-01.csv", index=False)
        candles(25, first=15).to_csv(tmp_path / "BTCUSDT-1h-2024-02.csv", index=False)
        loaded = load_panel(tmp_path)
        assert loaded.panel.present.sum() == 40
        assert loaded.health.symbols[0].duplicates == 5

    @pytest.mark.parametrize(("timeframe", "bars"), [("15m", 200), ("4h", 60), ("1d", 20)])
    def test_other_timeframes_are_found(self, tmp_path: Path, timeframe: str, bars: int) -> None:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            candles(bars, step=timeframe).to_csv(tmp_path / f"{symbol}.csv", index=False)
        panel = load_panel(tmp_path).panel
        assert (panel.timeframe, panel.num_bars) == (timeframe, bars)
        assert panel.timestamps[1] - panel.timestamps[0] == parse_timeframe(timeframe)


class TestSelection:
    def test_symbols_come_in_the_wished_order_and_spelling(self, folder: Path) -> None:
        assert load_panel(folder, symbols=["eth-usdt", "BTC/USDT"]).panel.symbols == ("ETHUSDT", "BTCUSDT")
        assert load_panel(folder, symbols=["ETH/USDT"]).panel.symbols == ("ETHUSDT",)

    def test_an_absent_symbol_is_an_error_that_says_what_there_is(self, folder: Path) -> None:
        message = refused(folder, symbols=["BTC/USDT", "DOGE/USDT"])
        assert "DOGEUSDT" in message
        assert "BTCUSDT" in message

    def test_other_files_than_the_wished_do_not_matter(self, folder: Path) -> None:
        candles(30, step="4h").to_csv(folder / "SOLUSDT-4h.csv", index=False)
        assert load_panel(folder, symbols=["BTC/USDT"]).panel.timeframe == "1h"

    def test_start_is_included_and_end_is_not(self, folder: Path) -> None:
        panel = load_panel(folder, start="2024-01-01 05:00", end=START + pd.Timedelta("20h")).panel
        assert panel.timestamps[0] == START + pd.Timedelta("5h")
        assert panel.timestamps[-1] == START + pd.Timedelta("19h")

    def test_a_span_without_candles_is_an_error(self, folder: Path) -> None:
        assert "no usable candle" in refused(folder, start="2030-01-01")

    def test_a_symbol_without_overlap_is_left_out_and_named(self, folder: Path) -> None:
        candles(30, first=500).to_csv(folder / "SOLUSDT-1h.csv", index=False)
        loaded = load_panel(folder)
        assert loaded.panel.symbols == ("BTCUSDT", "ETHUSDT")
        assert loaded.panel.num_bars == 41
        assert [error.source for error in loaded.health.file_errors] == ["SOLUSDT"]
        assert "no bar in common" in loaded.health.to_text()

    def test_no_overlap_at_all_is_an_error(self, tmp_path: Path) -> None:
        candles(30).to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        candles(30, first=500).to_csv(tmp_path / "ETHUSDT-1h.csv", index=False)
        assert "no bar in common" in refused(tmp_path)


class TestRefusals:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        assert "does not exist" in refused(tmp_path / "absent")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert str(tmp_path) in refused(tmp_path)

    def test_one_candle(self, tmp_path: Path) -> None:
        candles(1).to_csv(tmp_path / "BTCUSDT.csv", index=False)
        message = refused(tmp_path)
        assert "BTCUSDT.csv" in message
        assert "row" in message

    def test_a_missing_column(self, tmp_path: Path) -> None:
        candles().drop(columns="high").to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        message = refused(tmp_path)
        assert "BTCUSDT-1h.csv" in message
        assert "'high'" in message

    def test_only_bad_rows(self, tmp_path: Path) -> None:
        candles().assign(close="oops").to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        message = refused(tmp_path)
        for part in ("BTCUSDT", "close", "oops", "row"):
            assert part in message

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "BTCUSDT-1h.csv").write_text("")
        assert "BTCUSDT-1h.csv" in refused(tmp_path)

    def test_naive_timestamps(self, tmp_path: Path) -> None:
        frame = candles()
        frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)).to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        assert "BTCUSDT-1h.csv" in refused(tmp_path)

    def test_mixed_timeframes_ask_for_a_choice(self, folder: Path) -> None:
        candles(30, step="4h").to_csv(folder / "SOLUSDT-4h.csv", index=False)
        assert "mixes timeframes ['1h', '4h']" in refused(folder)
        loaded = load_panel(folder, timeframe="1h")
        assert loaded.panel.symbols == ("BTCUSDT", "ETHUSDT")
        assert loaded.health.ok

    def test_mixed_timeframes_inside_a_file_name_the_row(self, tmp_path: Path) -> None:
        mixed = pd.concat([candles(40), candles(40, first=50, step="4h")])
        mixed.to_csv(tmp_path / "BTCUSDT-1h.csv", index=False)
        message = refused(tmp_path)
        assert "mixes timeframes" in message
        assert "row" in message

    def test_an_address_without_a_lake(self, folder: Path) -> None:
        assert "holds no lake" in refused(folder.as_uri())


class TestLake:
    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        lake = Lake(tmp_path / "lake")
        for symbol, first in (("BTCUSDT", 0), ("ETHUSDT", 2)):
            lake.append(CANDLES, {"timeframe": "1h", "symbol": symbol}, candles(first=first))
        return lake

    def test_candles_and_tables_come_together(self, lake: Lake) -> None:
        stamps = START + np.arange(4) * pd.Timedelta("8h")
        funding = pd.DataFrame({"timestamp": stamps, "available_at": stamps, "funding_rate": 1e-4})
        for symbol in ("BTCUSDT", "DOGEUSDT"):
            lake.append(FUNDING, {"symbol": symbol}, funding)
        onchain = pd.DataFrame(
            {"timestamp": stamps, "available_at": stamps + pd.Timedelta("24h"), "metric": "TxCnt", "value": np.arange(4.0)}
        )
        for asset in ("ETH", "ADA"):
            lake.append(ONCHAIN, {"asset": asset}, onchain)
        venue = candles().assign(available_at=lambda frame: frame["timestamp"] + pd.Timedelta("1h"))
        for timeframe in ("1h", "4h"):
            rows = venue if timeframe == "1h" else venue.iloc[::4]
            lake.append(VENUE_CANDLES, {"venue": "kraken", "timeframe": timeframe, "symbol": "BTCUSDT"}, rows)
        loaded = load_panel(lake.storage.address)
        found = {name: sorted(rows) for name, rows in loaded.panel.tables.items()}
        assert found == {"funding": ["BTCUSDT"], "onchain": ["ETH"], "venue_candles": ["kraken:BTCUSDT"]}
        assert len(loaded.panel.tables["venue_candles"]["kraken:BTCUSDT"]) == 40
        assert loaded.panel.num_bars == 42
        assert loaded.health.ok

    def test_an_asset_is_the_base_of_a_market_and_no_prefix_of_it(self, lake: Lake) -> None:
        rows = {"timestamp": [START], "available_at": [START + pd.Timedelta("24h")], "metric": ["TxCnt"], "value": [1.0]}
        for asset in ("BTC", "BTCU", "E", "ETHUSDT"):
            lake.append(ONCHAIN, {"asset": asset}, pd.DataFrame(rows))
        assert list(load_panel(lake.storage.address).panel.tables["onchain"]) == ["BTC"]

    def test_the_third_pair_of_a_triangle_comes_along(self, lake: Lake) -> None:
        venue = candles(base=5.0).assign(available_at=lambda frame: frame["timestamp"] + pd.Timedelta("1h"))
        for symbol in ("ETHBTC", "SOLBTC"):
            lake.append(VENUE_CANDLES, {"venue": "kraken", "timeframe": "1h", "symbol": symbol}, venue)
        assert list(load_panel(lake.storage.address).panel.tables["venue_candles"]) == ["kraken:ETHBTC"]
        alone = load_panel(lake.storage.address, symbols=["ETH/USDT"]).panel
        assert alone.symbols == ("ETHUSDT",)
        assert set(alone.tables["venue_candles"]) == {"kraken:ETHBTC", "own:BTCUSDT"}
        np.testing.assert_array_equal(alone.tables["venue_candles"]["own:BTCUSDT"]["close"], candles()["close"])

    def test_ticks_come_as_one_row_per_bar_whatever_their_number(self, lake: Lake) -> None:
        known = START + np.arange(0, 40 * 3_600, 7) * pd.Timedelta("1s")
        sides = {"size": 1.0, "is_buyer_taker": np.arange(len(known)) % 4 > 0}
        trades = {"timestamp": known, "available_at": known, "trade_id": np.arange(len(known)), "price": 100.0, **sides}
        lake.append(TRADES, {"symbol": "BTCUSDT"}, pd.DataFrame(trades))
        tables = load_panel(lake.storage.address, start=START + pd.Timedelta("5h")).panel.tables
        assert set(tables) == {"trade_bars"}
        bars = tables["trade_bars"]["BTCUSDT"]
        assert bars["timestamp"].tolist() == [START + hour * pd.Timedelta("1h") for hour in range(5, 40)]
        assert (bars["bought"] + bars["sold"]).between(514, 515).all()

    def test_bars_of_ticks_in_the_lake_stand_for_the_ticks(self, lake: Lake) -> None:
        known = START + np.arange(8) * pd.Timedelta("1h")
        trades = {"timestamp": known, "available_at": known, "trade_id": 1, "price": 1.0, "size": 1.0, "is_buyer_taker": True}
        bars = {"timestamp": known, "available_at": known + pd.Timedelta("1h"), "bought": 5.0, "sold": 2.0}
        lake.append(TRADES, {"symbol": "BTCUSDT"}, pd.DataFrame(trades))
        lake.append(TRADE_BARS, {"timeframe": "1h", "symbol": "BTCUSDT"}, pd.DataFrame(bars))
        assert set(load_panel(lake.storage.address).panel.tables["trade_bars"]["BTCUSDT"]["bought"]) == {5.0}

    def test_what_was_known_at_the_end_does_not_depend_on_where_the_end_was_cut(self, lake: Lake) -> None:
        stamps = START + np.arange(40) * pd.Timedelta("1h")
        funding = pd.DataFrame({"timestamp": stamps, "available_at": stamps, "funding_rate": 1e-4})
        lake.append(FUNDING, {"symbol": "BTCUSDT"}, funding)
        cut = load_panel(lake.storage.address, end=START + pd.Timedelta("10h")).panel
        assert (
            cut.fingerprint() == load_panel(lake.storage.address).panel.slice_time(stop=START + pd.Timedelta("10h")).fingerprint()
        )
        assert cut.tables["funding"]["BTCUSDT"]["timestamp"].iloc[-1] == START + pd.Timedelta("10h")

    def test_equals_the_folder_of_the_same_candles(self, lake: Lake, tmp_path: Path) -> None:
        files = tmp_path / "files"
        files.mkdir()
        for symbol, first in (("BTCUSDT", 0), ("ETHUSDT", 2)):
            candles(first=first).to_csv(files / f"{symbol}-1h.csv", index=False)
        assert load_panel(lake.storage.address).panel.fingerprint() == load_panel(files).panel.fingerprint()

    def test_span_and_symbols(self, lake: Lake) -> None:
        panel = load_panel(lake.storage.address, symbols=["ETH/USDT"], start="2024-01-01 10:00", end="2024-01-01 20:00").panel
        assert (panel.symbols, panel.num_bars) == (("ETHUSDT",), 10)

    def test_gaps_are_counted(self, lake: Lake) -> None:
        lake.append(CANDLES, {"timeframe": "1h", "symbol": "SOLUSDT"}, candles().drop(index=[4, 5, 9]))
        health = load_panel(lake.storage.address).health.symbols[-1]
        assert (health.gaps, health.missing_bars, health.largest_gap_bars) == (2, 3, 2)

    def test_several_timeframes_ask_for_a_choice(self, lake: Lake) -> None:
        lake.append(CANDLES, {"timeframe": "4h", "symbol": "BTCUSDT"}, candles(step="4h"))
        assert "['1h', '4h']" in refused(lake.storage.address)
        assert load_panel(lake.storage.address, timeframe="4h").panel.symbols == ("BTCUSDT",)

    @pytest.mark.parametrize(
        ("options", "named"),
        [({"timeframe": "15m"}, "15m"), ({"symbols": ["DOGEUSDT"]}, "DOGEUSDT"), ({"start": "2030-01-01"}, "no usable candle")],
    )
    def test_nothing_to_load_is_an_error(self, lake: Lake, options: dict[str, object], named: str) -> None:
        assert named in refused(lake.storage.address, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeframe": "1 fortnight"}, "timeframe"),
        ({"symbols": ["///"]}, "symbol must"),
        ({"end": "yesterday-ish"}, "start and end"),
    ],
)
def test_bad_settings_are_refused_in_one_line(folder: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(CryptomlError, match=named) as caught:
        load_panel(folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_real_candles(shared_data: Path) -> None:
    loaded = load_panel(shared_data / "candles_1h", symbols=["SOL/USDT", "BTC/USDT"], end="2021-03-01")
    assert loaded.panel.symbols == ("SOLUSDT", "BTCUSDT")
    assert loaded.panel.timeframe == "1h"
    assert loaded.panel.present.mean() > 0.9
