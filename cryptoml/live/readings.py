"""What a bot knows beside candles (the chain, a book, other venues) as rows of a panel's tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.schema import parse_timeframe, split_symbol
from cryptoml.errors import DataError
from cryptoml.features.external_inputs import book_rows, exchange_rows, onchain_rows
from cryptoml.features.onchain import METRIC_ALIASES, METRICS, OnChainMetrics

__all__ = ["Tables", "merged_tables", "reading_tables", "tables_of_readings", "trimmed_tables"]

Tables = Mapping[str, Mapping[str, pd.DataFrame]]
"""Table name -> key -> rows, as `Panel.tables`."""

READINGS = ("onchain", "orderbook", "cross_exchange")
SIDES = ("bids", "asks")


def reading_tables(
    symbol: str, last_bar: pd.Timestamp, timeframe: str, *, onchain: Any = None, orderbook: Any = None, cross_exchange: Any = None
) -> Tables:
    """Return the tables of one symbol; a single reading counts from the close of its last bar.

    What is None or empty (a frame without rows, a book without levels) is absent.

    Args:
        symbol: In the lake's spelling.
        last_bar: Open of its last closed bar.
        timeframe: Length of a bar.
        onchain: `OnChainMetrics`, a mapping of its metrics, or a history with `available_at`, as
            `AdvancedFeatureEngineer.extract_all_features` takes.
        orderbook: A snapshot or a history, likewise; of each level the first two numbers count.
        cross_exchange: Venue -> price or candle history, and `funding`, likewise.

    Raises:
        DataError: A reading is not what its table holds; the message names the column and row.
    """
    step = parse_timeframe(timeframe)
    funding, venues = exchange_rows(_present(cross_exchange), last_bar, step)
    found: dict[str, dict[str, pd.DataFrame]] = {
        "onchain": {split_symbol(symbol)[0]: onchain_rows(_metrics(onchain), last_bar + step)},
        "orderbook": {symbol: book_rows(_book(orderbook), last_bar + step)},
        "venue_candles": {f"{venue}:{symbol}": rows for venue, rows in venues.items()},
        "funding": {} if funding is None else {symbol: funding},
    }
    filled = {name: {key: frame for key, frame in rows.items() if len(frame)} for name, rows in found.items()}
    return {name: rows for name, rows in filled.items() if rows}


def tables_of_readings(
    frames: Mapping[str, pd.DataFrame],
    readings: Mapping[str, Mapping[str, Any] | None],
    timeframe: str,
    now: pd.Timestamp | None = None,
) -> Tables:
    """Return the tables of several symbols' readings, each known from the close of the symbol's last bar.

    Args:
        frames: Symbol -> tidy candles.
        readings: Symbol -> `onchain`, `orderbook`, `cross_exchange`, as `reading_tables` takes them; None for none.
        timeframe: Length of a bar.
        now: A bar that is not closed by then is not the last; the newest of all is where None.

    Raises:
        DataError: Readings are of a symbol without candles, under an unknown name, or not what their table holds.
    """
    absent = [name for name in readings if name not in frames]
    if absent:
        raise DataError(f"readings must be of symbols whose candles are given, {list(frames)}, was {absent[0]}")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name, given in readings.items():
        known, last = _named(given, name), _last_closed(frames[name], timeframe, now)
        if last is not None and known:
            for table, rows in reading_tables(name, last, timeframe, **known).items():
                found.setdefault(table, {}).update(rows)
    return found


def _named(given: Any, symbol: str) -> dict[str, Any]:
    """Return the readings of a symbol that are there, by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise DataError(f"readings of {symbol} must map names to readings, was {type(given).__name__}")
    unknown = [name for name in given if name not in READINGS]
    if unknown:
        raise DataError(f"readings of {symbol} must be among {', '.join(READINGS)}, was {unknown[0]!r}")
    return {name: value for name, value in given.items() if value is not None}


def _present(cross_exchange: Any) -> Any:
    if cross_exchange is None:
        return {}
    if not isinstance(cross_exchange, Mapping):
        return cross_exchange
    return {venue: given for venue, given in cross_exchange.items() if given is not None and not _is_empty(given)}


def _metrics(onchain: Any) -> Any:
    """Return a mapping of metrics as `OnChainMetrics`, anything else as it is."""
    if _is_empty(onchain):
        return None
    if not isinstance(onchain, Mapping):
        return onchain
    figures: dict[str, Any] = {}
    for given, value in onchain.items():
        name = METRIC_ALIASES.get(given, given)
        if name not in METRICS or name in figures:
            raise DataError(f"onchain must hold each of {', '.join(METRICS)} at most once and nothing else, was {given!r}")
        figures[name] = value
    return OnChainMetrics(**figures)


def _book(orderbook: Any) -> Any:
    """Return a book whose levels are price and size alone, None where it has no levels; anything else as it is."""
    if _is_empty(orderbook):
        return None
    if isinstance(orderbook, pd.DataFrame):
        return orderbook.assign(**{side: orderbook[side].map(_levels) for side in SIDES if side in orderbook})
    if not isinstance(orderbook, Mapping):
        return orderbook
    sides = {side: _levels(orderbook[side]) for side in SIDES if side in orderbook}
    bare = len(sides) == len(SIDES) and all(side is None or (isinstance(side, list) and not side) for side in sides.values())
    return None if bare else {**orderbook, **sides}


def _levels(side: Any) -> Any:
    """Return the first two of each level: some exchanges add an instant or a count of orders."""
    levels = side.tolist() if isinstance(side, np.ndarray) else side
    if not isinstance(levels, list | tuple):
        return side
    return [level[:2] if isinstance(level, list | tuple | np.ndarray) else level for level in levels]


def _is_empty(given: Any) -> bool:
    return isinstance(given, Mapping | pd.DataFrame) and len(given) == 0


def _last_closed(frame: pd.DataFrame, timeframe: str, now: pd.Timestamp | None) -> pd.Timestamp | None:
    stamps = pd.to_datetime(frame["timestamp"], utc=True, errors="coerce").dropna()
    if now is not None:
        stamps = stamps[stamps + parse_timeframe(timeframe) <= now]
    return stamps.max() if len(stamps) else None


def merged_tables(*parts: Tables) -> dict[str, dict[str, pd.DataFrame]]:
    """Join tables row by row; of rows that say the same thing about the same instant the later part's counts."""
    joined: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for part in parts:
        for name, rows in part.items():
            for key, frame in rows.items():
                joined.setdefault(name, {}).setdefault(key, []).append(frame)
    return {name: {key: _merged(frames) for key, frames in rows.items()} for name, rows in joined.items()}


def trimmed_tables(tables: Tables, since: pd.Timestamp) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the rows that could be read from `since` on, and the last ones before."""
    return {name: {key: _trimmed(frame, since) for key, frame in rows.items()} for name, rows in tables.items()}


def _merged(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if len(frames) == 1:
        return frames[0]
    identity = ["timestamp", "available_at", *(["metric"] if "metric" in frames[0] else [])]
    rows = pd.concat(frames, ignore_index=True).drop_duplicates(identity, keep="last")
    return rows.sort_values("available_at", kind="stable", ignore_index=True)


def _trimmed(frame: pd.DataFrame, since: pd.Timestamp) -> pd.DataFrame:
    before = frame[frame["available_at"] < since]
    last = before.groupby("metric").tail(1) if "metric" in frame else before.tail(1)
    return pd.concat([last, frame[frame["available_at"] >= since]], ignore_index=True)
