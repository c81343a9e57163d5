"""Bring slower and external tables onto a symbol's bars: as-of `available_at`, at the bar's close, never on labels.

A row is used by bar t when `available_at <= timestamp_t + timeframe`. Each table has a staleness limit, after which its
last row no longer counts and the column is NaN.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.features.contract import Bars
from cryptoml.features.onchain import METRIC_ALIASES, METRICS

__all__ = [
    "BOOK_LEVELS",
    "FUNDING_STALE",
    "ONCHAIN_STALE",
    "bars_from_panel",
    "book_figures",
    "combine_premiums",
    "join_asof",
    "join_book",
    "join_trades",
    "split_symbol",
    "venue_leg",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Columns = dict[str, FloatArray]

FUNDING_STALE = pd.Timedelta(hours=24)
ONCHAIN_STALE = pd.Timedelta(days=4)
_LEGS = ("spot", "future", "triangle")
BOOK_LEVELS = (1, 5, 10, 20)
_QUOTES = re.compile(r"(.+?)(USDT|USDC|FDUSD|BUSD|TUSD|USD|EUR|BTC|ETH|BNB)$")


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return base and quote of a market's name, `("BTC", "USDT")`; the quote is empty where none is recognised."""
    match = _QUOTES.match(symbol)
    return (match[1], match[2]) if match else (symbol, "")


def bars_from_panel(panel: Panel, symbol: str) -> Bars:
    """Return one symbol's bars with every table of the panel joined to them."""
    row = panel.index_of(symbol)
    columns = {name: np.ascontiguousarray(panel.candles[row, :, index]) for index, name in enumerate(CANDLE_FIELDS)}
    closes = _microseconds(panel.timestamps + parse_timeframe(panel.timeframe))
    step = parse_timeframe(panel.timeframe)
    base, _ = split_symbol(symbol)
    columns |= _funding(panel.tables.get("funding", {}).get(symbol), closes)
    columns |= _onchain(panel.tables.get("onchain", {}).get(base), closes)
    columns |= join_book(panel.tables.get("orderbook", {}).get(symbol), closes, step)
    columns |= join_trades(panel.tables.get("trades", {}).get(symbol), closes, step)
    columns |= _venues(panel, symbol, columns["close"], closes)
    return Bars(panel.timestamps, panel.timeframe, columns)


def _microseconds(stamps: pd.DatetimeIndex | pd.Series) -> IntArray:
    return pd.DatetimeIndex(stamps).as_unit("us").asi8


def join_asof(closes: IntArray, frame: pd.DataFrame, values: FloatArray, stale: pd.Timedelta) -> FloatArray:
    """Return per bar the value of the newest row (by `timestamp`) that was readable at its close.

    Args:
        closes: `[time]` closes of the bars, microseconds since 1970.
        frame: Rows with `timestamp` and `available_at`, in any order.
        values: `[row]` what to join.
        stale: A row older than this, counted from `available_at`, does not count any more.
    """
    available, stamp = _microseconds(frame["available_at"]), _microseconds(frame["timestamp"])
    order = np.lexsort((stamp, available))
    order = order[stamp[order] >= np.maximum.accumulate(stamp[order])]  # a revision of an older label is no news
    if not len(order):
        return np.full(len(closes), np.nan)
    place = np.searchsorted(available[order], closes, side="right") - 1
    row = order[np.maximum(place, 0)]
    fresh = (place >= 0) & (closes - available[row] < stale // pd.Timedelta(microseconds=1))
    return np.where(fresh, values[row], np.nan)


def _funding(frame: pd.DataFrame | None, closes: IntArray) -> Columns:
    if frame is None or frame.empty:
        return {}
    return {"funding_rate": join_asof(closes, frame, frame["funding_rate"].to_numpy(np.float64), FUNDING_STALE)}


def _onchain(frame: pd.DataFrame | None, closes: IntArray) -> Columns:
    if frame is None or frame.empty:
        return {}
    columns = {}
    names = frame["metric"].replace(METRIC_ALIASES)
    for metric in METRICS:
        rows = frame[(names == metric) & frame["value"].notna()]
        if len(rows):
            columns[f"onchain_{metric}"] = join_asof(closes, rows, rows["value"].to_numpy(np.float64), ONCHAIN_STALE)
    return columns


def _bar_of(frame: pd.DataFrame, closes: IntArray, step: pd.Timedelta) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return for each row the bar during which it became readable, and whether there is one."""
    available = _microseconds(frame["available_at"])
    bar = np.searchsorted(closes, available, side="left")
    inside = bar < len(closes)
    bar = np.minimum(bar, len(closes) - 1)
    return bar, inside & (closes[bar] - available < step // pd.Timedelta(microseconds=1))


def _bar_sum(bar: IntArray, values: FloatArray, length: int) -> FloatArray:
    return np.bincount(bar, weights=values, minlength=length).astype(np.float64)


def _levels(cells: Iterable) -> FloatArray:
    """Stack lists of levels to `[row, level]`, NaN beyond the depth of a row."""
    lists = [np.asarray(cell, dtype=np.float64)[: BOOK_LEVELS[-1]] for cell in cells]
    out = np.full((len(lists), BOOK_LEVELS[-1]), np.nan)
    for row, levels in enumerate(lists):
        out[row, : len(levels)] = levels
    return out


def join_book(frame: pd.DataFrame | None, closes: IntArray, step: pd.Timedelta) -> Columns:
    """Return means over each bar's snapshots; snapshots with an empty or crossed side are left out."""
    if frame is None or frame.empty or not len(closes):
        return {}
    bar, inside = _bar_of(frame, closes, step)
    figures = book_figures(*(_levels(frame[name]) for name in ("bid_prices", "bid_sizes", "ask_prices", "ask_sizes")))
    usable = inside & np.isfinite(figures["book_spread"]) & (figures["book_spread"] > 0)
    count = _bar_sum(bar[usable], np.ones(usable.sum()), len(closes))
    with np.errstate(invalid="ignore"):
        return {name: _bar_sum(bar[usable], values[usable], len(closes)) / count for name, values in figures.items()}


def book_figures(bid_price: FloatArray, bid: FloatArray, ask_price: FloatArray, ask: FloatArray) -> Columns:
    """Return the columns of snapshots given as prices and sizes `[snapshot, level]`, best level first, NaN below the last."""
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


def join_trades(frame: pd.DataFrame | None, closes: IntArray, step: pd.Timedelta) -> Columns:
    """Return the imbalance of each bar's trades by aggressor, NaN where there were none."""
    if frame is None or frame.empty or not len(closes):
        return {}
    bar, inside = _bar_of(frame, closes, step)
    size = frame["size"].to_numpy(np.float64)[inside]
    sign = np.where(frame["is_buyer_taker"].to_numpy(bool)[inside], 1.0, -1.0)
    with np.errstate(invalid="ignore"):
        flow = _bar_sum(bar[inside], sign * size, len(closes)) / _bar_sum(bar[inside], size, len(closes))
    return {"trade_flow": flow}


def _venues(panel: Panel, symbol: str, close: FloatArray, closes: IntArray) -> Columns:
    """Return `basis` of future over spot, `venue_premium` and `venue_dispersion` of other venues, `triangle` through BTC.

    A venue named `...spot...` or `...future...` is a leg of the same exchange; `triangle` is a price implied by other pairs.
    """
    tables = panel.tables.get("venue_candles", {})
    base, quote = split_symbol(symbol)
    premiums: dict[str, list[FloatArray]] = {kind: [] for kind in (*_LEGS, "other")}
    for key, frame in tables.items():
        venue, _, market = key.rpartition(":")
        if market == symbol:
            premiums[venue_leg(venue)].append(_premium(panel, frame, close, closes))
        elif market == f"{base}BTC" and f"BTC{quote}" in panel.symbols:
            through = close / panel.field("close")[panel.index_of(f"BTC{quote}")]
            premiums["triangle"].append(_premium(panel, frame, through, closes))
    return combine_premiums({kind: np.stack(parts) for kind, parts in premiums.items() if parts})


def venue_leg(venue: str) -> str:
    """Return which price a venue's name says it is: `spot`, `future`, `triangle`, or another venue's."""
    return next((leg for leg in _LEGS if leg in venue), "other")


def combine_premiums(premiums: Mapping[str, FloatArray]) -> Columns:
    """Return the cross-exchange columns of log price differences `[venue, time]` by leg."""
    columns = {}
    legs = [sign * _present_mean(premiums[leg]) for leg, sign in (("spot", -1.0), ("future", 1.0)) if leg in premiums]
    if legs:
        columns["basis"] = np.sum(legs, axis=0)
    if "triangle" in premiums:
        columns["triangle"] = _present_mean(premiums["triangle"])
    if "other" in premiums:
        columns["venue_premium"] = _present_mean(premiums["other"])
        top, bottom = np.fmax.reduce(premiums["other"], axis=0), np.fmin.reduce(premiums["other"], axis=0)
        columns["venue_dispersion"] = np.maximum(top, 0.0) - np.minimum(bottom, 0.0)
    return columns


def _present_mean(values: FloatArray) -> FloatArray:
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(seen, values, 0.0).sum(axis=0) / seen.sum(axis=0)


def _premium(panel: Panel, frame: pd.DataFrame, reference: FloatArray, closes: IntArray) -> FloatArray:
    """Return as-of each close the newest `ln(venue close / reference)` of one open, known less than a bar ago."""
    step = parse_timeframe(panel.timeframe)
    if frame.empty or not len(closes):
        return np.full(len(closes), np.nan)
    stamps = _microseconds(frame["timestamp"])
    place = np.minimum(np.searchsorted(_microseconds(panel.timestamps), stamps), len(closes) - 1)
    matched = _microseconds(panel.timestamps)[place] == stamps
    prompt = _microseconds(frame["available_at"]) - stamps < 2 * step // pd.Timedelta(microseconds=1)
    with np.errstate(all="ignore"):
        premium = np.log(frame["close"].to_numpy(np.float64) / reference[place])
    known = frame[["timestamp", "available_at"]].assign(
        available_at=frame["available_at"].where(frame["available_at"] >= frame["timestamp"] + step, frame["timestamp"] + step)
    )  # no sooner than the own close that it is compared with
    return join_asof(closes, known, np.where(matched & prompt, premium, np.nan), step)
