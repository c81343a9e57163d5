"""The kept bars of a replica and all that reads or changes them, on a thread of its own."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import pandas as pd
from ray import serve

from cryptoml.errors import DataError
from cryptoml.live.predictor import Predictor
from serve.bar_log import BarLog
from serve.kept_bars import BarArrays, KeptBars
from serve.metrics import observe_batch
from serve.problems import ModelUnavailableError, ServiceError
from serve.windows import KeptWindow, WarmInputs

__all__ = ["BarKeeper", "BarStatus", "Taken"]

_LOG = logging.getLogger(__name__)
SPARE_BARS = 256
"""Bars kept beyond what a forecast reads, for adaptations and charts."""
_KEPT_MODELS = 2
_QUIET_SECONDS = 0.02
"""No bars for so long: those of one bar time are likely all here, so that features over all symbols are worth computing."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Taken:
    """What became of a caller's bars, and what is kept since."""

    added: int
    unchanged: int
    forgotten: int
    status: "BarStatus"


@dataclass(frozen=True)
class BarStatus:
    """The kept bars of one symbol.

    Attributes:
        symbol: In the lake's spelling.
        bars: How many are kept.
        missing: Bars absent between the first and the last.
        first: Open of the oldest; None without any.
        last: Open of the newest.
    """

    symbol: str
    bars: int
    missing: int
    first: datetime | None
    last: datetime | None


class BarKeeper:
    """Kept bars, durable, and the inputs that models make of them.

    Args:
        state: The service's state folder.
        timeframe: Length of a bar.
        capacity: Bars kept per symbol.

    Raises:
        DataError: The state folder cannot be read.
    """

    def __init__(self, state: str, timeframe: str, capacity: int) -> None:
        self.kept = KeptBars(timeframe, capacity)
        self._log = BarLog(state, self.kept)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bars")
        self._warm: dict[str, WarmInputs] = {}
        self._ahead: tuple[str, Predictor] | None = None
        self._until_quiet: asyncio.TimerHandle | None = None
        self._in_batches = serve.batch(max_batch_size=256, batch_wait_timeout_s=0.0)(self._commit)  # a queue of its own

    async def put(self, symbol: str, bars: BarArrays) -> Taken:
        """Keep bars; durable when this returns.

        Raises:
            ConflictError: They contradict what is kept.
            ModelUnavailableError: They could not be written.
        """
        found = await self._in_batches((symbol, bars))
        if isinstance(found, ServiceError):
            raise found
        return found

    async def _commit(self, given: list[tuple[str, BarArrays]]) -> list[Taken | ServiceError]:
        observe_batch("candles", len(given))

        def commit() -> list[Taken | ServiceError]:
            try:
                changes = self._log.commit(given)
            except DataError as error:
                refused = ModelUnavailableError(f"bars could not be written: {type(error).__name__}")
                return [refused for _ in given]
            return [
                change
                if isinstance(change, ServiceError)
                else Taken(len(change.new), change.unchanged, change.forgotten, self._status(symbol))
                for (symbol, _), change in zip(given, changes, strict=True)
            ]

        taken = await self._on_thread(commit)
        self._look_ahead([symbol for symbol, _ in given])
        return taken

    def prepare(self, version: str, predictor: Predictor) -> None:
        """Compute what a model will be asked, and keep that up with the bars from now on; blocks until it is done.

        Raises:
            BundleError: Its features are not those that this version computes.
            DataError: It has bars of another length.
        """

        def begin() -> None:
            self._compute_ahead(version, predictor)
            self._ahead = (version, predictor)

        self._thread.submit(begin).result()

    def _look_ahead(self, symbols: Sequence[str]) -> None:
        """Compute the features of new bars at once, and the whole question when no more bars come, before anybody asks."""
        if self._ahead is None:
            return
        version, predictor = self._ahead
        self._in_background(lambda: self._inputs(version, predictor).follow(symbols))
        if self._until_quiet is not None:
            self._until_quiet.cancel()
        compute = partial(self._in_background, partial(self._compute_ahead, version, predictor))
        self._until_quiet = asyncio.get_running_loop().call_later(_QUIET_SECONDS, compute)

    def _compute_ahead(self, version: str, predictor: Predictor) -> None:
        self._inputs(version, predictor).window(max(pd.Timestamp.now("UTC"), self._newest_close(predictor)))

    def _in_background(self, work: Callable[[], None]) -> None:
        def tried() -> None:
            try:
                work()
            except Exception:
                _LOG.exception("features could not be computed ahead; who asks is told why")

        self._thread.submit(tried)

    async def drop(self, symbol: str) -> None:
        """Forget a symbol's bars for good."""
        await self._on_thread(lambda: self._log.drop(symbol))

    async def status(self, symbols: tuple[str, ...]) -> list[BarStatus]:
        """Return the state of some symbols' bars, with what other replicas took."""
        return await self._on_fresh(lambda: [self._status(symbol) for symbol in symbols])

    async def bars(self, symbols: tuple[str, ...]) -> dict[str, BarArrays]:
        """Return the bars of some symbols; those without any are left out."""
        return await self._on_fresh(lambda: {name: self.kept.bars(name) for name in symbols if len(self.kept.bars(name))})

    async def window(
        self, version: str, predictor: Predictor, now: pd.Timestamp | None
    ) -> tuple[pd.Timestamp, KeptWindow | None]:
        """Return the instant that counts as now, and what a model is asked then.

        Args:
            version: Name of the model.
            predictor: Its inputs.
            now: The clock where None, at least the newest close that is kept.

        Returns:
            None instead of a window where `now` lies before a kept bar's close.
        """

        def look() -> tuple[pd.Timestamp, KeptWindow | None]:
            newest = self._newest_close(predictor)
            instant = max(pd.Timestamp.now("UTC"), newest) if now is None else now
            return instant, self._inputs(version, predictor).window(instant) if instant >= newest else None

        return await self._on_fresh(look)

    def _inputs(self, version: str, predictor: Predictor) -> WarmInputs:
        if version not in self._warm:
            self._warm[version] = WarmInputs(predictor, self.kept)
            while len(self._warm) > _KEPT_MODELS:
                self._warm.pop(next(iter(self._warm)))
        return self._warm[version]

    def _newest_close(self, predictor: Predictor) -> pd.Timestamp:
        opens = [int(bars.stamps[-1]) for name in predictor.symbols if len(bars := self.kept.bars(name))]
        return pd.Timestamp(max(opens, default=-self.kept.step) + self.kept.step, unit="us", tz="UTC")

    def _status(self, symbol: str) -> BarStatus:
        stamps = self.kept.bars(symbol).stamps
        if not len(stamps):
            return BarStatus(symbol, 0, 0, None, None)
        first, last = (pd.Timestamp(int(stamp), unit="us", tz="UTC").to_pydatetime() for stamp in stamps[[0, -1]])
        missing = int((stamps[-1] - stamps[0]) // self.kept.step) + 1 - len(stamps)
        return BarStatus(symbol, len(stamps), missing, first, last)

    async def _on_fresh(self, work: Callable[[], Found]) -> Found:
        def refreshed() -> Found:
            self._log.refresh()
            return work()

        return await self._on_thread(refreshed)

    async def _on_thread(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
