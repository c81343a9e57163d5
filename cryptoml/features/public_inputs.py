"""Turn the frames, snapshots and mappings that a caller hands over into a one-symbol panel, refusing what is wrong.

Every error names the column and the first offending row, counted from zero.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import DataError
from cryptoml.features.onchain import METRIC_ALIASES, METRICS, OnChainMetrics

__all__ = [
    "REQUIRED",
    "book_rows",
    "book_sides",
    "check_number",
    "exchange_rows",
    "onchain_rows",
    "panel_from_inputs",
    "refuse_future",
    "trade_rows",
]

SYMBOL = "ASSET"
REQUIRED = CANDLE_FIELDS[:5]
PRICES = CANDLE_FIELDS[:4]
BOOK_COLUMNS = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")


def panel_from_inputs(
    ohlcv: pd.DataFrame, timeframe: str, onchain: Any, orderbook: Any, cross_exchange: Any, trades: Any = None
) -> tuple[Panel, NDArray[np.int64]]:
    """Return a panel of one symbol on a regular grid, and the grid's row of each row of `ohlcv`.

    Raises:
        DataError: See `AdvancedFeatureEngineer.extract_all_features`.
    """
    step = parse_timeframe(timeframe)
    stamps = _stamps(ohlcv, "ohlcv")
    _check_order(stamps, step)
    values = {name: _numbers(ohlcv, name, "ohlcv") for name in CANDLE_FIELDS if name in REQUIRED or name in ohlcv}
    check_candles_make_sense(values, "ohlcv")
    if not len(stamps):
        return Panel((SYMBOL,), timeframe, stamps, np.empty((1, 0, len(CANDLE_FIELDS)))), np.empty(0, np.int64)
    grid = pd.date_range(stamps[0], stamps[-1], freq=step)
    rows = grid.get_indexer(stamps)
    candles = np.full((len(CANDLE_FIELDS), 1, len(grid)), np.nan)
    for index, name in enumerate(CANDLE_FIELDS):
        if name in values:
            candles[index, 0, rows] = values[name]
    now = grid[-1] + step
    tables = {
        "onchain": {SYMBOL: onchain_rows(onchain, now)},
        "orderbook": {SYMBOL: book_rows(orderbook, now)},
    }
    funding, venues = exchange_rows(cross_exchange or {}, grid[-1], step)
    tables["venue_candles"] = {f"{venue}:{SYMBOL}": rows for venue, rows in venues.items()}
    tables["trades"] = {} if trades is None else {SYMBOL: trade_rows(trades)}
    tables["funding"] = {} if funding is None else {SYMBOL: funding}
    return Panel((SYMBOL,), timeframe, grid, np.moveaxis(candles, 0, -1), tables), rows


def _stamps(frame: pd.DataFrame, source: str, column: str = "timestamp") -> pd.DatetimeIndex:
    """Return a frame's instants from a column, or else from its index."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{source} must be a DataFrame, was {type(frame).__name__}")
    by_index = column == "timestamp" and isinstance(frame.index, pd.DatetimeIndex)
    if column not in frame and not by_index:
        raise DataError(f"{source} must have the column {column}, columns were {list(frame.columns)}")
    values = pd.Series(frame.get(column, frame.index))
    if not isinstance(values.dtype, pd.DatetimeTZDtype):
        first = f", row 0 was {values.iloc[0]}" if len(values) else ""
        raise DataError(f"{source} {column} must be timezone-aware UTC, dtype was {values.dtype}{first}")
    stamps = pd.DatetimeIndex(values).tz_convert("UTC").as_unit("us")
    if stamps.hasnans:
        raise DataError(f"{source} {column} must be filled, row {int(np.argmax(stamps.isna()))} was NaT")
    return stamps


def _check_order(stamps: pd.DatetimeIndex, step: pd.Timedelta) -> None:
    gaps = np.diff(stamps.asi8)
    for wrong, what in ((gaps < 0, "ascending"), (gaps == 0, "free of duplicates")):
        if wrong.any():
            row = int(np.argmax(wrong)) + 1
            raise DataError(f"ohlcv timestamp must be {what}, row {row} was {stamps[row]} after {stamps[row - 1]}")
    off_grid = gaps % (step // pd.Timedelta(microseconds=1)) != 0
    if off_grid.any():
        row = int(np.argmax(off_grid)) + 1
        raise DataError(f"ohlcv timestamp must lie on a grid of {step}, row {row} was {stamps[row]}")


def _numbers(frame: pd.DataFrame, column: str, source: str) -> NDArray[np.float64]:
    if column not in frame:
        raise DataError(f"{source} must have column {column}, columns were {list(frame.columns)}")
    values = frame[column]
    if isinstance(values, pd.DataFrame):
        raise DataError(f"{source} must have column {column} once, it had {values.shape[1]}")
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = [row for row, value in enumerate(values) if isinstance(value, bool) or not isinstance(value, int | float)]
    where = f", row {wrong[0]} was {values.iloc[wrong[0]]!r}" if wrong else ""
    raise DataError(f"{source} {column} must be numeric, dtype was {values.dtype}{where}")


def check_candles_make_sense(values: Mapping[str, NDArray[np.float64]], source: str) -> None:
    """Refuse prices that are no positive number, negative volumes, and a high below its low; NaN is an absent bar.

    Raises:
        DataError: The message names the column and the first offending row.
    """
    for name, column in values.items():
        wrong = ~np.isnan(column) & ~((column > 0 if name in PRICES else column >= 0) & np.isfinite(column))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{source} {name} must be {'positive' if name in PRICES else 'at least 0'}, row {row} was {column[row]}"
            )
    below = values["high"] < values["low"]
    if below.any():
        row = int(np.argmax(below))
        raise DataError(f"{source} high must not lie below low, row {row} was {values['high'][row]} under {values['low'][row]}")


def check_number(value: Any, what: str) -> float:
    """Return a number as float; `what` names it in the error.

    Raises:
        DataError: The value is no number.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise DataError(f"{what} must be a number, was {value!r}")
    return float(value)


def refuse_future(stamps: pd.DatetimeIndex, now: pd.Timestamp, source: str) -> None:
    """Raise a DataError where an instant lies after the close of the last bar."""
    late = stamps > now
    if late.any():
        row = int(np.argmax(late))
        raise DataError(f"{source} available_at must not lie after the last bar's close {now}, row {row} was {stamps[row]}")


def onchain_rows(onchain: Any, now: pd.Timestamp) -> pd.DataFrame:
    """Return long rows `timestamp, available_at, metric, value`."""
    if onchain is None:
        return pd.DataFrame({"timestamp": [], "available_at": [], "metric": [], "value": []})
    if isinstance(onchain, OnChainMetrics):
        figures = {name: float(value) for name, value in asdict(onchain).items()}
        return pd.DataFrame({"timestamp": now, "available_at": now, "metric": list(figures), "value": list(figures.values())})
    available = _stamps(onchain, "onchain", "available_at")
    refuse_future(available, now, "onchain")
    label = _stamps(onchain, "onchain") if "timestamp" in onchain else available
    early = label > available
    if early.any():
        row = int(np.argmax(early))
        raise DataError(f"onchain timestamp must not lie after available_at, row {row} was {label[row]} after {available[row]}")
    if {"metric", "value"} <= set(onchain.columns):
        rows = {"metric": onchain["metric"].to_numpy(), "value": _numbers(onchain, "value", "onchain")}
        return pd.DataFrame({"timestamp": label, "available_at": available, **rows})
    return _long(onchain, label, available)


def _long(frame: pd.DataFrame, label: pd.DatetimeIndex, available: pd.DatetimeIndex) -> pd.DataFrame:
    known = [name for name in frame.columns if name in METRICS or name in METRIC_ALIASES]
    if not known:
        raise DataError(f"onchain must have one of the columns {', '.join(METRICS)}, columns were {list(frame.columns)}")
    rows = {"timestamp": label, "available_at": available}
    return pd.concat([pd.DataFrame({**rows, "metric": name, "value": _numbers(frame, name, "onchain")}) for name in known])


def book_rows(orderbook: Any, now: pd.Timestamp) -> pd.DataFrame:
    """Return rows of the order-book table; a snapshot becomes one row."""
    if orderbook is None:
        return pd.DataFrame({name: [] for name in ("timestamp", "available_at", *BOOK_COLUMNS)})
    if isinstance(orderbook, Mapping):
        sides = book_sides(orderbook)
        frame = pd.DataFrame({"timestamp": [now], "available_at": [now], **{name: [side] for name, side in sides.items()}})
    else:
        if not isinstance(orderbook, pd.DataFrame):
            raise DataError(f"orderbook must be a mapping of bids and asks or a DataFrame, was {type(orderbook).__name__}")
        missing = [name for name in BOOK_COLUMNS if name not in orderbook]
        if missing:
            raise DataError(f"orderbook must have column {missing[0]}, columns were {list(orderbook.columns)}")
        available = _stamps(orderbook, "orderbook", "available_at")
        label = _stamps(orderbook, "orderbook") if "timestamp" in orderbook else available
        books = {name: orderbook[name].to_numpy() for name in BOOK_COLUMNS}
        frame = pd.DataFrame({"timestamp": label, "available_at": available, **books})
    for row, book in enumerate(zip(*(frame[name] for name in BOOK_COLUMNS), strict=True)):
        _check_book(row, *book)
    return frame


def trade_rows(trades: Any) -> pd.DataFrame:
    """Return single trades: `available_at`, `size`, `is_buyer_taker`."""
    available = _stamps(trades, "trades", "available_at")
    if "is_buyer_taker" not in trades or not pd.api.types.is_bool_dtype(trades["is_buyer_taker"].dtype):
        found = trades["is_buyer_taker"].dtype if "is_buyer_taker" in trades else f"columns {list(trades.columns)}"
        raise DataError(f"trades must have the boolean column is_buyer_taker, was {found}")
    size = _numbers(trades, "size", "trades")
    return pd.DataFrame({"available_at": available, "size": size, "is_buyer_taker": trades["is_buyer_taker"].to_numpy()})


def book_sides(book: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Return the levels of a snapshot `{"bids": [[price, size], ...], "asks": ...}`, checked, by `BOOK_COLUMNS`.

    Raises:
        DataError: A side is absent, no pairs of numbers, empty, out of order or crossed.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    for side in ("bid", "ask"):
        if f"{side}s" not in book:
            raise DataError(f"orderbook must have {side}s, keys were {list(book)}")
        try:
            levels = np.asarray(book[f"{side}s"], dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise DataError(f"orderbook {side}s must be pairs of price and size, row 0 was {book[f'{side}s']!r}") from error
        columns |= {f"{side}_prices": levels[:, 0], f"{side}_sizes": levels[:, 1]}
    _check_book(0, *columns.values())
    return columns


def _check_book(row: int, *sides: Any) -> None:
    """Refuse a snapshot whose sides (`BOOK_COLUMNS`) are empty, ragged, no numbers, out of order or crossed."""
    try:
        bid, bid_size, ask, ask_size = book = [np.asarray(side, dtype=np.float64) for side in sides]
    except (TypeError, ValueError) as error:
        raise DataError(f"orderbook must hold numbers, row {row} was {sides!r}") from error
    for name, side in zip(BOOK_COLUMNS, book, strict=True):
        if side.size == 0:
            raise DataError(f"orderbook {name} must not be empty, row {row} was")
        if not (np.isfinite(side).all() and (side >= 0).all()):
            raise DataError(f"orderbook {name} must be finite and at least 0, row {row} was {side.tolist()}")
    for name, prices, sizes in (("bid", -bid, bid_size), ("ask", ask, ask_size)):
        if len(prices) != len(sizes):
            raise DataError(
                f"orderbook {name}_sizes must be as many as {name}_prices, row {row} had {len(sizes)} and {len(prices)}"
            )
        if (prices[1:] < prices[:-1]).any():
            raise DataError(f"orderbook {name}_prices must come best first, row {row} was {np.abs(prices).tolist()}")
    if bid[0] >= ask[0]:
        raise DataError(f"orderbook bid_prices must lie below ask_prices, row {row} had bid {bid[0]}, ask {ask[0]}")


def exchange_rows(
    venues: Mapping[str, Any], label: pd.Timestamp, step: pd.Timedelta
) -> tuple[pd.DataFrame | None, dict[str, pd.DataFrame]]:
    """Return the rows of funding, and of each other venue's closes; a bare number counts for the bar that opened at `label`."""
    funding, found = None, {}
    now = label + step
    if not isinstance(venues, Mapping):
        raise DataError(f"cross_exchange must map venues to prices or candles, was {type(venues).__name__}")
    for venue, given in venues.items():
        if str(venue).lower() in found:
            raise DataError(f"cross_exchange must name a venue once, {venue!r} was there twice")
        if venue == "funding":
            funding = _rows(given, "funding_rate", venue, now, now, pd.Timedelta(0))
        else:
            found[str(venue).lower()] = _rows(given, "close", venue, label, now, step)
    return funding, found


def _rows(given: Any, column: str, source: str, label: pd.Timestamp, now: pd.Timestamp, delay: pd.Timedelta) -> pd.DataFrame:
    """Return `timestamp, available_at, column` of a number or a history."""
    if isinstance(given, int | float | np.number):
        value = check_reading(given, source)
        return pd.DataFrame({"timestamp": [label], "available_at": [now], column: [value]})
    if not isinstance(given, pd.DataFrame):
        raise DataError(f"cross_exchange {source} must be a number or a DataFrame, was {given!r}")
    stamps = _stamps(given, f"cross_exchange {source}")
    available = _stamps(given, f"cross_exchange {source}", "available_at") if "available_at" in given else stamps + delay
    values = _numbers(given, column, f"cross_exchange {source}")
    wrong = np.isinf(values) | ((column == "close") & (values <= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"cross_exchange {source} {column} must be a positive price or a rate, row {row} was {values[row]}")
    return pd.DataFrame({"timestamp": stamps, "available_at": available, column: values})


def check_reading(value: Any, source: str) -> float:
    """Return one price of a venue, or the rate of `funding`.

    Raises:
        DataError: It is not finite, or a price is not positive.
    """
    number = check_number(value, f"cross_exchange {source}")
    if not np.isfinite(number) or (source != "funding" and number <= 0):
        raise DataError(f"cross_exchange {source} must be a positive price or a rate, was {number}")
    return number
