"""A bot's own forecasts and what became of them, in a log that outlives the process.

The log is a file of JSON lines, appended and synced to disk as things happen: a `forecast` when it is made, an `outcome` once
the candles after it are known. A forecast that is made again for the same bar replaces the first, until its outcome is known.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import BundleError

__all__ = ["LoggedForecast", "Outcome", "OutcomeLog"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedForecast:
    """One forecast as it was made.

    Attributes:
        symbol: In the lake's spelling.
        timestamp: Open of the bar at whose close it was made, UTC.
        horizon_bars: Bars that it looks ahead.
        close: Close of that bar.
        threshold: Log return beyond which the move counts as UP or DOWN.
        direction: The most probable of -1 DOWN, 0 SIDEWAYS, 1 UP.
        confidence: Calibrated probability of the likelier of UP and DOWN.
        size: What the decision alone would hold, signed fraction of equity.
    """

    symbol: str
    timestamp: pd.Timestamp
    horizon_bars: int
    close: float
    threshold: float
    direction: int
    confidence: float
    size: float


@dataclass(frozen=True)
class Outcome:
    """What came of a forecast; a number is None where its bar never was.

    Attributes:
        first_open: Open of the next bar, where the decision is filled.
        second_open: Open of the one after that.
        final_close: Close of the last bar of the horizon.
    """

    first_open: float | None
    second_open: float | None
    final_close: float | None


class OutcomeLog:
    """The forecasts of a bot with what came of them. Safe to use from several threads; who reads never waits for the disk.

    Args:
        path: The file; made by the first forecast. None keeps the log in memory alone.
        timeframe: Length of a bar.

    Raises:
        BundleError: The file is damaged; the message names the line. A last line that was never finished is dropped.
    """

    def __init__(self, path: Path | None, timeframe: str) -> None:
        self._path, self._step, self.timeframe = path, parse_timeframe(timeframe), timeframe
        self._forecasts: dict[tuple[str, int], LoggedForecast] = {}  # by symbol and nanoseconds, which hash quickly
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._open: dict[str, set[pd.Timestamp]] = {}
        self._memory, self._disk = threading.Lock(), threading.Lock()  # the second is taken first
        self._unwritten = ""
        if path is not None and path.is_file():
            self._replay(path)

    def __len__(self) -> int:
        return len(self._forecasts)

    @property
    def forecasts(self) -> list[LoggedForecast]:
        """All of them, oldest first as they were made."""
        with self._memory:
            return list(self._forecasts.values())

    @property
    def settled(self) -> list[tuple[LoggedForecast, Outcome]]:
        """Those whose outcome is known, with it."""
        with self._memory:
            return [(self._forecasts[key], outcome) for key, outcome in self._outcomes.items()]

    def add(self, forecasts: Iterable[LoggedForecast]) -> None:
        """Note forecasts, in one write; those whose outcome is known stand as they are."""
        with self._disk:
            with self._memory:
                fresh = [one for one in forecasts if self._is_new(one)]
                for one in fresh:
                    self._take(one)
            self._append({"kind": "forecast", **asdict(one), "timestamp": one.timestamp.isoformat()} for one in fresh)

    def settle(self, symbol: str, candles: pd.DataFrame) -> None:
        """Note the outcomes of a symbol's forecasts that closed candles show.

        A bar that is missing may still come as long as `candles` reach back to the forecast's bar; later it counts as never
        having been.
        """
        with self._disk:
            with self._memory:
                found = self._settled_by(symbol, candles)
                for stamp, outcome in found:
                    self._take_outcome(symbol, stamp, outcome)
            self._append(
                {"kind": "outcome", "symbol": symbol, "timestamp": stamp.isoformat(), **asdict(one)} for stamp, one in found
            )

    def mark(self) -> dict[str, Any]:
        """Return length and SHA-256 of the file as it is, by which `check` knows it again."""
        with self._disk:
            self._append(())
            content = self._path.read_bytes() if self._path is not None and self._path.is_file() else b""
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def check(self, mark: Mapping[str, Any]) -> Self:
        """Make sure that what `mark` saw is still there, unchanged; return the log.

        Raises:
            BundleError: It is not.
        """
        content = self._path.read_bytes()[: mark["bytes"]] if self._path is not None and self._path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise BundleError(
                f"{self._path}: the first {mark['bytes']} bytes must have sha256 {mark['sha256']} as when the state was saved"
            )
        return self

    def _is_new(self, one: LoggedForecast) -> bool:
        key = one.symbol, one.timestamp.value
        return key not in self._outcomes and self._forecasts.get(key) != one

    def _settled_by(self, symbol: str, candles: pd.DataFrame) -> list[tuple[pd.Timestamp, Outcome]]:
        waiting = sorted(self._open.get(symbol, ()))
        if not waiting or candles.empty:
            return []
        oldest, recent = candles["timestamp"].iloc[0], candles[candles["timestamp"] >= waiting[0]]
        bars = {stamp: (float(opened), float(closed)) for stamp, opened, closed in _rows(recent)}
        known = [(stamp, self._outcome(self._forecasts[symbol, stamp.value], bars, oldest)) for stamp in waiting]
        return [(stamp, outcome) for stamp, outcome in known if outcome is not None]

    def _outcome(
        self, one: LoggedForecast, bars: Mapping[pd.Timestamp, tuple[float, float]], oldest: pd.Timestamp
    ) -> Outcome | None:
        if not bars or max(bars) < one.timestamp + max(2, one.horizon_bars) * self._step:
            return None
        first, second, final = (bars.get(one.timestamp + ahead * self._step) for ahead in (1, 2, one.horizon_bars))
        if None in (first, second, final) and oldest <= one.timestamp:
            return None
        return Outcome(first and first[0], second and second[0], final and final[1])

    def _take(self, one: LoggedForecast) -> None:
        key = one.symbol, one.timestamp.value
        self._forecasts[key] = one
        if key not in self._outcomes:
            self._open.setdefault(one.symbol, set()).add(one.timestamp)

    def _take_outcome(self, symbol: str, stamp: pd.Timestamp, outcome: Outcome) -> None:
        self._outcomes[symbol, stamp.value] = outcome
        self._open[symbol].discard(stamp)

    def _append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records, after those that could not be written before."""
        text = self._unwritten + "".join(json.dumps(record) + "\n" for record in records)
        if not text or self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _append_whole(self._path, text.encode())
            self._unwritten = ""
        except OSError as error:
            self._unwritten = text
            lost = text.count("\n")
            logger.error(
                "%s cannot be written, %d lines wait and are lost with the process: %s", self._path, lost, error.strerror
            )

    def _replay(self, path: Path) -> None:
        try:
            text = path.read_text()
        except UnicodeDecodeError as error:
            damaged = path.read_bytes()[: error.start].count(b"\n") + 1
            raise BundleError(f"{path}: line {damaged} is damaged: {error}") from None
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                logger.warning("%s: line %d was never finished and is dropped", path, number)
                os.truncate(path, len(text.encode()) - len(line.encode()))
                return
            try:
                self._read(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise BundleError(f"{path}: line {number} is damaged: {error}") from None

    def _read(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise TypeError(f"a record must be an object, was {record!r}")
        kind, stamp = record.pop("kind"), pd.Timestamp(record.pop("timestamp"))
        if stamp.tzinfo is None:
            raise ValueError(f"timestamp must have a timezone, was {stamp}")
        if kind == "forecast":
            self._take(_checked(LoggedForecast(timestamp=stamp, **record)))
        else:
            self._take_outcome(record.pop("symbol"), stamp, Outcome(**record))


def _append_whole(path: Path, content: bytes) -> None:
    """Append all of `content` and sync it, or leave the file as it was."""
    with path.open("ab", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), length)
            raise


def _checked(one: LoggedForecast) -> LoggedForecast:
    for name in ("close", "threshold", "confidence", "size"):
        if not isinstance(getattr(one, name), int | float):
            raise TypeError(f"{name} must be a number, was {getattr(one, name)!r}")
    return one


def _rows(candles: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, float, float]]:
    return zip(candles["timestamp"], candles["open"], candles["close"], strict=True)
