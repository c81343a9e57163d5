"""The tables of the lake: column names, types and meanings.

All instants are timezone-aware UTC with microsecond resolution. `timestamp` is the OPEN time of a bar, or the label
that the publisher gave a row; `available_at` is the instant a trader could have read the row, and the only column
that a join may use.
"""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from cryptoml.errors import ConfigError

__all__ = [
    "BOOK_BARS",
    "BOOK_LEVELS",
    "CANDLES",
    "FUNDING",
    "ONCHAIN",
    "ORDERBOOK",
    "OWN_VENUE",
    "TABLES",
    "TIMESTAMP",
    "TRADES",
    "TRADE_BARS",
    "VENUE_CANDLES",
    "TableSpec",
    "bars_per_year",
    "grid_anchor",
    "normalise_symbol",
    "parse_timeframe",
    "split_symbol",
]

TIMESTAMP = pa.timestamp("us", tz="UTC")
ORDERBOOK_DEPTH = 20
BOOK_LEVELS = (1, 5, 10, 20)
OWN_VENUE = "own"
"""Name, among other venues, of the traded one itself: its candles of a market that a panel needs but does not hold."""


@dataclass(frozen=True)
class TableSpec:
    """One table of the lake.

    Attributes:
        name: Folder of the table below the lake's root.
        partitions: Keys of the folders below that, in order, such as `("timeframe", "symbol")`.
        key: Columns that identify a row inside one partition; rows are sorted by them.
        schema: Arrow schema of the files (partition keys are not repeated in the files).
        nullable: Columns that may hold nulls; every other column must be present and filled.
    """

    name: str
    partitions: tuple[str, ...]
    key: tuple[str, ...]
    schema: pa.Schema
    nullable: frozenset[str] = frozenset()

    def partition_path(self, **values: Any) -> str:
        """Return `name/key=value/...` for one partition."""
        missing = [key for key in self.partitions if key not in values]
        if missing or len(values) != len(self.partitions):
            raise ConfigError(f"partition of table {self.name} must be given as {self.partitions}, was {values}")
        return "/".join([self.name, *(f"{key}={values[key]}" for key in self.partitions)])


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([("timestamp", TIMESTAMP), *fields])


_CANDLE_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("open", pa.float64()),
    ("high", pa.float64()),
    ("low", pa.float64()),
    ("close", pa.float64()),
    ("volume", pa.float64()),  # base asset
    ("quote_volume", pa.float64()),  # quote asset
    ("num_trades", pa.int64()),
    ("taker_buy_volume", pa.float64()),  # base asset, bought by takers
)
_CANDLE_OPTIONAL = frozenset({"quote_volume", "num_trades", "taker_buy_volume"})

CANDLES = TableSpec("candles", ("timeframe", "symbol"), ("timestamp",), _schema(*_CANDLE_FIELDS), _CANDLE_OPTIONAL)
"""Candles of the traded venue. A bar is known at `timestamp + timeframe`, so it needs no `available_at`."""

VENUE_CANDLES = TableSpec(
    "venue_candles",
    ("venue", "timeframe", "symbol"),
    ("timestamp",),
    _schema(("available_at", TIMESTAMP), *_CANDLE_FIELDS),
    _CANDLE_OPTIONAL,
)
"""Candles of another venue (`venue=kraken`, `venue=binance_spot`)."""

FUNDING = TableSpec(
    "funding",
    ("symbol",),
    ("timestamp",),
    _schema(("available_at", TIMESTAMP), ("funding_rate", pa.float64())),
)
"""Funding rates of a perpetual: the fraction of notional that longs pay shorts at `timestamp`."""

ONCHAIN = TableSpec(
    "onchain",
    ("asset",),
    ("timestamp", "metric"),
    _schema(("available_at", TIMESTAMP), ("metric", pa.string()), ("value", pa.float64())),
    frozenset({"value"}),
)
"""On-chain series in long form; `asset` is the base asset (`BTC`)."""

ORDERBOOK = TableSpec(
    "orderbook",
    ("symbol",),
    ("timestamp",),
    _schema(
        ("available_at", TIMESTAMP),
        ("bid_prices", pa.list_(pa.float64())),
        ("bid_sizes", pa.list_(pa.float64())),
        ("ask_prices", pa.list_(pa.float64())),
        ("ask_sizes", pa.list_(pa.float64())),
    ),
)
"""Book snapshots, best level first; prices in the quote, sizes in the base asset."""

TRADES = TableSpec(
    "trades",
    ("symbol",),
    ("timestamp", "trade_id"),
    _schema(
        ("available_at", TIMESTAMP),
        ("trade_id", pa.int64()),
        ("price", pa.float64()),
        ("size", pa.float64()),
        ("is_buyer_taker", pa.bool_()),
    ),
)
"""Single trades; `is_buyer_taker` is true where the aggressor bought."""

BOOK_BARS = TableSpec(
    "book_bars",
    ("timeframe", "symbol"),
    ("timestamp",),
    _schema(
        ("available_at", TIMESTAMP),
        ("num_snapshots", pa.int64()),
        *((f"book_imbalance_{depth}", pa.float64()) for depth in BOOK_LEVELS),
        ("book_spread", pa.float64()),  # basis points of the mid price
        ("book_depth", pa.float64()),  # ln(bid size / ask size)
        ("book_microprice", pa.float64()),  # basis points from the mid price
    ),
    frozenset({*(f"book_imbalance_{depth}" for depth in BOOK_LEVELS), "book_depth", "book_microprice"}),
)
"""Means over the snapshots that became readable during a bar; known at its close."""

TRADE_BARS = TableSpec(
    "trade_bars",
    ("timeframe", "symbol"),
    ("timestamp",),
    _schema(("available_at", TIMESTAMP), ("bought", pa.float64()), ("sold", pa.float64())),
)
"""Base asset that aggressors bought and sold in the trades that became readable during a bar; known at its close."""

TABLES = {spec.name: spec for spec in (CANDLES, VENUE_CANDLES, FUNDING, ONCHAIN, ORDERBOOK, TRADES, BOOK_BARS, TRADE_BARS)}

_UNITS = {
    "s": pd.Timedelta(seconds=1),
    "m": pd.Timedelta(minutes=1),
    "h": pd.Timedelta(hours=1),
    "d": pd.Timedelta(days=1),
    "w": pd.Timedelta(weeks=1),
}


def parse_timeframe(timeframe: str) -> pd.Timedelta:
    """Return the length of a bar: `"15m"`, `"1h"`, `"1d"`; a month (`"1M"`) has no fixed length and is refused.

    Raises:
        ConfigError: The text is not a positive whole number and one of s, m, h, d, w.
    """
    match = re.fullmatch(r"([1-9]\d*)([smhdw])", str(timeframe).strip())
    if match is None:
        raise ConfigError(f"timeframe must be a number and one of s, m, h, d, w such as '1h', was {timeframe!r}")
    return int(match[1]) * _UNITS[match[2]]


def grid_anchor(step: pd.Timedelta) -> pd.Timestamp:
    """Return an open of bars of that length on which every venue agrees: midnight, and Monday for weekly bars."""
    monday = step % pd.Timedelta(days=7) == pd.Timedelta(0)
    return pd.Timestamp("1970-01-05" if monday else "1970-01-01", tz="UTC")


def bars_per_year(timeframe: str) -> float:
    """Return the number of bars in 365 days: crypto trades without a break."""
    return pd.Timedelta(days=365) / parse_timeframe(timeframe)


def normalise_symbol(symbol: str) -> str:
    """Return the lake's spelling of a market: `BTC/USDT`, `btc-usdt`, `BTC/USDT:USDT` and `BTC_USDT_USDT` all become `BTCUSDT`.

    Raises:
        ConfigError: It is no text, or nothing but separators is left.
    """
    if not isinstance(symbol, str):
        raise ConfigError(f"symbol must be text such as 'BTC/USDT', was {symbol!r}")
    parts = re.split(r"[/_:\-]", symbol.strip().upper())
    if len(parts) == 3 and parts[1] == parts[2]:  # base, quote, settlement
        parts.pop()
    joined = "".join(parts)
    if not re.fullmatch(r"[A-Z0-9.]+", joined):
        raise ConfigError(f"symbol must be letters and digits such as 'BTC/USDT', was {symbol!r}")
    return joined


_QUOTES = re.compile(r"(.+?)(USDT|USDC|FDUSD|BUSD|TUSD|USD|EUR|GBP|TRY|BRL|JPY|DAI|BTC|ETH|BNB)(?:PERP|SWAP)?")


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return base and quote of a market: `("BTC", "USDT")` of `BTC/USDT`, `BTC/USDT:USDT`, `btc_usdt_usdt` and `BTCUSDT`.

    A name without separators is cut before the first known quote asset that ends it; the quote is empty where none does. `PERP`
    and `SWAP` behind the quote do not count.
    """
    parts = [part for part in re.split(r"[/_:\-]", symbol.strip().upper()) if part not in ("", "PERP", "SWAP")]
    if len(parts) > 1:
        return parts[0], parts[1]
    match = _QUOTES.fullmatch(parts[0]) if parts else None
    return (match[1], match[2]) if match else ("".join(parts), "")
