"""Turn the frames, snapshots and mappings that a caller hands over into a one-symbol panel, refusing what is wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import DataError
from cryptoml.features.external_inputs import book_rows, exchange_rows, onchain_rows, trade_rows
from cryptoml.features.table_checks import numbers_of, refuse_disorder, refuse_rows, stamps_of

__all__ = ["REQUIRED", "check_candles_make_sense", "panel_from_inputs"]

SYMBOL = "ASSET"
REQUIRED = CANDLE_FIELDS[:5]
PRICES = CANDLE_FIELDS[:4]


def panel_from_inputs(
    ohlcv: pd.DataFrame, timeframe: str, onchain: Any, orderbook: Any, cross_exchange: Any, trades: Any = None
) -> tuple[Panel, NDArray[np.int64]]:
    """Return a panel of one symbol on a regular grid, and the grid's row of each row of `ohlcv`.

    Raises:
        DataError: See `AdvancedFeatureEngineer.extract_all_features`.
    """
    step = parse_timeframe(timeframe)
    stamps = stamps_of(ohlcv, "ohlcv")
    _check_order(stamps, timeframe)
    values = {name: numbers_of(ohlcv, name, "ohlcv") for name in CANDLE_FIELDS if name in REQUIRED or name in ohlcv}
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
    funding, venues = exchange_rows({} if cross_exchange is None else cross_exchange, grid[-1], step)
    tables["venue_candles"] = {f"{venue}:{SYMBOL}": rows for venue, rows in venues.items()}
    tables["trades"] = {} if trades is None else {SYMBOL: trade_rows(trades)}
    tables["funding"] = {} if funding is None else {SYMBOL: funding}
    return Panel((SYMBOL,), timeframe, grid, np.moveaxis(candles, 0, -1), tables), rows


def _check_order(stamps: pd.DatetimeIndex, timeframe: str) -> None:
    refuse_disorder(stamps, "ohlcv")
    gaps, step = np.diff(stamps.asi8), parse_timeframe(timeframe)
    bar = step // pd.Timedelta(microseconds=1)
    refuse_rows(np.r_[False, gaps % bar != 0], stamps, f"ohlcv timestamp must lie on a grid of {step}")
    if len(gaps) > 1 and gaps.min() > bar:
        nearest = pd.Timedelta(microseconds=int(gaps.min()))
        raise DataError(f"ohlcv timestamp must follow the timeframe {timeframe!r}, the nearest rows were {nearest} apart")


def check_candles_make_sense(values: Mapping[str, NDArray[np.float64]], source: str) -> None:
    """Refuse prices that are no positive number, negative volumes, and a high below its low; NaN is an absent bar.

    Raises:
        DataError: The message names the column and the first offending row.
    """
    for name, column in values.items():
        wrong = ~np.isnan(column) & ~((column > 0 if name in PRICES else column >= 0) & np.isfinite(column))
        refuse_rows(wrong, column, f"{source} {name} must be {'positive' if name in PRICES else 'at least 0'}")
    refuse_rows(values["high"] < values["low"], values["high"], f"{source} high must not lie below low")
