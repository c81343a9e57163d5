"""Funding payments of perpetuals on the grid of bars."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe

__all__ = ["Funding", "funding_rates"]

_STAMP_DELAY = pd.Timedelta(minutes=1)  # exchanges stamp a payment of 08:00 some milliseconds to seconds late


class Funding(NamedTuple):
    """Rates that longs pay shorts, fractions of notional `[asset, time]`, 0 where nothing is due.

    Attributes:
        at_open: Due as the bar opens: the position of the bar before pays, before the fill at that open.
        inside: Due later in the bar: the position that is held from the open pays.
    """

    at_open: np.ndarray
    inside: np.ndarray


def funding_rates(panel: Panel) -> Funding | None:
    """Put the funding table on the grid, each payment into the bar that holds its stamp.

    A stamp up to a minute after the open counts as the open. None where the panel has no funding table; a symbol without
    one pays nothing.
    """
    table = panel.tables.get("funding")
    if not table:
        return None
    funding = Funding(np.zeros(panel.present.shape), np.zeros(panel.present.shape))
    for row, symbol in enumerate(panel.symbols):
        if symbol in table:
            _add_rates(funding, row, table[symbol], panel)
    return funding


def _add_rates(funding: Funding, row: int, frame: pd.DataFrame, panel: Panel) -> None:
    stamps = pd.DatetimeIndex(frame["timestamp"])
    bars = panel.timestamps.searchsorted(stamps, side="right") - 1
    known = (bars >= 0) & (stamps < panel.timestamps[-1] + parse_timeframe(panel.timeframe))
    bars, stamps, rates = bars[known], stamps[known], frame["funding_rate"].to_numpy(dtype=np.float64)[known]
    opening = stamps - panel.timestamps[bars] <= _STAMP_DELAY
    np.add.at(funding.at_open[row], bars[opening], rates[opening])
    np.add.at(funding.inside[row], bars[~opening], rates[~opening])
