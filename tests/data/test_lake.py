"""The lake: merge by key, atomic publish, readers beside dying writers, and the same on S3."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.lake import Lake, WriteResult, is_lake
from cryptoml.data.schema import CANDLES, FUNDING, ONCHAIN, ORDERBOOK, TRADES
from cryptoml.data.storage import open_storage
from cryptoml.errors import ConfigError, DataError

BTC = {"timeframe": "1h", "symbol": "BTCUSDT"}


def candles(start: str, periods: int, freq: str = "1h", offset: float = 0.0) -> pd.DataFrame:
    stamps = pd.date_range(start, periods=periods, freq=freq, tz="UTC", unit="us")
    price = 100.0 + offset + np.arange(periods)
    return pd.DataFrame({"timestamp": stamps, "open": price, "high": price + 1, "low": price - 1, "close": price, "volume": 5.0})


class TestScan:
    def test_gives_what_read_gives_in_bounded_batches(self, tmp_path: Path) -> None:
        lake, count = Lake(tmp_path), 150_000
        stamps = pd.date_range("2023-05-17 20:00", periods=count, freq="200ms", tz="UTC", unit="us")
        rows = {"trade_id": np.arange(count), "price": 1.0, "size": np.arange(count) / 7, "is_buyer_taker": True}
        lake.append(TRADES, {"symbol": "BTCUSDT"}, pd.DataFrame({"timestamp": stamps, "available_at": stamps, **rows}))
        span = ("2023-05-17 21:00", "2023-05-18 04:00")
        for columns in (None, ["size", "available_at"]):
            parts = list(lake.scan(TRADES, {"symbol": "BTCUSDT"}, *span, columns))
            assert max(map(len, parts)) <= 65_536
            whole = lake.read(TRADES, {"symbol": "BTCUSDT"}, *span, columns)
            pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
            assert len(whole) == 7 * 3_600 * 5

    def test_names_a_damaged_file_and_an_absent_partition(self, tmp_path: Path) -> None:
        Lake(tmp_path).append(CANDLES, BTC, candles("2022-12-31", 48))
        next(tmp_path.rglob("2023.parquet")).write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"2023\.parquet is damaged"):
            list(Lake(tmp_path).scan(CANDLES, BTC))
        with pytest.raises(DataError, match="has no trades/symbol=BTCUSDT"):
            next(Lake(tmp_path).scan(TRADES, {"symbol": "BTCUSDT"}))


class TestAppend:
    def test_splits_years_and_reads_back_sorted(self, tmp_path: Path) -> None:
        lake, frame = Lake(tmp_path), candles("2022-12-31", 48)
        result = lake.append(CANDLES, BTC, frame.sample(frac=1, random_state=0))
        folder = "candles/timeframe=1h/symbol=BTCUSDT"
        assert result == WriteResult(48, 0, (f"{folder}/2022.parquet", f"{folder}/2023.parquet"))
        back = lake.read(CANDLES, BTC)
        assert list(back.columns) == CANDLES.schema.names
        pd.testing.assert_frame_equal(back[list(frame.columns)], frame)
        assert back["num_trades"].isna().all()
        assert pq.read_metadata(tmp_path / folder / "2022.parquet").row_group(0).column(0).statistics.has_min_max

    @pytest.mark.parametrize(
        ("spec", "partition", "stem"),
        [
            (CANDLES, {"timeframe": "5m", "symbol": "BTCUSDT"}, "2023-05"),
            (CANDLES, BTC, "2023"),
            (FUNDING, {"symbol": "X"}, "2023"),
        ],
    )
    def test_file_period_follows_the_spacing(self, tmp_path: Path, spec, partition, stem) -> None:
        frame = candles("2023-05-17", 3)
        if spec is FUNDING:
            frame = frame[["timestamp"]].assign(available_at=frame["timestamp"], funding_rate=1e-4)
        (path,) = Lake(tmp_path).append(spec, partition, frame).files
        assert Path(path).stem == stem

    def test_same_rows_again_write_nothing(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        (path,) = lake.append(CANDLES, BTC, candles("2023-01-01", 24)).files
        before = (tmp_path / path).stat()
        assert lake.append(CANDLES, BTC, candles("2023-01-01", 24), overwrite=True) == WriteResult()
        assert lake.append(CANDLES, BTC, candles("2023-01-01", 12, offset=9.0)) == WriteResult(rows_refused=12)
        assert (tmp_path / path).stat().st_mtime_ns == before.st_mtime_ns

    def test_overwrite_replaces_only_rows_that_differ(self, tmp_path: Path) -> None:
        lake, frame = Lake(tmp_path), candles("2023-01-01", 24)
        lake.append(CANDLES, BTC, frame)
        changed = frame.iloc[20:].assign(close=lambda rows: rows["close"] + [0.0, 0.5, 0.0, 0.5])
        more = pd.concat([changed, candles("2023-01-02", 2)])
        result = lake.append(CANDLES, BTC, more, overwrite=True)
        assert (result.rows_added, result.rows_updated) == (2, 2)
        assert lake.read(CANDLES, BTC)["close"].to_list()[20:24] == changed["close"].to_list()

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.sets(st.integers(0, 60), min_size=1), min_size=1, max_size=4))
    def test_any_order_of_appends_gives_the_union(self, tmp_path_factory: pytest.TempPathFactory, batches) -> None:
        lake, whole = Lake(tmp_path_factory.mktemp("lake")), candles("2022-12-30 12:00", 61)
        added = sum(lake.append(CANDLES, BTC, whole.iloc[sorted(batch)]).rows_added for batch in batches)
        union = sorted(set.union(*batches))
        assert added == len(union)
        expected = whole.iloc[union].reset_index(drop=True)
        pd.testing.assert_frame_equal(lake.read(CANDLES, BTC)[list(whole.columns)], expected)

    def test_key_of_several_columns(self, tmp_path: Path) -> None:
        lake, stamps = Lake(tmp_path), pd.to_datetime(["2023-01-01", "2023-01-01"], utc=True)
        rows = pd.DataFrame({"timestamp": stamps, "available_at": stamps, "metric": ["TxCnt", "AdrActCnt"], "value": [1.0, None]})
        assert lake.append(ONCHAIN, {"asset": "BTC"}, rows).rows_added == 2
        assert lake.append(ONCHAIN, {"asset": "BTC"}, rows).rows_added == 0
        assert lake.append(ONCHAIN, {"asset": "BTC"}, rows.assign(value=[1.0, 2.0]), overwrite=True).rows_updated == 1
        assert lake.read(ONCHAIN, {"asset": "BTC"})["metric"].to_list() == ["AdrActCnt", "TxCnt"]

    def test_books_and_trades_are_kept_by_day(self, tmp_path: Path) -> None:
        lake, stamps = Lake(tmp_path), pd.to_datetime(["2024-08-08 23:59", "2024-08-09 00:01"], utc=True)
        sides = {name: [[1.0, 2.0], [3.0, 4.0]] for name in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")}
        books = pd.DataFrame({"timestamp": stamps, "available_at": stamps, **sides})
        result = lake.append(ORDERBOOK, {"symbol": "BTCUSDT"}, books)
        assert [Path(path).stem for path in result.files] == ["2024-08-08", "2024-08-09"]
        assert lake.append(ORDERBOOK, {"symbol": "BTCUSDT"}, books, overwrite=True) == WriteResult()
        moved = books.assign(bid_sizes=[[1.0, 2.0], [3.0, 4.5]])
        assert lake.append(ORDERBOOK, {"symbol": "BTCUSDT"}, moved, overwrite=True).rows_updated == 1
        fills = {"trade_id": [1, 2], "price": 2.0, "size": 1.0, "is_buyer_taker": [True, False]}
        lake.append(TRADES, {"symbol": "BTCUSDT"}, pd.DataFrame({"timestamp": stamps, "available_at": stamps, **fills}))
        assert lake.read(TRADES, {"symbol": "BTCUSDT"})["is_buyer_taker"].to_list() == [True, False]

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda rows: rows.drop(columns="close"), r"needs \['close'\]"),
            (lambda rows: rows.assign(symbol="BTC"), r"does not take \['symbol'\]"),
            (lambda rows: rows.assign(close=[1.0, None, 2.0]), "close is null at row 1"),
            (lambda rows: rows.assign(close=["1", "x", "2"]), "close must be double"),
            (lambda rows: rows.assign(timestamp=rows["timestamp"].dt.tz_localize(None)), "timestamp must be timezone-aware"),
            (lambda rows: pd.concat([rows, rows.iloc[:1]]), r"timestamp 2023-01-01 .* more than once"),
        ],
    )
    def test_refuses_rows_that_break_the_schema(self, tmp_path: Path, spoil, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Lake(tmp_path).append(CANDLES, BTC, spoil(candles("2023-01-01", 3)))
        assert not Lake(tmp_path).partitions(CANDLES)


class TestRead:
    def test_half_open_span_and_columns(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        lake.append(CANDLES, BTC, candles("2022-12-31", 72))
        rows = lake.read(CANDLES, BTC, "2022-12-31 23:00", pd.Timestamp("2023-01-01 02:00", tz="UTC"), ["timestamp", "close"])
        assert rows["close"].to_list() == [123.0, 124.0, 125.0]
        assert lake.read(CANDLES, BTC, start="2030-01-01").empty
        assert len(lake.read(CANDLES, BTC, end="2023-01-01")) == 24

    def test_listing_and_edges(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        assert lake.last_timestamp(CANDLES, BTC) is None
        assert not is_lake(tmp_path)
        lake.append(CANDLES, {"timeframe": "1h", "symbol": "eth/usdt"}, candles("2023-01-01", 3))
        lake.append(CANDLES, BTC, candles("2022-12-31 23:00", 3))
        lake.append(CANDLES, {**BTC, "timeframe": "1m"}, candles("2023-01-01", 3, "1min"))
        assert lake.symbols("1h") == ["BTCUSDT", "ETHUSDT"]
        assert lake.timeframes() == ["1m", "1h"]
        assert lake.partitions(CANDLES)[0] == BTC
        assert lake.first_timestamp(CANDLES, BTC) == pd.Timestamp("2022-12-31 23:00", tz="UTC")
        assert lake.last_timestamp(CANDLES, BTC) == pd.Timestamp("2023-01-01 01:00", tz="UTC")
        assert is_lake(tmp_path)

    def test_files_of_other_hands_are_read_but_not_appended_to(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        (path,) = lake.append(CANDLES, BTC, candles("2023-01-01", 3)).files
        (tmp_path / path).rename(tmp_path / path.replace("2023", "part-0"))
        assert len(lake.read(CANDLES, BTC, start="2023-01-01 01:00")) == 2
        assert lake.last_timestamp(CANDLES, BTC) == pd.Timestamp("2023-01-01 02:00", tz="UTC")
        with pytest.raises(DataError, match=r"part-0.parquet was not written by the lake"):
            lake.append(CANDLES, BTC, candles("2023-01-01", 3))

    def test_a_flipped_bit_never_changes_a_price(self, tmp_path: Path) -> None:
        lake, named = Lake(tmp_path), 0
        lake.append(CANDLES, BTC, candles("2023-01-01", 500))
        (file,) = tmp_path.rglob("*.parquet")
        content, whole = file.read_bytes(), lake.read(CANDLES, BTC)
        for place in np.random.default_rng(0).integers(4, len(content) - 8, 40):
            damaged = bytearray(content)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            for read in (lake.read, lambda *key: pd.concat(lake.scan(*key), ignore_index=True)):
                try:
                    pd.testing.assert_frame_equal(read(CANDLES, BTC), whole)
                except DataError as error:
                    named += "2023.parquet is damaged" in str(error)
        assert named > 60

    def test_errors_name_the_place(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        with pytest.raises(DataError, match="has no candles/timeframe=1h/symbol=BTCUSDT"):
            lake.read(CANDLES, BTC)
        with pytest.raises(ConfigError, match=r"must be given as \('timeframe', 'symbol'\)"):
            lake.read(CANDLES, {"symbol": "BTCUSDT"})
        with pytest.raises(ConfigError, match="asset must be letters"):
            lake.read(ONCHAIN, {"asset": "../etc"})
        lake.append(CANDLES, BTC, candles("2023-01-01", 3))
        with pytest.raises(ConfigError, match="start and end must be times"):
            lake.read(CANDLES, BTC, start="yesterdayish")
        (file,) = tmp_path.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(DataError, match=r"2023.parquet is damaged"):
            lake.read(CANDLES, BTC)


def test_quarantine_and_health(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = pd.DataFrame(
        {"source": "a.csv", "row": [3, 7], "symbol": "BTCUSDT", "column": ["close", None], "value": ["x", -1.5], "reason": "odd"}
    ).assign(timestamp=pd.to_datetime(["2023-01-01", None], utc=True))
    for _ in range(2):
        lake.write_quarantine("a.csv", rows)
    kept = lake.read_quarantine()
    assert kept["row"].to_list() == [3, 7]
    assert kept["value"].to_list() == ["x", "-1.5"]
    lake.write_quarantine("a.csv", rows.iloc[:0])
    assert lake.read_quarantine().empty
    lake.write_health({"rows": 1})
    lake.write_health({"rows": 2})
    assert [summary["rows"] for summary in lake.read_health()] == [1, 2]


@pytest.mark.parametrize("root", ["relative/lake", "s3://key:secret@bucket/lake?endpoint_override=http://127.0.0.1:9"])
def test_travels_to_other_processes(root: str) -> None:
    assert pickle.loads(pickle.dumps(Lake(root))).storage.path("candles") == Lake(root).storage.path("candles")


def test_writers_of_one_partition_lose_nothing(tmp_path: Path) -> None:
    whole = candles("2023-01-01", 400)
    batches = [whole.iloc[start::8] for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda batch: Lake(tmp_path).append(CANDLES, BTC, batch), batches))
    assert sum(result.rows_added for result in results) == 400
    pd.testing.assert_frame_equal(Lake(tmp_path).read(CANDLES, BTC)[list(whole.columns)], whole)


WRITER = textwrap.dedent(
    """
    import sys
    import numpy as np, pandas as pd
    from cryptoml.data.lake import Lake
    from cryptoml.data.schema import CANDLES

    lake, number = Lake(sys.argv[1]), int(sys.argv[2])
    stamps = pd.date_range("2023-01-01", periods=8760, freq="1h", tz="UTC", unit="us")
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    while True:
        number += 1
        value = np.full(8760, float(number))
        rows = {"timestamp": stamps, **{name: value for name in ("open", "high", "low", "close", "volume")}}
        lake.append(CANDLES, {"timeframe": "1h", "symbol": "BTCUSDT"}, pd.DataFrame(rows), overwrite=True)
    """
)


def start_writer(root: Path, number: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(root), str(number)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_writers_never_show_half_a_file(tmp_path: Path) -> None:
    """Readers check every version while writers of whole years are killed at arbitrary moments."""
    lake = Lake(tmp_path)
    start = candles("2023-01-01", 8760)
    lake.append(CANDLES, BTC, start.assign(open=0.0, high=0.0, low=0.0, close=0.0, volume=0.0))
    done, seen = threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            rows = Lake(tmp_path).read(CANDLES, BTC, columns=["timestamp", "open", "close", "volume"])
            assert len(rows) == 8760
            assert rows[["open", "close", "volume"]].stack().nunique() == 1
            seen.append(rows["close"].iloc[0])

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for attempt in range(4):
            writer = start_writer(tmp_path, attempt * 1000)
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
            time.sleep(0.25 + 0.037 * attempt)
            kill(writer)
        done.set()
        watching.result()
    assert len(set(seen)) > 2
    assert lake.append(CANDLES, BTC, candles("2023-01-01", 8761)).rows_added == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_crash_before_publish_keeps_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, first = Lake(tmp_path), candles("2022-12-31", 12)
    lake.append(CANDLES, BTC, first)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match=r"cannot write .*2022\.parquet: No space left on device"):
        lake.append(CANDLES, BTC, candles("2022-12-31", 48))
    pd.testing.assert_frame_equal(lake.read(CANDLES, BTC)[list(first.columns)], first)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def address(s3_address: str) -> str:
    return s3_address.format("lake")


class TestS3:
    def test_append_read_and_list(self, address: str) -> None:
        lake, frame = Lake(address), candles("2022-12-31", 48)
        assert lake.append(CANDLES, BTC, frame).rows_added == 48
        assert lake.append(CANDLES, BTC, frame) == WriteResult()
        assert lake.append(CANDLES, BTC, candles("2023-01-01 20:00", 10)).rows_added == 6
        assert lake.partitions(CANDLES) == [BTC]
        pd.testing.assert_frame_equal(lake.read(CANDLES, BTC, end="2023-01-02")[list(frame.columns)], frame)
        assert lake.last_timestamp(CANDLES, BTC) == pd.Timestamp("2023-01-02 05:00", tz="UTC")
        assert is_lake(address)
        lake.write_health({"rows": 54})
        assert lake.read_health() == [{"rows": 54}]

    def test_readers_see_whole_objects_only(self, address: str) -> None:
        lake, frame = Lake(address), candles("2024-01-01", 2000)
        eth, done = {**BTC, "symbol": "ETHUSDT"}, threading.Event()
        lake.append(CANDLES, eth, frame.assign(close=0.0))

        def rewrite() -> None:
            for version in range(1, 15):
                noise = np.random.default_rng(version).normal(size=2000)
                lake.append(CANDLES, eth, frame.assign(close=float(version), volume=noise), overwrite=True)
            done.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(rewrite)
            while not done.is_set() and not writing.done():
                rows = Lake(address).read(CANDLES, eth)
                assert len(rows) == 2000
                assert rows["close"].nunique() == 1
            writing.result()

    @pytest.mark.parametrize("size", [1_000, 12_000_000])
    def test_failed_upload_leaves_the_old_object(self, address: str, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        from moto.s3 import exceptions, models

        def refuse(*arguments: object, **keywords: object) -> None:
            raise exceptions.InvalidPart

        storage = open_storage(address)
        storage.publish("object", b"old" * 100)
        for name in ("put_object", "upload_part", "complete_multipart_upload"):
            monkeypatch.setattr(models.S3Backend, name, refuse)
        with pytest.raises(DataError, match=r"cannot write s3://market-\w+/lake/object"):
            storage.publish("object", b"x" * size)
        monkeypatch.undo()
        assert storage.read("object") == b"old" * 100
        storage.publish("object", b"x" * size)
        assert storage.read("object") == b"x" * size

    def test_missing_bucket_and_unknown_setting(self, address: str) -> None:
        elsewhere = address.replace("@market", "@nowhere")
        with pytest.raises(DataError, match=r"cannot .* s3://nowhere-\w+/lake") as caught:
            Lake(elsewhere).append(CANDLES, BTC, candles("2023-01-01", 3))
        assert "k:s@" not in str(caught.value)
        with pytest.raises(ConfigError, match="query keys region, scheme, endpoint_override, was colour"):
            open_storage("s3://market/lake?colour=red")
        with pytest.raises(ConfigError, match="must name a bucket"):
            open_storage("s3:///lake")
        with pytest.raises(ConfigError, match="must be a path, file:// or s3://, was gs://"):
            open_storage("gs://market/lake")
