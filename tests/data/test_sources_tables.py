"""Funding, on-chain, order-book, trade and other-venue files become their tables, each with `available_at`."""

import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cryptoml.data.schema import VENUE_CANDLES
from cryptoml.data.sources import (
    read_funding_file,
    read_onchain_file,
    read_orderbook_file,
    read_trades_file,
    read_venue_file,
)
from cryptoml.errors import DataError

DAY = pd.Timestamp("2024-01-01", tz="UTC")


def whole(batches) -> pd.DataFrame:
    """Check every batch against its schema and return all rows."""
    batches = list(batches)
    for rows in batches:
        table = pa.Table.from_pandas(rows.frame, schema=rows.spec.schema, preserve_index=False)
        filled = [name for name in table.column_names if name not in rows.spec.nullable]
        assert all(table.column(name).null_count == 0 for name in filled)
        assert (rows.frame["available_at"] >= rows.frame["timestamp"]).all()
        assert not rows.frame.duplicated(subset=list(rows.spec.key)).any()
    return pd.concat([rows.frame for rows in batches], ignore_index=True)


def set_aside(batches) -> list[list[object]]:
    return pd.concat([rows.quarantine for rows in batches])[["row", "column", "value", "reason"]].to_numpy().tolist()


def test_funding_stamps_are_snapped_and_known_at_the_stamp(tmp_path):
    stamps = DAY + pd.to_timedelta([0, 28_800_007, 57_599_995, 90_000_000], unit="ms")
    pd.DataFrame({"timestamp": stamps, "funding_rate": [1e-4, 2e-4, 3e-4, 4e-4]}).to_parquet(tmp_path / "BTCUSDT.parquet")
    frame = whole(read_funding_file(tmp_path / "BTCUSDT.parquet"))
    assert frame["timestamp"].tolist() == list(DAY + pd.to_timedelta([0, 8, 16, 25], unit="h"))
    assert frame["available_at"].tolist() == [stamps[0], stamps[1], DAY + pd.Timedelta(16, unit="h"), stamps[3]]


def test_binance_funding_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "BTCUSDT-fundingRate-2024-01.zip", "w") as archive:
        archive.writestr(
            "a.csv", "calc_time,funding_interval_hours,last_funding_rate\n1704067200004,8,0.0001\n1704096000000,8,?\n"
        )
    batches = list(read_funding_file(tmp_path / "BTCUSDT-fundingRate-2024-01.zip"))
    assert batches[0].partition == {"symbol": "BTCUSDT"}
    assert whole(batches)["funding_rate"].tolist() == [0.0001]
    assert set_aside(batches) == [[3, "funding_rate", "?", "not_a_number"]]


def test_contradicting_funding_is_set_aside_and_copies_dropped(tmp_path):
    frame = pd.DataFrame({"timestamp": [DAY] * 3, "funding_rate": [1e-4, 1e-4, 2e-4]})
    frame.to_parquet(tmp_path / "BTCUSDT.parquet")
    (rows,) = read_funding_file(tmp_path / "BTCUSDT.parquet")
    assert rows.frame["funding_rate"].tolist() == [1e-4]
    assert rows.quarantine["reason"].tolist() == ["duplicate"]
    assert rows.rows_read == 3


def test_wrong_funding_column_is_named(tmp_path):
    pd.DataFrame({"timestamp": [DAY], "price": [1.0]}).to_parquet(tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match=r"BTCUSDT\.parquet: column 'funding_rate' is missing"):
        list(read_funding_file(tmp_path / "BTCUSDT.parquet"))


@pytest.mark.parametrize("symbol", ["BTC", "ETH", "SOL"])
def test_real_funding(shared_data, symbol):
    path = shared_data / "funding_8h" / f"{symbol}USDT.parquet"
    frame, raw = whole(read_funding_file(path)), pd.read_parquet(path)
    assert len(frame) == len(raw)
    assert (frame["timestamp"] == frame["timestamp"].dt.floor("8h")).all()
    assert frame["available_at"].tolist() == raw["timestamp"].tolist()


def test_real_freqtrade_funding_holds_the_rate_in_open(shared_data):
    path = shared_data / "freqtrade" / "futures" / "XRP_USDT_USDT-8h-funding_rate.feather"
    frame = whole(read_funding_file(path))
    np.testing.assert_array_equal(frame["funding_rate"], pd.read_feather(path)["open"])


ONCHAIN_CSV = "time,AdrActCnt,TxCnt,AssetCompletionTime\n2024-01-01,5,,1\n2024-01-02,x,7,1\nnever,1,1,1\n"


def test_onchain_is_long_and_late(tmp_path):
    (tmp_path / "btc.csv").write_text(ONCHAIN_CSV)
    batches = list(read_onchain_file(tmp_path / "btc.csv"))
    frame = whole(batches)
    assert batches[0].partition == {"asset": "BTC"}
    assert frame[["metric", "value"]].to_numpy().tolist()[0] == ["AdrActCnt", 5.0]
    assert frame["metric"].tolist() == ["AdrActCnt", "TxCnt", "TxCnt"]
    assert frame["value"].isna().tolist() == [False, True, False]
    assert (frame["available_at"] - frame["timestamp"]).eq(pd.Timedelta(27, unit="h")).all()
    assert sorted(set_aside(batches)) == [
        [3, "AdrActCnt", "x", "not_a_number"],
        [4, "timestamp", "never [UTC]", "unreadable_timestamp"],
    ]


def test_onchain_delay_and_metrics_are_settings(tmp_path):
    (tmp_path / "btc.csv").write_text(ONCHAIN_CSV)
    frame = whole(read_onchain_file(tmp_path / "btc.csv", metrics=["TxCnt"], delay=pd.Timedelta(40, unit="h")))
    assert set(frame["metric"]) == {"TxCnt"}
    assert frame["available_at"][0] == DAY + pd.Timedelta(40, unit="h")
    with pytest.raises(DataError, match="metric 'Fees' is missing"):
        list(read_onchain_file(tmp_path / "btc.csv", metrics=["Fees"]))


def test_real_onchain(shared_data):
    path = shared_data / "onchain_1d" / "btc.csv"
    frame, raw = whole(read_onchain_file(path)), pd.read_csv(path)
    assert not frame["metric"].str.contains("CompletionTime").any()
    flows = frame[frame["metric"] == "FlowInExNtv"]
    np.testing.assert_array_equal(flows["value"], raw["FlowInExNtv"])


def made_book(num_rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "event_time_ms": DAY.value // 1_000_000 + 50 * np.arange(num_rows),
            "recv_ns": DAY.value - 1_300_000_000 + 50_000_000 * np.arange(num_rows),
            "price_bid_1": 100.0,
            "size_bid_1": 1.0,
            "price_bid_2": 99.0,
            "size_bid_2": 2.0,
            "price_ask_1": 101.0,
            "size_ask_1": 3.0,
            "price_ask_2": 102.0,
            "size_ask_2": 4.0,
        }
    )


def test_book_uses_the_exchange_time(tmp_path):
    made_book().to_parquet(tmp_path / "btcusdt_usdm_depth20.parquet")
    batches = list(read_orderbook_file(tmp_path / "btcusdt_usdm_depth20.parquet"))
    frame = whole(batches)
    assert batches[0].partition == {"symbol": "BTCUSDT"}
    assert frame["available_at"][0] == DAY
    assert frame["bid_prices"][0].tolist() == [100.0, 99.0]
    assert frame["ask_sizes"][0].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("price_bid_1", 101.0, "crossed_book"),
        ("price_bid_2", 100.5, "unordered_book"),
        ("size_ask_2", -1.0, "negative_volume"),
        ("price_ask_1", np.nan, "not_finite"),
        ("price_ask_1", "x", "not_a_number"),
    ],
)
def test_bad_books_are_set_aside(tmp_path, column, value, reason):
    frame = made_book().astype({column: object})
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "BTCUSDT.csv", index=False)
    batches = list(read_orderbook_file(tmp_path / "BTCUSDT.csv"))
    quarantine = pd.concat([rows.quarantine for rows in batches])
    assert quarantine[["row", "reason"]].to_numpy().tolist() == [[4, reason]]
    assert len(whole(batches)) == 3


def test_last_book_of_an_instant_stands_and_absent_levels_are_left_out(tmp_path):
    frame = made_book(6)
    frame["event_time_ms"] = frame["event_time_ms"].iloc[[0, 1, 1, 1, 2, 3]].to_numpy()
    frame["size_bid_1"] = np.arange(6.0)
    frame.loc[5, ["price_ask_2", "size_ask_2"]] = np.nan
    frame.to_parquet(tmp_path / "BTCUSDT.parquet")
    for batch_rows in (2, 100):
        books = whole(read_orderbook_file(tmp_path / "BTCUSDT.parquet", batch_rows=batch_rows))
        assert [sizes[0] for sizes in books["bid_sizes"]] == [0.0, 3.0, 4.0, 5.0]
        assert len(books["ask_prices"].iloc[-1]) == 1


def test_book_without_levels_is_named(tmp_path):
    made_book().drop(columns="size_ask_2").to_parquet(tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match="'size_ask_1' or a deeper level is missing"):
        list(read_orderbook_file(tmp_path / "BTCUSDT.parquet"))


def test_real_orderbook(shared_data):
    path = shared_data / "orderbook" / "btcusdt_usdm_depth20.parquet"
    raw = pd.read_parquet(path)
    frame = whole(read_orderbook_file(path, batch_rows=1_000))
    assert len(frame) == raw["event_time_ms"].nunique()
    assert {len(prices) for prices in frame["bid_prices"]} == {20}
    assert frame["available_at"].iloc[0] == pd.Timestamp(raw["event_time_ms"].iloc[0], unit="ms", tz="UTC")


def test_real_trades(shared_data):
    path = shared_data / "orderbook" / "btcusdt_usdm_trades.parquet"
    raw = pd.read_parquet(path)
    frame = whole(read_trades_file(path, batch_rows=5_000))
    assert len(frame) == len(raw)
    assert frame["is_buyer_taker"].sum() == (raw["aggressor_side"] == "buy").sum()
    assert frame["size"].sum() == pytest.approx(raw["size"].sum())


def test_binance_trades_without_header(tmp_path):
    with zipfile.ZipFile(tmp_path / "BTCUSDT-aggTrades-2024-01.zip", "w") as archive:
        archive.writestr(
            "a.csv", "9,100.5,0.2,1,2,1704067200004,true\n10,100.4,0.1,3,3,1704067200009,false\n11,1,1,4,4,1704067200010,?\n"
        )
    batches = list(read_trades_file(tmp_path / "BTCUSDT-aggTrades-2024-01.zip"))
    frame = whole(batches)
    assert frame["trade_id"].tolist() == [9, 10]
    assert frame["is_buyer_taker"].tolist() == [False, True]
    assert set_aside(batches) == [[3, "is_buyer_maker", "?", "unknown_side"]]


def test_trades_without_side_are_named(tmp_path):
    pd.DataFrame({"time": [DAY], "id": [1], "price": [1.0], "qty": [1.0]}).to_parquet(tmp_path / "BTCUSDT.parquet")
    with pytest.raises(DataError, match="column 'side' is missing"):
        list(read_trades_file(tmp_path / "BTCUSDT.parquet"))


@pytest.mark.parametrize(("folder", "venue"), [("kraken_1h", "kraken"), ("spot_1h", "binance_spot")])
def test_real_venue_candles(shared_data, folder, venue):
    batches = list(read_venue_file(shared_data / folder / "ETHUSDT.parquet", venue=venue))
    frame = whole(batches)
    assert list(frame.columns) == VENUE_CANDLES.schema.names
    assert batches[0].partition == {"venue": venue, "timeframe": "1h", "symbol": "ETHUSDT"}
    assert (frame["available_at"] - frame["timestamp"]).eq(pd.Timedelta(1, unit="h")).all()
