"""Funding rates of perpetual futures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cryptoml.data.schema import FUNDING
from cryptoml.data.sources.columns import CANDLE_ALIASES, STAMP_ALIASES
from cryptoml.data.sources.file_names import parse_file_name
from cryptoml.data.sources.markets import split_by_market
from cryptoml.data.sources.raw_files import BATCH_ROWS, read_raw
from cryptoml.data.sources.tables import TableRows, read_columns, settle_rows
from cryptoml.data.validation.quarantine import Fault, to_numbers
from cryptoml.data.validation.timestamps import to_utc

__all__ = ["LATENESS", "read_funding_file"]

LATENESS = pd.Timedelta(1, unit="s")
"""Exchanges stamp a payment up to some tens of milliseconds late."""

_RATE = ("funding_rate", "last_funding_rate", "fundingrate", "rate")
_STAMPS = ("calc_time", "funding_time", *STAMP_ALIASES, *CANDLE_ALIASES["timestamp"])
_ALIASES = {"timestamp": _STAMPS, "funding_rate": _RATE, "symbol": CANDLE_ALIASES["symbol"]}
_LAYOUTS = {
    2: ("timestamp", "funding_rate"),
    3: ("calc_time", "funding_interval_hours", "last_funding_rate"),
    6: ("timestamp", "open", "high", "low", "close", "volume"),
}


def read_funding_file(
    path: str | Path,
    *,
    symbol: str | None = None,
    assume_timezone: str | None = None,
    snap: pd.Timedelta = LATENESS,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[TableRows]:
    """Yield funding rates (fraction of notional per interval) in the schema `FUNDING`.

    Exchanges stamp a payment some milliseconds after the full hour: a stamp within `snap` of a full minute gets that minute as
    `timestamp`. `available_at` is the stamp as published, and never before `timestamp`.

    Reads tables with a column `funding_rate`, Binance's public `fundingRate` zips, and freqtrade's `-funding_rate` files, of
    which the older ones hold the rate in `open`.

    Args:
        path: A file of any format that candles may have.
        symbol: Market; else taken from a column or the file's name.
        assume_timezone: Zone of stamps that carry none.
        snap: Largest distance to a full minute that is taken for lateness.
        batch_rows: Rows per batch.

    Raises:
        DataError: The file cannot be read, or a column is missing.
    """
    named, source = parse_file_name(Path(path)), str(path)
    rate = (*_RATE, "open") if named.kind == "funding_rate" else _RATE
    aliases = {**_ALIASES, "funding_rate": rate}
    required = ("timestamp", "funding_rate")
    for batch in read_raw(path, layouts=_LAYOUTS, batch_rows=batch_rows):
        frame = read_columns(batch, aliases, required=required, source=source, assume_timezone=assume_timezone)
        for market, rows in split_by_market(frame, symbol, named, source):
            yield _settle(rows, market, source, snap)


def _settle(rows: pd.DataFrame, symbol: str, source: str, snap: pd.Timedelta) -> TableRows:
    rates, is_text = to_numbers(rows["funding_rate"])
    faults = [Fault("not_a_number", "funding_rate", is_text), Fault("not_finite", "funding_rate", ~np.isfinite(rates))]
    stamps = to_utc(rows["timestamp"], source=source)
    minute = stamps.dt.round("1min")
    label = minute.where((stamps - minute).abs() <= snap, stamps)
    values = {"timestamp": label, "available_at": stamps.where(stamps >= label, label), "funding_rate": rates}
    return settle_rows(rows, values, faults, spec=FUNDING, partition={"symbol": symbol}, source=source)
