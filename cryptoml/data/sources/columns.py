"""Names that exchanges and tools give the columns of market data, and the one name we give them."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd

__all__ = ["BINANCE_KLINE", "CANDLE_ALIASES", "STAMP_ALIASES", "canonical_columns", "column_word", "renamed"]

STAMP_ALIASES = (
    "open_time",
    "opentime",
    "timestamp",
    "datetime",
    "time",
    "ts",
    "unix",
    "unix_timestamp",
    "date",
    "t",
    "start",
    "start_time",
)
_INDEX_NAMES = ("index_level_0", "index", "unnamed_0", "")

CANDLE_ALIASES: dict[str, tuple[str, ...]] = {
    "timestamp": (*STAMP_ALIASES, *_INDEX_NAMES),
    "open": ("open", "open_price", "o"),
    "high": ("high", "high_price", "h"),
    "low": ("low", "low_price", "l"),
    "close": ("close", "close_price", "c"),
    "volume": ("volume", "base_volume", "volume_base", "vol", "v"),
    "quote_volume": ("quote_volume", "quote_asset_volume", "quotevolume", "volume_quote", "quote_av", "turnover"),
    "num_trades": ("num_trades", "number_of_trades", "trade_count", "tradecount", "trades", "count"),
    "taker_buy_volume": (
        "taker_buy_volume",
        "taker_buy_base_asset_volume",
        "taker_buy_base_volume",
        "taker_base_vol",
        "taker_buy_base",
        "tb_base_av",
    ),
    "symbol": ("symbol", "pair", "market", "ticker", "instrument"),
    "timeframe": ("timeframe", "interval"),
}
"""Known spellings per column; where a file has several, the one named first here is taken."""

BINANCE_KLINE = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)
"""Columns of Binance's public kline files, which carry no header line up to 2022 and in the spot market."""


def column_word(name: object) -> str:
    """Return a column's name in lower case with single underscores: `Open Time` and `open_time` become `open_time`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def canonical_columns(columns: Iterable[object], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    """Return our name -> the file's own name, for each of `aliases` that the file has."""
    words: dict[str, object] = {}
    for column in columns:
        words.setdefault(column_word(column), column)
    found = {name: next((words[word] for word in spellings if word in words), None) for name, spellings in aliases.items()}
    return {name: column for name, column in found.items() if column is not None}


def renamed(frame: pd.DataFrame, aliases: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return the columns of `frame` that `aliases` knows, under our names."""
    found = canonical_columns(frame.columns, aliases)
    return pd.DataFrame({name: frame[column] for name, column in found.items()}, index=frame.index)
