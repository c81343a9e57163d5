"""Single trades."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cryptoml.data.schema import TRADES
from cryptoml.data.sources.columns import CANDLE_ALIASES
from cryptoml.data.sources.file_names import FileName, parse_file_name
from cryptoml.data.sources.markets import split_by_market
from cryptoml.data.sources.raw_files import read_raw
from cryptoml.data.sources.tables import TableRows, read_columns, settle_rows
from cryptoml.data.validation.quarantine import Fault, to_numbers
from cryptoml.data.validation.timestamps import to_utc
from cryptoml.errors import DataError

__all__ = ["read_trades_file"]

_ALIASES = {
    "timestamp": ("trade_time_ms", "trade_time", "transact_time", "timestamp", "time", "datetime", "date"),
    "event_time": ("event_time_ms", "event_time"),
    "trade_id": ("trade_id", "id", "agg_trade_id", "tid"),
    "price": ("price",),
    "size": ("size", "quantity", "qty", "amount"),
    "side": ("aggressor_side", "taker_side", "side"),
    "is_buyer_maker": ("is_buyer_maker", "buyer_maker"),
    "symbol": CANDLE_ALIASES["symbol"],
}
_REQUIRED = ("timestamp", "trade_id", "price", "size")
_BINANCE = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
_BINANCE_AGGREGATED = ("agg_trade_id", "price", "qty", "first_id", "last_id", "transact_time", "is_buyer_maker", "is_best_match")
_FREQTRADE = ("timestamp", "id", "type", "side", "price", "amount", "cost")
_BATCH_TRADES = 524_288  # a lake's file of a day is merged with each batch
_BUYS, _SELLS = ("buy", "b", "bid", "true", "1"), ("sell", "s", "ask", "false", "0")


def read_trades_file(
    path: str | Path, *, symbol: str | None = None, assume_timezone: str | None = None, batch_rows: int = _BATCH_TRADES
) -> Iterator[TableRows]:
    """Yield trades in the schema `TRADES`: prices in the quote, sizes in the base asset.

    `timestamp` is the exchange's trade time and `available_at` the exchange's event time, where the file has one (else the trade
    time), never before `timestamp`. The receiver's clock (`recv_ns`) is not used: in recorded files it may run behind the
    exchange's, which would make a trade known before it happened. The aggressor is read from a side column, or is the opposite
    of `is_buyer_maker`.

    Reads tables with named columns, Binance's public `trades` and `aggTrades` zips, and freqtrade's trades in JSON.

    Raises:
        DataError: The file cannot be read, or a column is missing.
    """
    path, source = Path(path), str(path)
    named = parse_file_name(path)
    for batch in read_raw(path, layouts=_layouts(path, named), batch_rows=batch_rows):
        frame = read_columns(batch, _ALIASES, required=_REQUIRED, source=source, assume_timezone=assume_timezone)
        if "side" not in frame and "is_buyer_maker" not in frame:
            raise DataError(f"{source}: column 'side' is missing (aggressor_side, taker_side, side, is_buyer_maker)")
        for market, rows in split_by_market(frame, symbol, named, source):
            yield _settle(rows, market, source)


def _layouts(path: Path, named: FileName) -> dict[int, tuple[str, ...]]:
    if ".json" in path.suffixes:
        return {7: _FREQTRADE}
    full = _BINANCE_AGGREGATED if named.kind == "aggtrades" else _BINANCE
    return {len(full) - 1: full[:-1], len(full): full}


def _settle(rows: pd.DataFrame, symbol: str, source: str) -> TableRows:
    numbers, faults = {}, []
    for name in ("trade_id", "price", "size"):
        numbers[name], is_text = to_numbers(rows[name])
        faults += [Fault("not_a_number", name, is_text), Fault("not_finite", name, ~np.isfinite(numbers[name]))]
    faults += [Fault("non_positive_price", "price", numbers["price"] <= 0), Fault("negative_volume", "size", numbers["size"] < 0)]
    buys, unknown = _aggressor(rows)
    faults.append(Fault("unknown_side", "side" if "side" in rows else "is_buyer_maker", unknown))
    stamps = to_utc(rows["timestamp"], source=source)
    known = to_utc(rows["event_time"], source=source, column="event_time") if "event_time" in rows else stamps
    values = {
        "timestamp": stamps,
        "available_at": known.where(known >= stamps, stamps),
        "trade_id": np.nan_to_num(numbers["trade_id"], posinf=0, neginf=0).astype(np.int64),
        "price": numbers["price"],
        "size": numbers["size"],
        "is_buyer_taker": buys,
    }
    return settle_rows(rows, values, faults, spec=TRADES, partition={"symbol": symbol}, source=source)


def _aggressor(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return bool [row] twice: the aggressor bought, and the side is unknown."""
    column = "side" if "side" in rows else "is_buyer_maker"
    words = rows[column].map(str).str.strip().str.lower()
    first, second = words.isin(_BUYS).to_numpy(), words.isin(_SELLS).to_numpy()
    return (first if column == "side" else second), ~(first | second)
