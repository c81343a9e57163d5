"""The newest bars of every symbol in memory: what may be added, and views of it.

Arrays are replaced, never written into, so that a reader in another thread sees one state or the next.
Shape legend: bar = one symbol's bars in time order; field = `CANDLE_FIELDS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.schema import parse_timeframe
from serve.problems import ConflictError

__all__ = ["BarArrays", "BarChange", "KeptBars"]

_MICROSECOND = pd.Timedelta(microseconds=1)


@dataclass(frozen=True)
class BarArrays:
    """One symbol's bars.

    Attributes:
        stamps: int64 `[bar]`, opens in microseconds since 1970, increasing.
        values: float64 `[bar, field]`; NaN where an optional column is absent.
    """

    stamps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.stamps)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> "BarArrays":
        """Take checked candles with a UTC `timestamp` column."""
        stamps = pd.DatetimeIndex(frame["timestamp"]).as_unit("us").asi8
        missing = np.full(len(frame), np.nan)
        columns = [frame[name].to_numpy(np.float64, na_value=np.nan) if name in frame else missing for name in CANDLE_FIELDS]
        return cls(stamps.copy(), np.stack(columns, axis=1))

    def frame(self) -> pd.DataFrame:
        """Return candles with a UTC `timestamp` column; optional columns without any value are left out."""
        stamps = pd.DatetimeIndex(self.stamps.view("datetime64[us]")).tz_localize("UTC")
        given = {name: self.values[:, place] for place, name in enumerate(CANDLE_FIELDS) if place < 5 or self._has(place)}
        return pd.DataFrame({"timestamp": stamps, **given})

    def tail(self, number: int) -> "BarArrays":
        """Return the newest bars, as views."""
        start = max(0, len(self) - number)
        return BarArrays(self.stamps[start:], self.values[start:])

    def opened(self, place: int) -> datetime | None:
        """Return the open of the first (0) or the last (-1) bar, UTC; None without any."""
        return pd.Timestamp(int(self.stamps[place]), unit="us", tz="UTC").to_pydatetime() if len(self) else None

    def _has(self, place: int) -> bool:
        return bool(np.isfinite(self.values[:, place]).any())


@dataclass(frozen=True)
class BarChange:
    """What a caller's bars would change.

    Attributes:
        new: Bars that follow the newest kept one, or fill a gap.
        unchanged: How many are kept already, with the same values.
        forgotten: How many are older than what is kept, and left out.
    """

    new: BarArrays
    unchanged: int
    forgotten: int


_NOTHING = BarArrays(np.empty(0, np.int64), np.empty((0, len(CANDLE_FIELDS))))


class KeptBars:
    """The newest bars of each symbol on one timeframe.

    Args:
        timeframe: Length of a bar.
        capacity: Bars kept per symbol.
    """

    def __init__(self, timeframe: str, capacity: int) -> None:
        self.timeframe = timeframe
        self.capacity = capacity
        self.step = parse_timeframe(timeframe) // _MICROSECOND
        self._bars: dict[str, BarArrays] = {}
        self._revisions: dict[str, int] = {}
        self._editions: dict[str, int] = {}
        self._changes = 0

    @property
    def symbols(self) -> list[str]:
        """Symbols of which bars are kept, sorted."""
        return sorted(self._bars)

    @property
    def changes(self) -> int:
        """How often anything changed."""
        return self._changes

    def revision(self, symbol: str) -> int:
        """Return a number that changes with the symbol's bars; 0 without any."""
        return self._revisions.get(symbol, 0)

    def edition(self, symbol: str) -> int:
        """Return a number that stays while bars are only added after the symbol's newest one."""
        return self._editions.get(symbol, 0)

    def bars(self, symbol: str) -> BarArrays:
        """Return the symbol's bars, none where it has none."""
        return self._bars.get(symbol, _NOTHING)

    def check(self, symbol: str, given: BarArrays) -> BarChange:
        """Tell what the caller's bars would change.

        Args:
            symbol: In the lake's spelling.
            given: Sound bars in time order.

        Raises:
            ConflictError: A bar is kept with other values, or comes before the first kept one.
        """
        kept = self.bars(symbol)
        if not len(kept):
            return BarChange(given, 0, 0)
        places = np.minimum(np.searchsorted(kept.stamps, given.stamps), len(kept) - 1)
        known = kept.stamps[places] == given.stamps
        self._refuse_other_values(symbol, given, kept.values[places], known)
        early = given.stamps < kept.stamps[0]
        if early.any() and len(kept) < self.capacity:
            stamp, first = _text(given.stamps[0]), _text(kept.stamps[0])
            raise ConflictError(
                f"timestamp {stamp} of {symbol} is out of order: the first kept bar is {first}, and bars must follow it "
                f"(DELETE /v1/candles/{symbol} to begin again)",
                "/timestamp/0",
            )
        new = ~known & ~early
        return BarChange(BarArrays(given.stamps[new], given.values[new]), int(known.sum()), int(early.sum()))

    def merge(self, symbol: str, given: BarArrays) -> None:
        """Take bars over; those that are kept already stay as they are."""
        kept = self.bars(symbol)
        follow = len(kept) > 0 and len(given) > 0 and given.stamps[0] > kept.stamps[-1]
        if follow or not len(kept):
            stamps, values = np.append(kept.stamps, given.stamps), np.concatenate([kept.values, given.values])
        else:
            stamps, first = np.unique(np.append(kept.stamps, given.stamps), return_index=True)
            values = np.concatenate([kept.values, given.values])[first]
        if len(stamps) > self.capacity:
            stamps, values = stamps[-self.capacity :].copy(), values[-self.capacity :].copy()
        if len(stamps) != len(kept) or (len(kept) and stamps[-1] != kept.stamps[-1]):
            self._bars[symbol] = BarArrays(stamps, values)
            self._note(symbol, new_edition=not follow)

    def drop(self, symbol: str) -> None:
        """Forget a symbol."""
        if self._bars.pop(symbol, None) is not None:
            self._note(symbol, new_edition=True)

    def panel(self, symbols: tuple[str, ...], newest: Mapping[str, int], end: int, num_bars: int) -> Panel:
        """Return the last bars of some symbols on one grid, the others absent (NaN).

        Args:
            symbols: Rows of the panel.
            newest: Symbol -> open of its last bar to show, microseconds; symbols without are absent.
            end: Open of the last bar of the grid.
            num_bars: Length of the grid.
        """
        candles = np.full((len(symbols), num_bars, len(CANDLE_FIELDS)), np.nan)
        start = end - (num_bars - 1) * self.step
        for row, symbol in enumerate(symbols):
            if symbol in newest:
                bars = self.bars(symbol)
                shown = slice(np.searchsorted(bars.stamps, start), np.searchsorted(bars.stamps, newest[symbol], side="right"))
                candles[row, (bars.stamps[shown] - start) // self.step] = bars.values[shown]
        grid = (start + self.step * np.arange(num_bars)).view("datetime64[us]")
        return Panel(symbols, self.timeframe, pd.DatetimeIndex(grid).tz_localize("UTC"), candles)

    def _note(self, symbol: str, *, new_edition: bool) -> None:
        self._changes += 1
        self._revisions[symbol] = self._changes
        if new_edition:
            self._editions[symbol] = self._changes

    def _refuse_other_values(self, symbol: str, given: BarArrays, kept: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
        both = np.isfinite(given.values) & np.isfinite(kept) & known[:, None]
        bars, columns = np.nonzero(both & (given.values != kept))
        if len(bars):
            bar, column = bars[0], columns[0]
            name, old, other = CANDLE_FIELDS[column], kept[bar, column], given.values[bar, column]
            detail = f"{name} of {symbol} at {_text(given.stamps[bar])} is kept as {old}, was {other}"
            raise ConflictError(detail, f"/{name}/{bar}")


def _text(stamp: int) -> str:
    return pd.Timestamp(int(stamp), unit="us", tz="UTC").isoformat()
