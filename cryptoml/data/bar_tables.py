"""Book snapshots and single trades reduced to one row per bar, batch by batch, so that ticks are never held all at once.

A row counts for the bar during which it became readable: open < `available_at` <= close.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.schema import BOOK_BARS, BOOK_LEVELS, ORDERBOOK, TRADE_BARS, TRADES, TableSpec, grid_anchor

__all__ = ["REDUCED", "book_bars", "book_figures", "reduce_batches", "trade_bars"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Columns = dict[str, FloatArray]

REDUCED = {ORDERBOOK.name: BOOK_BARS, TRADES.name: TRADE_BARS}
"""Table of ticks to the table of bars that it is reduced to."""

SIDES = ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")
FLOWS = ("bought", "sold")
MOST_PARTS = 256
EPOCH, MICROSECOND = pd.Timestamp(0, tz="UTC"), pd.Timedelta(microseconds=1)


def trade_bars(trades: pd.DataFrame, step: pd.Timedelta, anchor: pd.Timestamp | None = None) -> pd.DataFrame:
    """Return what aggressors bought and sold per bar, in the schema `TRADE_BARS`; bars without trades have no row.

    Args:
        trades: Rows with `available_at`, `size` and `is_buyer_taker`, in any order.
        step: Length of a bar.
        anchor: An open of the grid of bars; that of the lake by default.
    """
    opens, place = _bars(trades, step, anchor)
    size = trades["size"].to_numpy(np.float64)
    is_bought = trades["is_buyer_taker"].to_numpy(bool)
    parts = (np.where(is_bought, size, 0.0), np.where(is_bought, 0.0, size))
    return _frame(TRADE_BARS, opens, step, {name: _sums(place, part, opens) for name, part in zip(FLOWS, parts, strict=True)})


def book_bars(snapshots: pd.DataFrame, step: pd.Timedelta, anchor: pd.Timestamp | None = None) -> pd.DataFrame:
    """Return means over each bar's snapshots in the schema `BOOK_BARS`; those with an empty or crossed side are left out.

    Args:
        snapshots: Rows with `available_at` and the columns of the order book, in any order.
        step: Length of a bar.
        anchor: An open of the grid of bars; that of the lake by default.
    """
    figures = book_figures(*(_levels(snapshots[name]) for name in SIDES))
    usable = np.isfinite(figures["book_spread"]) & (figures["book_spread"] > 0)
    opens, place = _bars(snapshots[usable], step, anchor)
    count = _sums(place, np.ones(len(place)), opens)
    means = {name: _sums(place, values[usable], opens) / count for name, values in figures.items()}
    return _frame(BOOK_BARS, opens, step, {"num_snapshots": count.astype(np.int64), **means})


def reduce_batches(spec: TableSpec, batches: Iterable[pd.DataFrame], step: pd.Timedelta) -> pd.DataFrame:
    """Return the bars of a whole table of trades or snapshots that comes in batches.

    Args:
        spec: `TRADES` or `ORDERBOOK`.
        batches: Its rows; a bar may be spread over several.
        step: Length of a bar.
    """
    reduce, merge = (trade_bars, _merged_trades) if spec is TRADES else (book_bars, _merged_books)
    merge = partial(merge, step=step)
    parts = [REDUCED[spec.name].schema.empty_table().to_pandas()]
    for batch in batches:
        parts.append(reduce(batch, step))
        if len(parts) > MOST_PARTS:
            parts = [merge(pd.concat(parts))]
    return merge(pd.concat(parts))


def book_figures(bid_price: FloatArray, bid: FloatArray, ask_price: FloatArray, ask: FloatArray) -> Columns:
    """Return the figures of snapshots given as prices and sizes `[snapshot, level]`, best level first, NaN below the last."""
    best_bid, best_ask = bid_price[:, 0], ask_price[:, 0]
    middle = (best_bid + best_ask) / 2.0
    with np.errstate(all="ignore"):
        figures = {f"book_imbalance_{depth}": _imbalance(bid[:, :depth], ask[:, :depth]) for depth in BOOK_LEVELS}
        micro = (best_bid * ask[:, 0] + best_ask * bid[:, 0]) / (bid[:, 0] + ask[:, 0])
        figures["book_spread"] = 1e4 * (best_ask - best_bid) / middle
        figures["book_depth"] = np.log(np.nansum(bid, axis=1) / np.nansum(ask, axis=1))
        figures["book_microprice"] = 1e4 * (micro / middle - 1.0)
    return figures


def _imbalance(bid: FloatArray, ask: FloatArray) -> FloatArray:
    bids, asks = np.nansum(bid, axis=1), np.nansum(ask, axis=1)
    return (bids - asks) / (bids + asks)


def _levels(cells: pd.Series) -> FloatArray:
    """Stack lists of levels to `[row, level]`, NaN beyond the depth of a row."""
    depth = BOOK_LEVELS[-1]
    lists = [np.asarray(cell, dtype=np.float64)[:depth] for cell in cells]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    out = np.full((len(lists), depth), np.nan)
    out[np.arange(depth) < lengths[:, None]] = np.concatenate([np.empty(0), *lists])
    return out


def _bars(rows: pd.DataFrame, step: pd.Timedelta, anchor: pd.Timestamp | None) -> tuple[IntArray, IntArray]:
    """Return the opens of the bars that have rows, microseconds since 1970, and for each row the place of its bar."""
    length, origin = step // MICROSECOND, ((grid_anchor(step) if anchor is None else anchor) - EPOCH) // MICROSECOND
    available = pd.DatetimeIndex(rows["available_at"]).as_unit("us").asi8
    return np.unique(origin - (origin - available) // length * length - length, return_inverse=True)


def _sums(place: IntArray, values: FloatArray, opens: IntArray) -> FloatArray:
    return np.bincount(place, weights=values, minlength=len(opens)).astype(np.float64)


def _frame(spec: TableSpec, opens: IntArray, step: pd.Timedelta, columns: dict[str, NDArray]) -> pd.DataFrame:
    stamps = pd.DatetimeIndex(opens.view("datetime64[us]")).tz_localize("UTC")
    return pd.DataFrame({"timestamp": stamps, "available_at": stamps + step, **columns}, columns=spec.schema.names)


def _merged_trades(parts: pd.DataFrame, step: pd.Timedelta) -> pd.DataFrame:
    opens, place = _by_open(parts)
    return _frame(TRADE_BARS, opens, step, {name: _sums(place, parts[name].to_numpy(), opens) for name in FLOWS})


def _merged_books(parts: pd.DataFrame, step: pd.Timedelta) -> pd.DataFrame:
    opens, place = _by_open(parts)
    weight = parts["num_snapshots"].to_numpy(np.float64)
    count = _sums(place, weight, opens)
    names = [name for name in BOOK_BARS.schema.names if name.startswith("book_")]
    means = {name: _sums(place, weight * parts[name].to_numpy(np.float64), opens) / count for name in names}
    return _frame(BOOK_BARS, opens, step, {"num_snapshots": count.astype(np.int64), **means})


def _by_open(parts: pd.DataFrame) -> tuple[IntArray, IntArray]:
    return np.unique(pd.DatetimeIndex(parts["timestamp"]).as_unit("us").asi8, return_inverse=True)
