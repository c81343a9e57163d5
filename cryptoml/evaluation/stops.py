"""Stop loss and take profit resolved inside the bar, vectorised over symbols.

A trade is a run of bars whose position keeps its sign. Both levels are measured from the open at which it began, with
the distances decided at the close before. After an exit the symbol stays flat until the target changes its sign (or
goes flat): a signal that was stopped out is not entered again by itself.

Inside a bar the order of high and low is unknown, so the pessimistic one is assumed: where both levels are touched
the stop is hit first; a stop that the open has already passed fills at that worse open; a target fills at its
level even where the open is better.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["StoppedTrades", "resolve_stops", "run_starts"]


class StoppedTrades(NamedTuple):
    """Positions after stops.

    Attributes:
        position: `[asset, time]`, zero from the bar after an exit until the run ends.
        exited: Bool `[asset, time]`: the position was closed inside this bar.
        exit_price: `[asset, time]`, NaN where not exited.
    """

    position: np.ndarray
    exited: np.ndarray
    exit_price: np.ndarray


class Prices(NamedTuple):
    """Open, high and low `[asset, time]`, NaN where the bar is absent."""

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray


def run_starts(position: np.ndarray) -> np.ndarray:
    """Return bool `[asset, time]`: the sign differs from the bar before (the first bar always starts a run)."""
    side = np.sign(position)
    starts = np.ones(position.shape, dtype=bool)
    starts[:, 1:] = side[:, 1:] != side[:, :-1]
    return starts


def resolve_stops(position: np.ndarray, prices: Prices, stop_pct: np.ndarray, take_pct: np.ndarray) -> StoppedTrades:
    """Close positions whose stop or target is touched.

    Args:
        position: Position held from the open of each bar `[asset, time]`.
        prices: Candles of the same bars; an absent bar touches nothing.
        stop_pct: Stop distance decided before the open of each bar, fraction of price `[asset, time]`; NaN for none.
        take_pct: Target distance likewise.
    """
    began = _run_start_index(position)
    entry, stop, take = (np.take_along_axis(values, began, axis=1) for values in (prices.open, stop_pct, take_pct))
    side = np.sign(position)
    stop_price, take_price = entry * (1 - side * stop), entry * (1 + side * take)
    long = side > 0
    stopped = np.where(long, prices.low <= stop_price, prices.high >= stop_price) & (side != 0)
    taken = np.where(long, prices.high >= take_price, prices.low <= take_price) & (side != 0)
    first, after = _first_in_run(stopped | taken, began)
    gapped = np.where(long, np.fmin(prices.open, stop_price), np.fmax(prices.open, stop_price))
    exit_price = np.where(first, np.where(stopped, gapped, take_price), np.nan)
    return StoppedTrades(np.where(after, 0.0, position), first, exit_price)


def _run_start_index(position: np.ndarray) -> np.ndarray:
    bars = np.arange(position.shape[1])
    return np.maximum.accumulate(np.where(run_starts(position), bars, 0), axis=1)


def _first_in_run(hit: np.ndarray, began: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where a run is hit for the first time, and which of its bars come after that."""
    total = np.cumsum(hit, axis=1)
    before_run = np.take_along_axis(total - hit, began, axis=1)
    earlier = total - hit - before_run
    return hit & (earlier == 0), earlier > 0
