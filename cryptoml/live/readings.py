"""What a bot knows beside candles (the chain, a book, other venues) as rows of a panel's tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cryptoml.data.schema import parse_timeframe, split_symbol
from cryptoml.errors import DataError
from cryptoml.features.external_inputs import book_rows, exchange_rows, onchain_rows

__all__ = ["Tables", "merged_tables", "reading_tables", "tables_of_readings", "trimmed_tables"]

Tables = Mapping[str, Mapping[str, pd.DataFrame]]
"""Table name -> key -> rows, as `Panel.tables`."""


def reading_tables(
    symbol: str, last_bar: pd.Timestamp, timeframe: str, *, onchain: Any = None, orderbook: Any = None, cross_exchange: Any = None
) -> Tables:
    """Return the tables of one symbol; a single reading counts from the close of its last bar.

    Args:
        symbol: In the lake's spelling.
        last_bar: Open of its last closed bar.
        timeframe: Length of a bar.
        onchain: `OnChainMetrics` or a history with `available_at`, as `AdvancedFeatureEngineer.extract_all_features` takes.
        orderbook: A snapshot or a history, likewise.
        cross_exchange: Venue -> price or candle history, and `funding`, likewise.

    Raises:
        DataError: A reading is not what its table holds; the message names the column and row.
    """
    step = parse_timeframe(timeframe)
    funding, venues = exchange_rows({} if cross_exchange is None else cross_exchange, last_bar, step)
    found: dict[str, dict[str, pd.DataFrame]] = {
        "onchain": {split_symbol(symbol)[0]: onchain_rows(onchain, last_bar + step)},
        "orderbook": {symbol: book_rows(orderbook, last_bar + step)},
        "venue_candles": {f"{venue}:{symbol}": rows for venue, rows in venues.items()},
        "funding": {} if funding is None else {symbol: funding},
    }
    filled = {name: {key: frame for key, frame in rows.items() if len(frame)} for name, rows in found.items()}
    return {name: rows for name, rows in filled.items() if rows}


def tables_of_readings(
    frames: Mapping[str, pd.DataFrame], readings: Mapping[str, Mapping[str, Any]], timeframe: str, now: pd.Timestamp | None = None
) -> Tables:
    """Return the tables of several symbols' readings, each known from the close of the symbol's last bar.

    Args:
        frames: Symbol -> tidy candles.
        readings: Symbol -> `onchain`, `orderbook`, `cross_exchange`, as `reading_tables` takes them.
        timeframe: Length of a bar.
        now: A bar that is not closed by then is not the last; the newest of all is where None.

    Raises:
        DataError: Readings are of a symbol without candles, or not what their table holds.
    """
    absent = [name for name in readings if name not in frames]
    if absent:
        raise DataError(f"readings must be of symbols whose candles are given, {list(frames)}, was {absent[0]}")
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name, given in readings.items():
        last = _last_closed(frames[name], timeframe, now)
        if last is not None and any(value is not None for value in given.values()):
            for table, rows in reading_tables(name, last, timeframe, **given).items():
                found.setdefault(table, {}).update(rows)
    return found


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
