"""Order-book snapshots: the best levels of both sides after each update."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cryptoml.data.schema import ORDERBOOK, ORDERBOOK_DEPTH
from cryptoml.data.sources.columns import CANDLE_ALIASES, canonical_columns, column_word
from cryptoml.data.sources.file_names import parse_file_name
from cryptoml.data.sources.markets import split_by_market
from cryptoml.data.sources.raw_files import read_raw
from cryptoml.data.sources.tables import TableRows, read_columns
from cryptoml.data.validation.quarantine import Fault, first_faults, quarantine_rows, to_numbers
from cryptoml.data.validation.timestamps import to_utc
from cryptoml.errors import DataError

__all__ = ["read_orderbook_file"]

_ALIASES = {
    "timestamp": ("event_time_ms", "event_time", "transaction_time", "exchange_timestamp", "timestamp", "time", "recv_ns"),
    "symbol": CANDLE_ALIASES["symbol"],
}
_SIDES = ("bid", "ask")
_QUANTITIES = {"price": "price", "size": "size", "amount": "size", "qty": "size", "quantity": "size"}
_BATCH_SNAPSHOTS = 16_384


def read_orderbook_file(
    path: str | Path, *, symbol: str | None = None, assume_timezone: str | None = None, batch_rows: int = _BATCH_SNAPSHOTS
) -> Iterator[TableRows]:
    """Yield book snapshots in the schema `ORDERBOOK`, at most 20 levels a side, best first.

    `timestamp` and `available_at` are both the exchange's event time (`event_time_ms`, else `timestamp`). The receiver's clock
    (`recv_ns`) counts only where the file has no other: in recorded files it may run behind the exchange's, which would make a
    book known before it existed. Of several updates with one event time the last stands. Levels absent at the far end of a side
    are left out.

    Level columns are named by side, quantity and number: `price_bid_1` and `size_bid_1`, or `bids[0].price` and `bids[0].amount`.

    Raises:
        DataError: The file cannot be read, or a column is missing.
    """
    named, source = parse_file_name(Path(path)), str(path)
    for batch in _whole_stamps(read_raw(path, layouts={}, batch_rows=batch_rows)):
        frame = read_columns(batch, _ALIASES, required=("timestamp",), source=source, assume_timezone=assume_timezone)
        levels = _level_columns(batch, source)
        columns = [name for names in levels.values() for name in names]
        wide = pd.concat([frame, batch[columns].reset_index(drop=True)], axis=1)
        for market, rows in split_by_market(wide, symbol, named, source):
            yield _settle(rows, levels, market, source)


def _whole_stamps(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Move rows of a batch's last timestamp to the next batch, so that no instant is split between two."""
    held: pd.DataFrame | None = None
    for batch in batches:
        rows = pd.concat([held, batch]) if held is not None and len(held) else batch
        found = canonical_columns(rows.columns, _ALIASES).get("timestamp")
        if found is None:
            held, ready = None, rows
        else:
            last = rows[found] == rows[found].iloc[-1]
            held, ready = rows[last], rows[~last]
        if len(ready):
            yield ready
    if held is not None and len(held):
        yield held


def _level_columns(batch: pd.DataFrame, source: str) -> dict[tuple[str, str], list[str]]:
    """Return the column names per (side, quantity), best level first."""
    found: dict[tuple[str, str], dict[int, str]] = {(side, kind): {} for side in _SIDES for kind in ("price", "size")}
    for column in batch.columns:
        words = set(re.split("_", column_word(column)))
        side = next((side for side in _SIDES if words & {side, f"{side}s"}), None)
        kind = next((kind for word, kind in _QUANTITIES.items() if word in words), None)
        number = next((int(word) for word in words if word.isdigit()), None)
        if side and kind and number is not None:
            found[side, kind][number] = column
    for (side, kind), names in found.items():
        if not names or len(names) != len(found[side, "price"]):
            raise DataError(f"{source}: column '{kind}_{side}_1' or a deeper level is missing; {len(names)} levels were found")
    return {key: [names[number] for number in sorted(names)][:ORDERBOOK_DEPTH] for key, names in found.items()}


def _settle(rows: pd.DataFrame, levels: dict[tuple[str, str], list[str]], symbol: str, source: str) -> TableRows:
    stamps = to_utc(rows["timestamp"], source=source)
    faults = [Fault("unreadable_timestamp", "timestamp", stamps.isna().to_numpy())]
    book: dict[tuple[str, str], np.ndarray] = {}
    for key, names in levels.items():
        parts = [to_numbers(rows[name]) for name in names]
        book[key] = np.stack([numbers for numbers, _ in parts], axis=1)
        faults += [Fault("not_a_number", name, is_text) for name, (_, is_text) in zip(names, parts, strict=True) if is_text.any()]
    depth = {side: np.isfinite(book[side, "price"]) & np.isfinite(book[side, "size"]) for side in _SIDES}
    for side in _SIDES:
        faults += _side_faults(book[side, "price"], book[side, "size"], depth[side], side, levels)
    crossed = book["bid", "price"][:, 0] >= book["ask", "price"][:, 0]
    faults.append(Fault("crossed_book", levels["bid", "price"][0], crossed))
    kept = np.flatnonzero(first_faults(faults, len(rows)) < 0)
    lists = {f"{side}_{kind}s": _lists(matrix[kept], depth[side][kept]) for (side, kind), matrix in book.items()}
    known = stamps.iloc[kept]
    frame = pd.DataFrame({"timestamp": known, "available_at": known, **lists}, columns=ORDERBOOK.schema.names)
    frame = frame.sort_values("timestamp", kind="stable")
    frame = frame[~frame.duplicated(subset="timestamp", keep="last")].reset_index(drop=True)
    quarantine = quarantine_rows(rows, faults, rows=rows["row"].to_numpy(), stamps=stamps, symbol=symbol, source=source)
    return TableRows(ORDERBOOK, {"symbol": symbol}, frame, quarantine, source, len(rows))


def _side_faults(
    prices: np.ndarray, sizes: np.ndarray, filled: np.ndarray, side: str, levels: dict[tuple[str, str], list[str]]
) -> list[Fault]:
    """Return what one side [row, level] breaks: a hole between levels, a bad sign, levels out of order."""
    price, size = levels[side, "price"][0], levels[side, "size"][0]
    outwards = np.diff(prices, axis=1) * (-1 if side == "bid" else 1)
    hole = ~filled[:, 0] | (filled[:, 1:] & ~filled[:, :-1]).any(axis=1)
    return [
        Fault("not_finite", price, hole),
        Fault("non_positive_price", price, np.any(prices <= 0, axis=1)),
        Fault("negative_volume", size, np.any(sizes < 0, axis=1)),
        Fault("unordered_book", price, np.any(outwards <= 0, axis=1)),
    ]


def _lists(matrix: np.ndarray, filled: np.ndarray) -> list[np.ndarray]:
    if filled.all():
        return list(matrix)
    return [row[:count] for row, count in zip(matrix, filled.sum(axis=1), strict=True)]
