"""Bring slower and external tables onto a symbol's bars: as-of `available_at`, at the bar's close, never on labels.

A row is used by bar t when `available_at <= timestamp_t + timeframe`. Each table has a staleness limit, after which its
last row no longer counts and the column is NaN.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.bar_tables import REDUCED, book_bars, trade_bars
from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import OWN_VENUE, parse_timeframe, split_symbol
from cryptoml.features.contract import Bars
from cryptoml.features.onchain import METRIC_ALIASES, METRICS

__all__ = [
    "FUNDING_STALE",
    "ONCHAIN_STALE",
    "bars_from_panel",
    "combine_premiums",
    "join_asof",
    "join_book",
    "join_trades",
    "venue_leg",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Columns = dict[str, FloatArray]

FUNDING_STALE = pd.Timedelta(hours=24)
ONCHAIN_STALE = pd.Timedelta(days=4)
_LEGS = ("spot", "future", "triangle")


def bars_from_panel(panel: Panel, symbol: str) -> Bars:
    """Return one symbol's bars with every table of the panel joined to them."""
    row = panel.index_of(symbol)
    columns = {name: np.ascontiguousarray(panel.candles[row, :, index]) for index, name in enumerate(CANDLE_FIELDS)}
    closes = _microseconds(panel.timestamps + parse_timeframe(panel.timeframe))
    step = parse_timeframe(panel.timeframe)
    base, _ = split_symbol(symbol)
    columns |= _funding(panel.tables.get("funding", {}).get(symbol), closes)
    columns |= _onchain(panel.tables.get("onchain", {}).get(base), closes)
    columns |= join_book(_own(panel, "orderbook", symbol), closes, step)
    columns |= join_trades(_own(panel, "trades", symbol), closes, step)
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


def _own(panel: Panel, ticks: str, symbol: str) -> pd.DataFrame | None:
    """Return the bars of a symbol's ticks, else the ticks themselves."""
    bars = panel.tables.get(REDUCED[ticks].name, {}).get(symbol)
    return panel.tables.get(ticks, {}).get(symbol) if bars is None else bars


def join_book(frame: pd.DataFrame | None, closes: IntArray, step: pd.Timedelta) -> Columns:
    """Return means over each bar's snapshots; snapshots with an empty or crossed side are left out.

    Args:
        frame: Snapshots, or bars in the schema `BOOK_BARS`.
        closes: `[time]` closes of the bars, microseconds since 1970.
        step: Length of a bar.
    """
    if frame is None or frame.empty or not len(closes):
        return {}
    bars = frame if "num_snapshots" in frame else book_bars(frame, step, _first_close(closes))
    return {name: _at_closes(bars, name, closes) for name in bars.columns if name.startswith("book_")}


def join_trades(frame: pd.DataFrame | None, closes: IntArray, step: pd.Timedelta) -> Columns:
    """Return the imbalance of each bar's trades by aggressor, NaN where there were none.

    Args:
        frame: Single trades, or bars in the schema `TRADE_BARS`.
        closes: `[time]` closes of the bars, microseconds since 1970.
        step: Length of a bar.
    """
    if frame is None or frame.empty or not len(closes):
        return {}
    bars = frame if "bought" in frame else trade_bars(frame, step, _first_close(closes))
    bought, sold = (_at_closes(bars, name, closes) for name in ("bought", "sold"))
    with np.errstate(invalid="ignore"):
        return {"trade_flow": (bought - sold) / (bought + sold)}


def _first_close(closes: IntArray) -> pd.Timestamp:
    return pd.Timestamp(closes[0], unit="us", tz="UTC")


def _at_closes(bars: pd.DataFrame, name: str, closes: IntArray) -> FloatArray:
    """Return a column of bars by their closes, NaN where there is no bar."""
    known = _microseconds(bars["available_at"])
    place = np.minimum(np.searchsorted(closes, known), len(closes) - 1)
    met = closes[place] == known
    out = np.full(len(closes), np.nan)
    out[place[met]] = bars[name].to_numpy(np.float64)[met]
    return out


def _venues(panel: Panel, symbol: str, close: FloatArray, closes: IntArray) -> Columns:
    """Return `basis` of future over spot, `venue_premium` and `venue_dispersion` of other venues, `triangle` through BTC.

    A venue named `...spot...` or `...future...` is a leg of the same exchange; `triangle` is a price implied by other pairs:
    base/BTC at any venue, the own one included, times BTC/quote.
    """
    base, quote = split_symbol(symbol)
    bitcoin = _own_close(panel, f"BTC{quote}", closes)
    premiums: dict[str, list[FloatArray]] = {kind: [] for kind in (*_LEGS, "other")}
    for key, frame in panel.tables.get("venue_candles", {}).items():
        venue, _, market = key.rpartition(":")
        if market == symbol:
            premiums[venue_leg(venue)].append(_premium(panel, frame, close, closes))
        elif market == f"{base}BTC" and bitcoin is not None:
            premiums["triangle"].append(_premium(panel, frame, close / bitcoin, closes))
    if f"{base}BTC" in panel.symbols and bitcoin is not None:
        own = panel.field("close")[panel.index_of(f"{base}BTC")]
        premiums["triangle"].append(np.log(own * bitcoin / close))
    return combine_premiums({kind: np.stack(parts) for kind, parts in premiums.items() if parts})


def _own_close(panel: Panel, symbol: str, closes: IntArray) -> FloatArray | None:
    """Return the closes of another market of the traded venue, whether the panel holds it or only refers to it."""
    if symbol in panel.symbols:
        return panel.field("close")[panel.index_of(symbol)]
    frame = panel.tables.get("venue_candles", {}).get(f"{OWN_VENUE}:{symbol}")
    return None if frame is None else _at_closes(frame, "close", closes)


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
