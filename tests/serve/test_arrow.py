"""Arrow bodies that are damaged, foreign or too large are the caller's mistake, whatever they hold."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from serve.arrow import ARROW, candles_of, frames_of
from serve.problems import InvalidFieldError

ROWS = 50


@pytest.fixture
def table() -> pa.Table:
    stamps = pd.date_range("2024-01-01", periods=ROWS, freq="h", tz="UTC")
    numbers = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    return pa.Table.from_pandas(pd.DataFrame({"symbol": "BTCUSDT", "timestamp": stamps, **numbers}), preserve_index=False)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_any_writers_types_are_read(table: pa.Table) -> None:
    plain = frames_of(stream(table))["BTCUSDT"]
    places = {name: place for place, name in enumerate(table.column_names)}
    for name, kind in (
        ("timestamp", pa.timestamp("s", "Europe/Zurich")),
        ("timestamp", pa.timestamp("ns", "+05:00")),
        ("open", pa.float16()),
        ("volume", pa.uint8()),
        ("symbol", pa.dictionary(pa.int8(), pa.string())),
        ("symbol", pa.large_string()),
    ):
        other = table.set_column(places[name], name, table[name].cast(kind))
        assert frames_of(stream(other))["BTCUSDT"].equals(plain)


@pytest.mark.parametrize("how", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused_before_it_unfolds(table: pa.Table, how: str) -> None:
    with pytest.raises(InvalidFieldError, match="without compression"):
        frames_of(stream(table, compression=how))
    named = table.set_column(0, "symbol", table["symbol"].dictionary_encode())
    with pytest.raises(InvalidFieldError, match="without compression"):
        frames_of(stream(named, compression=how))


def replaced(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


FOREIGN: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no rows": lambda table: table.slice(0, 0),
    "a column twice": lambda table: table.append_column("close", table["open"]),
    "a column too many": lambda table: table.append_column("moon", table["open"]),
    "a column too few": lambda table: table.drop_columns(["close"]),
    "text as prices": replaced("close", ["1.0"] * ROWS),
    "truth values as prices": replaced("close", [True] * ROWS),
    "decimals as prices": replaced("close", [Decimal(1)] * ROWS),
    "lists as prices": replaced("close", [[1.0]] * ROWS),
    "nothing as prices": replaced("close", [None] * ROWS),
    "infinite prices": replaced("close", [float("inf")] * ROWS),
    "a null price": replaced("close", [None, *[1.0] * (ROWS - 1)]),
    "naive instants": lambda table: table.set_column(1, "timestamp", table["timestamp"].cast(pa.timestamp("us"))),
    "instants of year 9999": replaced("timestamp", [datetime(9999, 1, 1, tzinfo=UTC)] * ROWS),
    "null instants": lambda table: table.set_column(1, "timestamp", pa.nulls(ROWS, pa.timestamp("us", "UTC"))),
    "numbers as symbols": replaced("symbol", list(range(ROWS))),
    "lists as symbols": replaced("symbol", [["BTCUSDT"]] * ROWS),
    "null symbols": replaced("symbol", [None, *["BTCUSDT"] * (ROWS - 1)]),
    "too many symbols": replaced("symbol", [f"S{number}" for number in range(ROWS)]),
    "metadata that lies": lambda table: table.replace_schema_metadata({b"pandas": b"{"}).slice(0, 0),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_tables_are_refused(table: pa.Table, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.arrow.MAX_SYMBOLS", 10)
    with pytest.raises(InvalidFieldError):
        frames_of(stream(FOREIGN[name](table)))


def test_metadata_of_other_tools_changes_nothing(table: pa.Table) -> None:
    lying = table.replace_schema_metadata({b"pandas": b'{"columns": 7'})
    assert frames_of(stream(lying))["BTCUSDT"].equals(frames_of(stream(table))["BTCUSDT"])


def test_damaged_streams_are_refused_or_read(table: pa.Table) -> None:
    draw = random.Random(0)
    named = table.set_column(0, "symbol", table["symbol"].dictionary_encode())
    found = Counter[str]()
    for whole in (stream(table), stream(named)):
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            cut = draw.choice([len(damaged), draw.randrange(len(damaged))])
            for read in (frames_of, candles_of):
                try:
                    read(bytes(damaged[:cut]))
                except InvalidFieldError:
                    found["refused"] += 1
                else:
                    found["read"] += 1
    assert found["refused"] > found["read"] > 0


def test_the_interface_names_the_column(client: Any, table: pa.Table) -> None:
    body = stream(FOREIGN["truth values as prices"](table))
    answer = client.post("/v1/signals", content=body, headers={"content-type": ARROW})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "/close")
