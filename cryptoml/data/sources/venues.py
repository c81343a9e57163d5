"""Candles of other venues."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cryptoml.data.schema import VENUE_CANDLES, parse_timeframe
from cryptoml.data.sources.candles import read_candle_file
from cryptoml.data.sources.raw_files import BATCH_ROWS
from cryptoml.data.sources.tables import TableRows
from cryptoml.data.validation.candles import check_candles

__all__ = ["read_venue_file", "venue_candles"]


def venue_candles(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Return checked candles in the schema `VENUE_CANDLES`: a bar is known when it closes, at `timestamp + timeframe`."""
    known = candles["timestamp"] + parse_timeframe(timeframe)
    return candles.assign(available_at=known.dt.as_unit("us"))[VENUE_CANDLES.schema.names]


def read_venue_file(
    path: str | Path,
    *,
    venue: str,
    symbol: str | None = None,
    timeframe: str | None = None,
    assume_timezone: str | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[TableRows]:
    """Yield another venue's candles in the schema `VENUE_CANDLES`; rules and arguments as for the traded venue's.

    Args:
        path: As `read_candle_file`.
        venue: Name of the venue, such as "kraken" or "binance_spot".
        symbol: As `read_candle_file`.
        timeframe: As `read_candle_file`.
        assume_timezone: As `read_candle_file`.
        batch_rows: As `read_candle_file`.

    Raises:
        DataError: As `read_candle_file` and `check_candles`.
    """
    for raw in read_candle_file(path, symbol=symbol, timeframe=timeframe, assume_timezone=assume_timezone, batch_rows=batch_rows):
        check = check_candles(raw.frame, symbol=raw.symbol, timeframe=raw.timeframe, source=raw.source)
        partition = {"venue": venue, "timeframe": raw.timeframe, "symbol": raw.symbol}
        frame = venue_candles(check.good, raw.timeframe)
        yield TableRows(VENUE_CANDLES, partition, frame, check.quarantine, raw.source, len(raw.frame))
