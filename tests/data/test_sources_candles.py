"""Candle files of every format become one schema, in batches."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.schema import CANDLES
from cryptoml.data.sources import candle_files, frame_candles, read_candle_file
from cryptoml.data.sources.file_names import FileName, parse_file_name
from cryptoml.data.validation import check_candles, merge_checks
from cryptoml.errors import DataError

OHLCV = ["open", "high", "low", "close", "volume"]


def made_candles(num_rows: int = 40, start: str = "2021-01-01") -> pd.DataFrame:
    random = np.random.default_rng(1)
    close = 30_000 * np.exp(np.cumsum(0.01 * random.standard_normal(num_rows)))
    open_ = np.append(close[0], close[:-1])
    return pd.DataFrame(
        {
            "timestamp": pd.date_range(start, periods=num_rows, freq="1h", tz="UTC").as_unit("us"),
            "open": open_,
            "high": np.maximum(open_, close) * 1.001,
            "low": np.minimum(open_, close) * 0.999,
            "close": close,
            "volume": random.random(num_rows),
        }
    )


def read_good(path: Path, **options: object) -> pd.DataFrame:
    batches = list(read_candle_file(path, **options))
    checks = [check_candles(raw.frame, symbol=raw.symbol, timeframe=raw.timeframe, source=raw.source) for raw in batches]
    return merge_checks(checks).good


def as_rows(frame: pd.DataFrame, unit: str = "ms") -> list[list[float]]:
    return frame.assign(timestamp=frame["timestamp"].dt.as_unit(unit).astype("int64")).to_numpy(dtype=object).tolist()


def kline_lines(frame: pd.DataFrame, unit: str) -> list[str]:
    return [
        f"{','.join(map(repr, row))},{row[0] + 3_599_999},{row[5] * row[4]!r},17,{row[5] / 2!r},1.0,0"
        for row in as_rows(frame, unit)
    ]


def write_zip(path: Path, lines: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", "\n".join(lines) + "\n")
    return path


WRITERS = {
    "BTCUSDT-1h.csv": lambda frame, path: frame.to_csv(path, index=False),
    "BTCUSDT-1h.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "BTCUSDT_1h.parquet": lambda frame, path: frame.set_index("timestamp").to_parquet(path),
    "BTC-USDT.feather": lambda frame, path: frame.rename(columns={"timestamp": "date"}).to_feather(path),
    "BTC_USDT_USDT-1h-futures.json": lambda frame, path: path.write_text(json.dumps(as_rows(frame))),
    "BTC_USDT-1h.json.gz": lambda frame, path: path.write_bytes(gzip.compress(json.dumps(as_rows(frame)).encode())),
    "BTCUSDT-1h-2021-01.zip": lambda frame, path: write_zip(path, kline_lines(frame, "us")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("batch_rows", [7, 1000])
def test_every_format_gives_the_same_candles(tmp_path, name, batch_rows):
    frame = made_candles()
    WRITERS[name](frame, tmp_path / name)
    batches = list(read_candle_file(tmp_path / name, batch_rows=batch_rows))
    assert {raw.symbol for raw in batches} == {"BTCUSDT"}
    assert {raw.timeframe for raw in batches} == {"1h"}
    assert all(len(raw.frame) <= batch_rows for raw in batches)
    assert [raw.first_row for raw in batches] == [int(raw.frame["row"].iloc[0]) for raw in batches]
    good = read_good(tmp_path / name, batch_rows=batch_rows)
    assert list(good.columns) == CANDLES.schema.names
    pd.testing.assert_frame_equal(good[frame.columns], frame, check_exact=True, check_index_type=False)


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("header", [True, False])
def test_binance_zip_keeps_its_extra_columns(tmp_path, unit, header):
    frame = made_candles()
    head = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    path = write_zip(tmp_path / "ETHUSDT-1h-2021-01-05.zip", [head] * header + kline_lines(frame, unit))
    good = read_good(path)
    assert good["num_trades"].eq(17).all()
    np.testing.assert_array_equal(good["taker_buy_volume"], frame["volume"] / 2)
    np.testing.assert_array_equal(good["quote_volume"], frame["volume"] * frame["close"])
    assert good["timestamp"].tolist() == frame["timestamp"].tolist()
    assert next(read_candle_file(path)).first_row == 1 + header


@pytest.mark.parametrize(
    "header",
    [
        "time,open,high,low,close,volume",
        "Date,Open,High,Low,Close,Volume",
        "openTime,o,h,l,c,v",
        "Open Time,Open Price,High Price,Low Price,Close Price,Base Volume",
        "unix,open,high,low,close,vol",
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_common_column_names_are_understood(tmp_path, header, separator):
    rows = [header.split(","), *(map(str, row) for row in as_rows(made_candles(5)))]
    (tmp_path / "BTCUSDT-1h.csv").write_text("\n".join(separator.join(row) for row in rows))
    assert len(read_good(tmp_path / "BTCUSDT-1h.csv")) == 5


def test_a_publishers_address_above_the_header_is_skipped(tmp_path):
    path = tmp_path / "Binance_BTCUSDT_1h.csv"
    path.write_text("https://www.example.org\n" + made_candles(3).to_csv(index=False))
    raw = next(read_candle_file(path))
    assert (raw.symbol, raw.first_row) == ("BTCUSDT", 3)


def test_text_in_a_price_is_quarantined_by_line_number(tmp_path):
    lines = made_candles(10).to_csv(index=False).splitlines()
    fields = lines[4].split(",")
    lines[4] = ",".join([*fields[:4], "n/a?", fields[5]])
    (tmp_path / "BTCUSDT-1h.csv").write_text("\n".join(lines) + "\n\n")
    raw = next(read_candle_file(tmp_path / "BTCUSDT-1h.csv"))
    result = check_candles(raw.frame, symbol=raw.symbol, timeframe=raw.timeframe, source=raw.source)
    assert len(result.good) == 9
    assert result.quarantine[["row", "column", "value", "reason"]].to_numpy().tolist() == [[5, "close", "n/a?", "not_a_number"]]


def test_a_bad_timestamp_is_quarantined_by_line_number(tmp_path):
    lines = made_candles(10).to_csv(index=False).splitlines()
    lines[4] = "later," + lines[4].split(",", 1)[1]
    (tmp_path / "BTCUSDT.csv").write_text("\n".join(lines))
    raw = next(read_candle_file(tmp_path / "BTCUSDT.csv"))
    result = check_candles(raw.frame, symbol=raw.symbol, timeframe=raw.timeframe, source=raw.source)
    assert result.quarantine[["row", "column", "value"]].to_numpy().tolist() == [[5, "timestamp", "later"]]


def test_cut_off_last_line_is_quarantined_and_too_long_a_line_is_named(tmp_path):
    text = made_candles(10).to_csv(index=False)
    path = tmp_path / "BTCUSDT-1h.csv"
    path.write_text(text[: text.rindex(",") - 3])
    assert len(read_good(path)) == 9
    path.write_text(text + "2021-01-01,1,2,3,4,5,6,7\n")
    with pytest.raises(DataError, match=r"BTCUSDT-1h\.csv.*line 12"):
        list(read_candle_file(path))


def test_symbol_column_splits_a_file(tmp_path):
    both = pd.concat([made_candles().assign(symbol="BTC/USDT"), made_candles().assign(symbol="ETH/USDT")]).sort_values(
        "timestamp", kind="stable"
    )
    both.to_parquet(tmp_path / "all.parquet", index=False)
    batches = list(read_candle_file(tmp_path / "all.parquet", batch_rows=31))
    assert {raw.symbol for raw in batches} == {"BTCUSDT", "ETHUSDT"}
    assert {raw.timeframe for raw in batches} == {"1h"}
    rows = pd.concat([raw.frame["row"] for raw in batches if raw.symbol == "ETHUSDT"])
    assert rows.tolist() == list(range(1, 80, 2))
    assert sum(len(raw.frame) for raw in batches) == 80


def test_naive_datetimes_need_a_declared_zone(tmp_path):
    frame = made_candles()
    path = tmp_path / "BTCUSDT-1h.parquet"
    frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)).to_parquet(path)
    with pytest.raises(DataError, match=r"BTCUSDT-1h\.parquet: column 'timestamp' is timezone-naive.*assume_timezone=\"UTC\""):
        next(read_candle_file(path))
    assert read_good(path, assume_timezone="UTC")["timestamp"].tolist() == frame["timestamp"].tolist()
    text = tmp_path / "BTCUSDT-1h.csv"
    text.write_text(frame.assign(timestamp=frame["timestamp"].dt.strftime("%Y-%m-%d %H:%M")).to_csv(index=False))
    with pytest.raises(DataError, match="timezone-naive"):
        next(read_candle_file(text))
    assert read_good(text, assume_timezone="Asia/Tokyo")["timestamp"][0] == pd.Timestamp("2020-12-31T15:00Z")


def test_frames_with_index_or_column():
    frame = made_candles()
    raws = list(
        frame_candles(
            {"BTC/USDT": frame, "ETH/USDT": frame.set_index("timestamp"), "X": frame.set_index("timestamp").rename_axis(None)}
        )
    )
    assert [raw.symbol for raw in raws] == ["BTCUSDT", "ETHUSDT", "X"]
    for raw in raws:
        assert raw.timeframe == "1h"
        pd.testing.assert_frame_equal(raw.frame[list(frame.columns)], frame)
    with pytest.raises(DataError, match="frame ETH: column 'timestamp' is timezone-naive"):
        list(frame_candles({"ETH": frame.set_index(frame["timestamp"].dt.tz_localize(None)).drop(columns="timestamp")}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("BTC_USDT-1h.feather", FileName("BTCUSDT", "1h")),
        ("futures/XRP_USDT_USDT-1h-futures.json.gz", FileName("XRPUSDT", "1h", "futures")),
        ("futures/XRP_USDT_USDT-8h-funding_rate.feather", FileName("XRPUSDT", "8h", "funding_rate")),
        ("BTCUSDT-15m-2021-01.zip", FileName("BTCUSDT", "15m")),
        ("1000SHIBUSDT-1d-2021-01-31.zip", FileName("1000SHIBUSDT", "1d")),
        ("Binance_BTCUSDT_1h.csv", FileName("BTCUSDT", "1h")),
        ("BTCUSDT.parquet", FileName("BTCUSDT", None)),
        ("timeframe=4h/symbol=BTCUSDT/part-0.parquet", FileName("BTCUSDT", "4h")),
        ("BTCUSDT-fundingRate-2021-01.zip", FileName("BTCUSDT", None, "fundingrate")),
        ("btcusdt_usdm_trades.parquet", FileName("BTCUSDT", None, "trades")),
    ],
)
def test_file_names(path, expected):
    assert parse_file_name(Path(path)) == expected


def test_months_are_refused(tmp_path):
    with pytest.raises(DataError, match="months have no fixed length"):
        parse_file_name(tmp_path / "BTCUSDT-1M-2021.csv")


def test_candle_files_lists_what_can_hold_candles(tmp_path):
    for name in (
        "b-1h.csv",
        "a-1h.feather",
        "a-5m.feather",
        "sub/c.zip",
        "x-1h-mark.feather",
        "x-8h-funding_rate.feather",
        "notes.txt",
        ".d.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in candle_files(tmp_path)] == ["a-1h.feather", "a-5m.feather", "b-1h.csv", "c.zip"]
    assert [path.name for path in candle_files(tmp_path, timeframe="1h")] == ["a-1h.feather", "b-1h.csv", "c.zip"]
    assert candle_files(tmp_path / "b-1h.csv") == [tmp_path / "b-1h.csv"]


def test_empty_and_absent_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no candle files"):
        candle_files(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        candle_files(tmp_path / "none")


def test_one_candle_does_not_tell_the_timeframe(tmp_path):
    made_candles(1).to_csv(tmp_path / "BTCUSDT.csv", index=False)
    with pytest.raises(DataError, match=r"BTCUSDT\.csv: row 2 is the only readable candle.*timeframe="):
        list(read_candle_file(tmp_path / "BTCUSDT.csv"))
    assert len(read_good(tmp_path / "BTCUSDT.csv", timeframe="1h")) == 1


def test_mixed_timeframes_are_named(tmp_path):
    frame = made_candles(40)
    frame.loc[20:, "timestamp"] += pd.to_timedelta(3 * np.arange(20), unit="h")
    frame.to_csv(tmp_path / "BTCUSDT.csv", index=False)
    with pytest.raises(DataError, match=r"BTCUSDT\.csv: BTCUSDT mixes timeframes.*4h"):
        read_good(tmp_path / "BTCUSDT.csv", timeframe="1h")
    frame.assign(interval=["1h"] * 20 + ["4h"] * 20).to_csv(tmp_path / "ETHUSDT.csv", index=False)
    with pytest.raises(DataError, match="mixes timeframes: 1h, and from row 22 on 4h"):
        list(read_candle_file(tmp_path / "ETHUSDT.csv"))


def gzip_cut(data: bytes) -> bytes:
    return gzip.compress(data)[:-30]


CSV = made_candles().to_csv(index=False).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("A-1h.csv", b"", "file is empty"),
        ("A-1h.csv", b"timestamp,open,high,low,close,volume\n", "no rows"),
        ("A-1h.csv", b"timestamp,open,high,low,volume\n2021-01-01Z,1,1,1,1\n", "column 'close' is missing"),
        ("A-1h.csv", CSV.replace(b"\n2021", b"\n7,2021"), "more fields than the header"),
        ("A-1h.csv", b"1609459200,1,1,1\n", "row 1 has 4 fields and no header"),
        ("A-1h.csv", b"\xff\xfe\x00\x01,b\n1,2\n", "cannot be read"),
        ("A-1h.csv.gz", gzip_cut(CSV), "cannot be read"),
        ("A-1h.csv.gz", CSV, "cannot be read"),
        ("A-1h.zip", CSV, "cannot be read"),
        ("A-1h.parquet", CSV, "cannot be read"),
        ("A-1h.feather", CSV, "cannot be read"),
        ("A-1h.json", b"[]", "no rows"),
        ("A-1h.json", b'{"a": 1}', "must be a list of rows"),
        ("A-1h.json", b"[[1609459200000,1,1,1,1,1],[16094", "cut off"),
        ("A-1h.json", b"[[1609459200000,1,1,1,1,1],[1,2]]", "must all have"),
        ("A-1h.json", b"[[1609459200000,1,1,1,1,oops]]", "JSON is damaged"),
        ("A-1h.xlsx", b"", "file name must end in"),
        ("A-1h.csv", None, "cannot be read"),
    ],
)
def test_unreadable_files_give_one_line_that_names_them(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_candle_file(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zip_with_two_files_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", "1")
        archive.writestr("b.csv", "1")
    (tmp_path / "A-1h.zip").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"exactly one \.csv"):
        next(read_candle_file(tmp_path / "A-1h.zip"))


def test_long_json_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("cryptoml.data.sources.json_rows._BLOCK_CHARACTERS", 50)
    frame = made_candles(200)
    (tmp_path / "A-1h.json").write_text(json.dumps(as_rows(frame), indent=1))
    objects = frame.assign(timestamp=frame["timestamp"].astype("str")).to_dict("records")
    (tmp_path / "B-1h.json").write_text(json.dumps(objects))
    for name in ("A-1h.json", "B-1h.json"):
        np.testing.assert_array_equal(read_good(tmp_path / name, batch_rows=64)[OHLCV], frame[OHLCV])


@pytest.mark.parametrize(("folder", "missing"), [("candles_1h", 0), ("spot_1h", 20), ("kraken_1h", 8)])
def test_real_candles(shared_data, folder, missing):
    path = shared_data / folder / "BTCUSDT.parquet"
    good = read_good(path, batch_rows=10_000)
    assert len(good) == len(pd.read_parquet(path))
    span = good["timestamp"].iloc[-1] - good["timestamp"].iloc[0]
    assert span // pd.Timedelta("1h") + 1 - len(good) == missing


def test_real_freqtrade_formats_agree(shared_data):
    folder = shared_data / "freqtrade" / "futures"
    feather, text = (read_good(folder / f"XRP_USDT_USDT-1h-futures.{suffix}") for suffix in ("feather", "json.gz"))
    pd.testing.assert_frame_equal(feather, text)
    assert all(path.stem.endswith(("futures", "futures.json", "-5m")) for path in candle_files(shared_data / "freqtrade"))
