"""One loaded model at work for a bot: what it remembers between one bar and the next."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.data.validation import check_candles
from cryptoml.data.validation.timestamps import to_instant
from cryptoml.errors import DataError
from cryptoml.features.targets import DIRECTIONS
from cryptoml.live.adaptation import Adaptation
from cryptoml.live.outcomes import LoggedForecast, OutcomeLog
from cryptoml.live.prediction import Prediction, Refusal
from cryptoml.live.predictor import Predictor
from cryptoml.live.readings import Tables, merged_tables, trimmed_tables
from cryptoml.trading.positions import PositionBook

__all__ = ["Session"]

logger = logging.getLogger(__name__)

SPARE_BARS = 64
"""Bars kept beyond what a forecast reads, so that an adaptation has bars to learn from."""


class Session:
    """A predictor with its adaptations, recent market data, decisions and the log of their outcomes.

    Safe to call from several threads: a forecast takes predictor and adaptations once, as they are when it begins, and an
    adaptation replaces the whole tuple. Memory is changed under a lock that neither model work nor the disk holds up, and it
    never goes back: what is asked about an older bar, or answered late, replaces nothing newer.

    Args:
        predictor: The model.
        log: Where forecasts and outcomes are kept.
        rate_scale: Factor on the learned step sizes of adaptation.
    """

    def __init__(self, predictor: Predictor, log: OutcomeLog, rate_scale: float = 1.0) -> None:
        self.predictor, self.log, self._rate_scale = predictor, log, rate_scale
        self.adaptations: tuple[Adaptation, ...] = ()
        self.book = PositionBook(predictor.symbols, predictor.timeframe, predictor.trading, predictor.horizon_bars)
        self.candles: dict[str, pd.DataFrame] = {}
        self.tables: Tables = {}
        self.latest: dict[str, Prediction] = {}
        self._decided_at: dict[str, pd.Timestamp] = {}
        self._lock = threading.RLock()

    def predict(
        self, frames: Mapping[str, pd.DataFrame], readings: Tables, tables: Tables, *, now: Any = None, explain: bool = True
    ) -> dict[str, Prediction]:
        """Forecast symbols at their last closed bars and remember what was forecast and decided.

        The log takes no forecast of a bar after which another was known when it was asked for, nor one that the model learned
        from.

        Args:
            frames: Symbol -> tidy candles; bars before them that an earlier call brought are added.
            readings: Tables to remember for later calls.
            tables: Tables for this call alone.
            now: As for `Predictor.predict`.
            explain: As for `Predictor.predict`.
        """
        predictor, adaptations = self.predictor, self.adaptations
        with self._lock:
            given = {symbol: self._extended(symbol, frame) for symbol, frame in frames.items()}
            known = merged_tables(self.tables, readings)
            decided = dict(self._decided_at)
            newest = {symbol: seen["timestamp"].iloc[-1] for symbol, seen in self.candles.items() if len(seen)}
        found = predictor.predict(given, merged_tables(known, tables), now=now, adaptations=adaptations, explain=explain)
        checked = {one.symbol: self._closed(one, given) for one in found if _is_remembered(one)}
        told = [_logged(one, checked[one.symbol]) for one in found if one.refusal is None and self._is_foresight(one, newest)]
        with self._lock:
            self._decide(found, decided, self._bar_asked_at(given, now))
            self._remember(checked, merged_tables(self.tables, readings))
            kept = {symbol: self.candles[symbol] for symbol in checked}
        self.log.add(told)
        for symbol, candles in kept.items():
            self.log.settle(symbol, candles)
        return {one.symbol: one for one in found}

    def adapt(self, frames: Mapping[str, pd.DataFrame], rate_scale: float = 1.0, **options: Any) -> Adaptation:
        """Adapt to recent candles, to which remembered ones are added; where accepted, forecasts from now on follow it."""
        with self._lock:
            given = {symbol: self._extended(symbol, frame) for symbol, frame in frames.items()}
            tables = self.tables
        found = self.predictor.adapt(given, tables, rate_scale=rate_scale * self._rate_scale, **options)
        if found.accepted:
            with self._lock:
                kept = (one for one in self.adaptations if not set(one.symbols) <= set(found.symbols))
                self.adaptations = (*kept, found)
        else:
            logger.warning("adaptation of %s refused: %s", ", ".join(found.symbols), found.reason)
        return found

    def owner_of(self, frame: pd.DataFrame) -> str:
        """Return whose candles a nameless frame holds: the only symbol that is known, or the one seen with those closes.

        Raises:
            DataError: No or several symbols fit.
        """
        if len(self.predictor.symbols) == 1:
            return self.predictor.symbols[0]
        with self._lock:
            fitting = [symbol for symbol, seen in self.candles.items() if _overlap(seen, frame)]
        if len(fitting) != 1:
            raise DataError(
                f"candles must say whose they are, by symbol=, a column 'symbol' or a mapping; they fit {fitting or 'none'} "
                "of the symbols forecast before"
            )
        return fitting[0]

    def targets(self, timestamp: pd.Timestamp | None = None, drawdown: float = 0.0) -> dict[str, float]:
        """Return the position to hold of every symbol after the decisions at a bar, the newest where None."""
        with self._lock:
            bar = self.book.newest if timestamp is None else timestamp
            return dict.fromkeys(self.predictor.symbols, 0.0) if bar is None else self.book.targets(bar, drawdown)

    def recall(self, panel: Panel) -> None:
        """Remember the last bars of a panel, so that later calls may bring the bars after them alone."""
        kept = {symbol: panel.frame(symbol).tail(self.predictor.history_bars + SPARE_BARS) for symbol in panel.symbols}
        with self._lock:
            self.candles = {symbol: frame.reset_index(drop=True) for symbol, frame in kept.items()}

    def take_over(self, other: "Session") -> None:
        """Take over what another session of the timeframe remembers, but for adaptations, which belong to its model."""
        with other.at_rest():
            self.book.restored(other.book.to_dict())
            for symbol in set(self.predictor.symbols) & set(other.candles):
                self.candles[symbol] = self._merged(self.candles.get(symbol), other.candles[symbol])
            self.tables, self.latest, self._decided_at = other.tables, dict(other.latest), dict(other._decided_at)
            self.log = other.log

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Hold the memory still for the length of a `with` block."""
        with self._lock:
            yield

    def _extended(self, symbol: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Put remembered bars before those given, where no bar is missing between them."""
        seen = self.candles.get(symbol)
        if seen is None or not _has_instants(frame):
            return frame
        first = frame["timestamp"].min()
        before = seen[seen["timestamp"] < first]
        joined = len(before) > 0 and seen["timestamp"].iloc[-1] >= first - parse_timeframe(self.predictor.timeframe)
        return pd.concat([before, frame], ignore_index=True) if joined else frame

    def _merged(self, seen: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
        """Return the newest bars of both, those of `new` where both have one."""
        length = self.predictor.history_bars + SPARE_BARS
        if seen is None or seen.empty or new.empty:
            return new if seen is None or seen.empty else seen
        oldest, newest = seen["timestamp"].iloc[[0, -1]]
        if new["timestamp"].iloc[-1] >= newest and (len(new) >= length or new["timestamp"].iloc[0] <= oldest):
            return new
        both = pd.concat([seen[~seen["timestamp"].isin(new["timestamp"])], new])
        return both.sort_values("timestamp").tail(length).reset_index(drop=True)

    def _closed(self, one: Prediction, given: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Return the good bars of a symbol up to the one that was forecast, as many as later calls may need."""
        frame = given[one.symbol]
        good = check_candles(frame, symbol=one.symbol, timeframe=self.predictor.timeframe, source="candles").good
        return good[good["timestamp"] <= one.timestamp].tail(self.predictor.history_bars + SPARE_BARS)

    def _bar_asked_at(self, frames: Mapping[str, pd.DataFrame], now: Any) -> pd.Timestamp | None:
        """Return the open of the last bar that is closed at the instant of a decision, the newest one given where None."""
        stamps = [frame["timestamp"].max() for frame in frames.values() if _has_instants(frame)]
        newest = max((stamp for stamp in stamps if pd.notna(stamp)), default=None)
        if now is None:
            return newest
        step, start = parse_timeframe(self.predictor.timeframe), pd.Timestamp(0, tz="UTC") if newest is None else newest
        return start + (to_instant(now, "now") - step - start) // step * step

    def _is_foresight(self, one: Prediction, newest: Mapping[str, pd.Timestamp]) -> bool:
        """Tell whether a forecast was made before what it foretells was known, by the bars seen and by those trained on."""
        known = [bar for bar in (newest.get(one.symbol), self.predictor.known_until) if bar is not None]
        return one.timestamp is not None and all(one.timestamp >= bar for bar in known)

    def _decide(self, found: list[Prediction], before: Mapping[str, pd.Timestamp], asked_at: pd.Timestamp | None) -> None:
        """Note decisions, but for those of bars older than what was decided on before they were asked for."""
        for one in found:
            seen = one.refusal in (None, Refusal.MISSING_INPUTS)
            bar = one.timestamp if seen else asked_at
            if bar is None:
                self.latest[one.symbol] = one
                continue
            if bar < before.get(one.symbol, bar):
                continue
            if bar >= self._decided_at.get(one.symbol, bar):
                self.latest[one.symbol], self._decided_at[one.symbol] = one, bar
            if one.symbol in self.predictor.symbols:
                self.book.record(one.symbol, bar, signed_size(one))

    def _remember(self, checked: Mapping[str, pd.DataFrame], tables: Tables) -> None:
        for symbol, candles in checked.items():
            self.candles[symbol] = self._merged(self.candles.get(symbol), candles.reset_index(drop=True))
        if tables and self.candles:
            self.tables = trimmed_tables(tables, min(frame["timestamp"].iloc[0] for frame in self.candles.values()))


def signed_size(one: Prediction) -> float | None:
    """Return what a decision alone would hold, signed fraction of equity; None where there is no forecast."""
    if one.refusal is not None:
        return None
    return {"BUY": 1.0, "SELL": -1.0}.get(one.signal["action"], 0.0) * float(one.signal["position_size"])


def _is_remembered(one: Prediction) -> bool:
    return one.timestamp is not None and one.refusal in (None, Refusal.MISSING_INPUTS, Refusal.TOO_LITTLE_HISTORY)


def _logged(one: Prediction, candles: pd.DataFrame) -> LoggedForecast:
    assert one.timestamp is not None
    assert one.threshold is not None
    size = signed_size(one)
    assert size is not None
    return LoggedForecast(
        symbol=one.symbol,
        timestamp=one.timestamp,
        horizon_bars=one.horizon_bars,
        close=float(candles["close"].iloc[-1]),
        threshold=one.threshold,
        direction=DIRECTIONS.index(max(one.direction, key=lambda name: one.direction[name])) - 1,
        confidence=one.signal["confidence"],
        size=size,
    )


def _has_instants(frame: pd.DataFrame) -> bool:
    return len(frame) > 0 and isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)


def _overlap(seen: pd.DataFrame, frame: pd.DataFrame) -> bool:
    """Tell whether two frames share bars, and all of those have the same closes."""
    both = seen[["timestamp", "close"]].merge(frame[["timestamp", "close"]], on="timestamp")
    return len(both) > 0 and bool((both["close_x"] == both["close_y"]).all())
