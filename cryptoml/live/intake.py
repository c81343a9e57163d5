"""Candles as a caller hands them over, made fit for a forecast or refused with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel, panel_from_frames
from cryptoml.data.schema import normalise_symbol, parse_timeframe
from cryptoml.data.validation import REASONS, CandleCheck, check_candles
from cryptoml.errors import ConfigError, DataError
from cryptoml.live.prediction import Refusal

__all__ = ["Intake", "Requirements", "admit", "live_panel", "panel_of"]


@dataclass(frozen=True)
class Requirements:
    """What a forecast needs of candles.

    Attributes:
        symbols: Symbols that the model knows, in its order.
        timeframe: Length of a bar.
        history_bars: Bars that features, volatility and the model's context reach back.
        max_age_bars: Whole bars that may have closed since the last one given, and it still counts as fresh.
        more_bars: Bars before that history to keep where they are given.
    """

    symbols: tuple[str, ...]
    timeframe: str
    history_bars: int
    max_age_bars: int
    more_bars: int = 0

    @property
    def step(self) -> pd.Timedelta:
        """Length of a bar."""
        return parse_timeframe(self.timeframe)

    def first_bar(self, last: pd.Timestamp) -> pd.Timestamp:
        """Return the open of the first bar that a forecast at the bar `last` reads."""
        return last - (self.history_bars - 1) * self.step


@dataclass(frozen=True)
class Intake:
    """Candles by normalised symbol, each either usable or refused.

    Attributes:
        order: Symbols in the caller's order.
        usable: Closed bars, sorted, as far back as forecasts reach.
        last_open: Open of the last closed bar where there is one.
        refused: Reason and a sentence for a reader.
    """

    order: tuple[str, ...]
    usable: Mapping[str, pd.DataFrame]
    last_open: Mapping[str, pd.Timestamp]
    refused: Mapping[str, tuple[Refusal, str]]

    def chosen(self, symbols: Sequence[str] | None) -> tuple[str, ...]:
        """Return the usable ones of `symbols`, of all where None.

        Raises:
            DataError: A symbol was not given, or none of them can be used.
        """
        wanted = self.order if symbols is None else tuple(_spelled(symbol) for symbol in symbols)
        absent = [symbol for symbol in wanted if symbol not in self.order]
        if absent:
            raise DataError(f"symbols must be among the candles given, {list(self.order)}, was {absent[0]}")
        usable = tuple(symbol for symbol in wanted if symbol in self.usable)
        if not usable:
            reasons = "; ".join(f"{symbol}: {self.refused[symbol][1]}" for symbol in wanted)
            raise DataError(f"symbols must hold one whose candles can be used; {reasons or 'none was named'}")
        return usable


def admit(frames: Mapping[str, pd.DataFrame], needs: Requirements, now: pd.Timestamp | None) -> Intake:
    """Check each symbol's candles; bars that are not closed at `now` (newest close where None) are left out.

    Raises:
        DataError: No symbol, one symbol twice, a missing column, naive timestamps, another timeframe, or bars of the future:
            after `now`, or where that is None, after the present and a gap.
    """
    named = _normalised(frames)
    checks = {
        symbol: check_candles(frame, symbol=symbol, timeframe=needs.timeframe, source="candles")
        for symbol, frame in named.items()
        if symbol in needs.symbols
    }
    now = _newest_close(checks, needs) if now is None else now
    usable, last_open, refused = {}, {}, {}
    for symbol in named:
        if symbol not in checks:
            refused[symbol] = (Refusal.NEVER_TRAINED, f"the model was never trained on {symbol}")
            continue
        closed = _closed(checks[symbol].good, symbol, needs, now)
        if len(closed):
            last_open[symbol] = closed["timestamp"].iloc[-1]
        verdict = _refusal(closed, checks[symbol].quarantine, needs, now)
        if verdict is None:
            first = needs.first_bar(last_open[symbol]) - (needs.max_age_bars + needs.more_bars) * needs.step
            usable[symbol] = closed[closed["timestamp"] >= first]
        else:
            refused[symbol] = verdict
    return Intake(tuple(named), usable, last_open, refused)


def live_panel(intake: Intake, needs: Requirements, tables: Mapping[str, Mapping[str, pd.DataFrame]] | None) -> Panel:
    """Return a panel of all symbols that the model knows, in its order; those without usable candles are absent (NaN)."""
    return panel_of(needs.symbols, intake.usable, needs.timeframe, tables)


def panel_of(
    symbols: tuple[str, ...],
    frames: Mapping[str, pd.DataFrame],
    timeframe: str,
    tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
) -> Panel:
    """Return a panel of `symbols` in their order from checked candles of some of them; the others are absent (NaN)."""
    given = panel_from_frames({name: frames[name] for name in symbols if name in frames}, timeframe)
    candles = np.full((len(symbols), *given.candles.shape[1:]), np.nan)
    candles[[symbols.index(name) for name in given.symbols]] = given.candles
    return Panel(symbols, timeframe, given.timestamps, candles, tables or {})


def _normalised(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    if not frames:
        raise DataError("frames must hold at least one symbol, was empty")
    named: dict[str, pd.DataFrame] = {}
    for symbol, frame in frames.items():
        name = _spelled(symbol)
        if name in named:
            raise DataError(f"frames hold {name} twice, the second time as {symbol!r}")
        named[name] = frame if "timestamp" in frame.columns else frame.rename_axis("timestamp").reset_index()
    return named


def _spelled(symbol: str) -> str:
    try:
        return normalise_symbol(symbol)
    except ConfigError as error:
        raise DataError(str(error)) from None


def _newest_close(checks: Mapping[str, CandleCheck], needs: Requirements) -> pd.Timestamp:
    """Return the close of the newest bar of all, good or bad."""
    newest = pd.Timestamp(0, tz="UTC")
    for symbol, check in checks.items():
        leaps = check.quarantine.loc[check.quarantine["reason"] == "future_leap", "timestamp"]
        if len(leaps):
            raise DataError(f"timestamp of {symbol} reaches {leaps.max()}: {REASONS['future_leap']}")
        stamps = pd.concat([check.good["timestamp"], check.quarantine["timestamp"]]).dropna()
        newest = max(newest, stamps.max()) if len(stamps) else newest
    return newest + needs.step


def _closed(good: pd.DataFrame, symbol: str, needs: Requirements, now: pd.Timestamp) -> pd.DataFrame:
    """Drop the one bar that may be unfinished at `now`."""
    ahead = good["timestamp"] > now
    if ahead.any():
        raise DataError(f"timestamp of {symbol} reaches {good['timestamp'].iloc[-1]}, which is after {now}")
    return good[good["timestamp"] + needs.step <= now]


def _refusal(
    closed: pd.DataFrame, quarantine: pd.DataFrame, needs: Requirements, now: pd.Timestamp
) -> tuple[Refusal, str] | None:
    """Return why a known symbol cannot be forecast, the first reason that applies."""
    bad = _in_reach(quarantine, closed, needs, now)
    if len(bad):
        worst = bad.iloc[-1]
        cause = f"{worst['column']} of {worst['timestamp']} is {worst['value']}: {REASONS[worst['reason']]}"
        return Refusal.INVALID_CANDLES, f"{len(bad)} candles in reach are bad, {cause}"
    if closed.empty or closed["timestamp"].iloc[0] > needs.first_bar(closed["timestamp"].iloc[-1]):
        return Refusal.TOO_LITTLE_HISTORY, f"{needs.history_bars} closed bars of history are needed, {len(closed)} were given"
    age = (now - closed["timestamp"].iloc[-1]) // needs.step - 1
    if age > needs.max_age_bars:
        return Refusal.STALE, f"the newest closed candle is {age} bars old, at most {needs.max_age_bars} are allowed"
    return None


def _in_reach(quarantine: pd.DataFrame, closed: pd.DataFrame, needs: Requirements, now: pd.Timestamp) -> pd.DataFrame:
    """Return the bad rows that a forecast would have read, or whose instant is unknown."""
    stamps = quarantine["timestamp"]
    old = stamps < needs.first_bar(closed["timestamp"].iloc[-1]) if len(closed) else stamps != stamps
    unfinished = stamps + needs.step > now
    return quarantine[~(old | unfinished)]
