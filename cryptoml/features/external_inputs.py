"""Turn what a caller knows beside the candles into rows of the tables: the chain, books, trades, other venues, funding.

Every error names the column and the first offending row, counted from zero.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.errors import DataError
from cryptoml.features.onchain import METRIC_ALIASES, METRICS, OnChainMetrics
from cryptoml.features.table_checks import check_number, numbers_of, refuse_disorder, refuse_future, refuse_rows, stamps_of

__all__ = ["book_rows", "book_sides", "check_reading", "exchange_rows", "onchain_figures", "onchain_rows", "trade_rows"]

FloatArray = NDArray[np.float64]
BOOK_COLUMNS = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
PAIR_COLUMNS = ("prices of bids", "sizes of bids", "prices of asks", "sizes of asks")
"""What the same are called where a side is one list of pairs."""


def onchain_figures(reading: OnChainMetrics) -> dict[str, float]:
    """Return the figures that a reading holds, by metric.

    Raises:
        DataError: One is no finite number.
    """
    given = {name: value for name, value in asdict(reading).items() if value is not None}
    figures = {name: check_number(value, f"onchain {name}") for name, value in given.items()}
    for name, value in figures.items():
        if np.isinf(value):
            raise DataError(f"onchain {name} must be finite, was {value}")
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def onchain_rows(onchain: Any, now: pd.Timestamp) -> pd.DataFrame:
    """Return long rows `timestamp, available_at, metric, value`; a reading becomes known `now`."""
    if onchain is None:
        return pd.DataFrame({"timestamp": [], "available_at": [], "metric": [], "value": []})
    if isinstance(onchain, OnChainMetrics):
        figures = onchain_figures(onchain)
        return pd.DataFrame({"timestamp": now, "available_at": now, "metric": list(figures), "value": list(figures.values())})
    available = stamps_of(onchain, "onchain", "available_at")
    refuse_future(available, now, "onchain")
    label = stamps_of(onchain, "onchain") if "timestamp" in onchain else available
    early = label > available
    if early.any():
        row = int(np.argmax(early))
        raise DataError(f"onchain timestamp must not lie after available_at, row {row} was {label[row]} after {available[row]}")
    if {"metric", "value"} <= set(onchain.columns):
        rows = {"metric": onchain["metric"].to_numpy(), "value": numbers_of(onchain, "value", "onchain", finite=True)}
        return pd.DataFrame({"timestamp": label, "available_at": available, **rows})
    return _long(onchain, label, available)


def _long(frame: pd.DataFrame, label: pd.DatetimeIndex, available: pd.DatetimeIndex) -> pd.DataFrame:
    known = [name for name in frame.columns if name in METRICS or name in METRIC_ALIASES]
    if not known:
        raise DataError(f"onchain must have one of the columns {', '.join(METRICS)}, columns were {list(frame.columns)}")
    stamps = {"timestamp": label, "available_at": available}
    values = np.concatenate([numbers_of(frame, name, "onchain", finite=True) for name in known])
    repeated = {name: np.tile(column.asi8, len(known)).view("datetime64[us]") for name, column in stamps.items()}
    columns = {name: pd.DatetimeIndex(column).tz_localize("UTC") for name, column in repeated.items()}
    return pd.DataFrame({**columns, "metric": np.repeat(known, len(frame)), "value": values})


def trade_rows(trades: Any) -> pd.DataFrame:
    """Return single trades: `available_at`, `size`, `is_buyer_taker`."""
    available = stamps_of(trades, "trades", "available_at")
    if "is_buyer_taker" not in trades or not pd.api.types.is_bool_dtype(trades["is_buyer_taker"].dtype):
        found = trades["is_buyer_taker"].dtype if "is_buyer_taker" in trades else f"columns {list(trades.columns)}"
        raise DataError(f"trades must have the boolean column is_buyer_taker, was {found}")
    size = numbers_of(trades, "size", "trades", finite=True)
    refuse_rows(~(size >= 0), size, "trades size must be at least 0")
    return pd.DataFrame({"available_at": available, "size": size, "is_buyer_taker": trades["is_buyer_taker"].to_numpy()})


def book_rows(orderbook: Any, now: pd.Timestamp) -> pd.DataFrame:
    """Return rows of the order-book table; a snapshot becomes one row.

    A history has `available_at`, and `bids` and `asks` of pairs as in a snapshot, or `BOOK_COLUMNS` of lists.
    """
    if orderbook is None:
        return pd.DataFrame({name: [] for name in ("timestamp", "available_at", *BOOK_COLUMNS)})
    if isinstance(orderbook, Mapping):
        return pd.DataFrame({"timestamp": [now], "available_at": [now], **_stacked([book_sides(orderbook)])})
    if not isinstance(orderbook, pd.DataFrame):
        raise DataError(f"orderbook must be a mapping of bids and asks or a DataFrame, was {type(orderbook).__name__}")
    if {"bids", "asks"} & set(orderbook.columns):
        _require(orderbook, ("bids", "asks"))
        books = _stacked([book_sides(book, row) for row, book in enumerate(orderbook[["bids", "asks"]].to_dict("records"))])
    else:
        books = _checked_lists(orderbook)
    available = stamps_of(orderbook, "orderbook", "available_at")
    label = stamps_of(orderbook, "orderbook") if "timestamp" in orderbook else available
    return pd.DataFrame({"timestamp": label, "available_at": available, **books})


def _stacked(books: list[dict[str, FloatArray]]) -> dict[str, list[FloatArray]]:
    return {name: [book[name] for book in books] for name in BOOK_COLUMNS}


def _require(orderbook: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in orderbook]
    if missing:
        raise DataError(f"orderbook must have column {missing[0]}, columns were {list(orderbook.columns)}")


def _checked_lists(orderbook: pd.DataFrame) -> dict[str, Any]:
    _require(orderbook, BOOK_COLUMNS)
    books = {name: orderbook[name].to_list() for name in BOOK_COLUMNS}
    for row, book in enumerate(zip(*books.values(), strict=True)):
        _check_book(row, book, BOOK_COLUMNS)
    return books


def book_sides(book: Mapping[Any, Any], row: int = 0) -> dict[str, FloatArray]:
    """Return the levels of a snapshot `{"bids": [[price, size], ...], "asks": ...}`, checked, by `BOOK_COLUMNS`.

    Raises:
        DataError: A side is absent, no pairs of numbers, empty, out of order or crossed.
    """
    columns: dict[str, FloatArray] = {}
    for side in ("bid", "ask"):
        if f"{side}s" not in book:
            raise DataError(f"orderbook must have {side}s, keys were {list(book)}")
        levels = _pairs(book[f"{side}s"], f"{side}s", row)
        columns |= {f"{side}_prices": levels[:, 0], f"{side}_sizes": levels[:, 1]}
    _check_book(row, tuple(columns.values()), PAIR_COLUMNS)
    return columns


def _pairs(levels: Any, side: str, row: int) -> FloatArray:
    try:
        pairs = np.asarray(levels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"orderbook {side} must be pairs of price and size, row {row} was {levels!r}") from error
    if pairs.size == 0:
        return np.empty((0, 2))
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DataError(f"orderbook {side} must be pairs of price and size, row {row} was {levels!r}")
    return pairs


def _check_book(row: int, sides: tuple[Any, ...], names: tuple[str, ...]) -> None:
    """Refuse a snapshot whose sides (`BOOK_COLUMNS`) are empty, ragged, no numbers, out of order or crossed.

    Args:
        row: Row of the snapshot.
        sides: Prices and sizes of the bids, then of the asks.
        names: What to call them in an error.
    """
    try:
        book = [np.asarray(side, dtype=np.float64) for side in sides]
    except (TypeError, ValueError) as error:
        raise DataError(f"orderbook must hold numbers, row {row} was {sides!r}") from error
    for name, side in zip(names, book, strict=True):
        if side.size == 0:
            raise DataError(f"orderbook {name} must not be empty, row {row} was")
        if not (np.isfinite(side).all() and (side >= 0).all()):
            raise DataError(f"orderbook {name} must be finite and at least 0, row {row} was {side.tolist()}")
    for price, size, better in ((0, 1, -1.0), (2, 3, 1.0)):
        _check_side(row, book[price], book[size], (names[price], names[size]), better)
    bid, ask = book[0][0], book[2][0]
    if bid >= ask:
        raise DataError(f"orderbook {names[0]} must lie below {names[2]}, row {row} had bid {bid}, ask {ask}")


def _check_side(row: int, prices: FloatArray, sizes: FloatArray, names: tuple[str, str], sign: float) -> None:
    """Refuse a side with another number of prices than sizes, or whose prices times `sign` ever fall."""
    if prices.ndim != 1 or prices.shape != sizes.shape:
        counts = f"{sizes.size} and {prices.size}"
        raise DataError(f"orderbook {names[1]} must be as many as {names[0]}, row {row} had {counts}")
    if (np.diff(sign * prices) < 0).any():
        raise DataError(f"orderbook {names[0]} must come best first, row {row} was {prices.tolist()}")


def exchange_rows(
    venues: Mapping[Any, Any], label: pd.Timestamp, step: pd.Timedelta
) -> tuple[pd.DataFrame | None, dict[str, pd.DataFrame]]:
    """Return the rows of funding, and of each other venue's closes; a bare number counts for the bar that opened at `label`."""
    if not isinstance(venues, Mapping):
        raise DataError(f"cross_exchange must map venues to prices or candles, was {type(venues).__name__}")
    found: dict[str, pd.DataFrame] = {}
    now = label + step
    for venue, given in venues.items():
        name = str(venue).lower()
        if name in found:
            raise DataError(f"cross_exchange must name a venue once, {venue!r} was there twice")
        rate = name == "funding"
        column, opened, delay = ("funding_rate", now, pd.Timedelta(0)) if rate else ("close", label, step)
        found[name] = _venue_rows(given, column, f"cross_exchange {venue}", opened, now, delay)
    return found.pop("funding", None), found


def _venue_rows(
    given: Any, column: str, source: str, label: pd.Timestamp, now: pd.Timestamp, delay: pd.Timedelta
) -> pd.DataFrame:
    """Return `timestamp, available_at, column` of a number or a history."""
    if isinstance(given, int | float | np.number):
        value = check_reading(given, source, column)
        return pd.DataFrame({"timestamp": [label], "available_at": [now], column: [value]})
    if not isinstance(given, pd.DataFrame):
        raise DataError(f"{source} must be a number or a DataFrame, was {given!r}")
    stamps = stamps_of(given, source)
    refuse_disorder(stamps, source)
    available = stamps_of(given, source, "available_at") if "available_at" in given else stamps + delay
    values = numbers_of(given, column, source)
    wrong = np.isinf(values) | ((column == "close") & (values <= 0))
    refuse_rows(wrong, values, f"{source} {column} must be a positive price or a rate")
    return pd.DataFrame({"timestamp": stamps, "available_at": available, column: values})


def check_reading(value: Any, source: str, column: str = "close") -> float:
    """Return one price of a venue, or one funding rate.

    Raises:
        DataError: It is not finite, or a price is not positive.
    """
    number = check_number(value, source)
    if not np.isfinite(number) or (column == "close" and number <= 0):
        raise DataError(f"{source} must be a positive price or a rate, was {number}")
    return number
