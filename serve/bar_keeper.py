"""The kept bars of a replica and all that reads or changes them, on a thread of its own."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pandas as pd
from ray import serve

from cryptoml.errors import DataError
from cryptoml.live.intake import Intake, Requirements
from cryptoml.live.predictor import Predictor
from cryptoml.live.wire import KeptStatus, TakenAnswer
from serve.bar_log import BarLog
from serve.kept_bars import BarArrays, BarChange, KeptBars
from serve.metrics import observe_batch
from serve.problems import ModelUnavailableError, ServiceError
from serve.windows import KeptWindow, WarmInputs, judge

__all__ = ["BarKeeper"]

_LOG = logging.getLogger(__name__)
SPARE_BARS = 256
"""Bars kept beyond what a forecast reads, for adaptations and charts."""
_KEPT_MODELS = 2
_QUIET_SECONDS = 1.0
"""No bars for so long: symbols whose bar is still missing are late, and the question is worth computing without them."""
Found = TypeVar("Found")


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

    async def put(self, symbol: str, bars: BarArrays) -> TakenAnswer:
        """Keep bars; durable when this returns.

        Raises:
            ConflictError: They contradict what is kept.
            ModelUnavailableError: They could not be written.
        """
        found = await self._in_batches((symbol, bars))
        if isinstance(found, ServiceError):
            raise found
        return found

    async def _commit(self, given: list[tuple[str, BarArrays]]) -> list[TakenAnswer | ServiceError]:
        observe_batch("candles", len(given))

        def commit() -> list[TakenAnswer | ServiceError]:
            try:
                changes = self._log.commit(given)
            except DataError as error:
                refused = ModelUnavailableError(f"bars could not be written: {type(error).__name__}")
                return [refused for _ in given]
            return [
                change if isinstance(change, ServiceError) else self._taken(symbol, change)
                for (symbol, _), change in zip(given, changes, strict=True)
            ]

        taken = await self._on_thread(commit)
        self._look_ahead([symbol for symbol, _ in given])
        return taken

    def prepare(self, version: str, predictor: Predictor) -> None:
        """Compute what a model will be asked, so that its first answer is no slower than the next; blocks until it is done.

        It goes on symbol by symbol, so that requests and bars for the present model get their turns.

        Raises:
            BundleError: Its features are not those that this version computes.
            DataError: It has bars of another length.
        """

        for symbol in predictor.symbols:
            self._thread.submit(lambda name: self._inputs(version, predictor).follow([name]), symbol).result()
        self._thread.submit(self._compute_ahead, version, predictor).result()

    def _look_ahead(self, symbols: Sequence[str]) -> None:
        """Compute the features of new bars at once, and the whole question when all are here, for the model asked last."""
        if self._ahead is None:
            return
        version, predictor = self._ahead

        def follow() -> None:
            inputs = self._inputs(version, predictor)
            inputs.follow(symbols)
            if inputs.all_here():
                self._compute_ahead(version, predictor)

        self._in_background(follow)
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

    async def status(self, symbols: Sequence[str], needs: Requirements) -> list[KeptStatus]:
        """Return the state of some symbols' bars, with what other replicas took, against the clock and a model's needs."""
        now = pd.Timestamp.now("UTC")
        return await self._on_fresh(lambda: [self._status(symbol, needs, now) for symbol in symbols])

    async def bars(self, symbols: tuple[str, ...]) -> dict[str, BarArrays]:
        """Return the bars of some symbols; those without any are left out."""
        return await self._on_fresh(lambda: {name: self.kept.bars(name) for name in symbols if len(self.kept.bars(name))})

    def intake(self, predictor: Predictor) -> Intake:
        """Return which symbols can be forecast now and which cannot; blocks, for threads beside the event loop."""

        def look() -> Intake:
            self._log.refresh()
            return judge(predictor, self.kept, pd.Timestamp.now("UTC"))

        return self._thread.submit(look).result()

    async def window(
        self, version: str, predictor: Predictor, now: pd.Timestamp | None, past: int = 0
    ) -> tuple[pd.Timestamp, KeptWindow | None]:
        """Return the instant that counts as now, and what a model is asked then.

        Args:
            version: Name of the model.
            predictor: Its inputs.
            now: The clock where None, at least the newest close that is kept.
            past: Bars before the newest one to ask about too.

        Returns:
            None instead of a window where `now` lies before a kept bar's close.
        """

        def look() -> tuple[pd.Timestamp, KeptWindow | None]:
            self._ahead = (version, predictor)
            newest = self._newest_close(predictor)
            instant = max(pd.Timestamp.now("UTC"), newest) if now is None else now
            return instant, self._inputs(version, predictor).window(instant, past) if instant >= newest else None

        return await self._on_fresh(look)

    def _inputs(self, version: str, predictor: Predictor) -> WarmInputs:
        found = self._warm.pop(version) if version in self._warm else WarmInputs(predictor, self.kept)
        self._warm[version] = found  # the last one used is last
        while len(self._warm) > _KEPT_MODELS:
            self._warm.pop(next(iter(self._warm)))
        return found

    def _newest_close(self, predictor: Predictor) -> pd.Timestamp:
        opens = [int(bars.stamps[-1]) for name in predictor.symbols if len(bars := self.kept.bars(name))]
        return pd.Timestamp(max(opens, default=-self.kept.step) + self.kept.step, unit="us", tz="UTC")

    def _taken(self, symbol: str, change: BarChange) -> TakenAnswer:
        kept = self.kept.bars(symbol)
        return TakenAnswer(
            symbol=symbol,
            added=len(change.new),
            unchanged=change.unchanged,
            forgotten=change.forgotten,
            bars=len(kept),
            last_bar=kept.opened(-1),
        )

    def _status(self, symbol: str, needs: Requirements, now: pd.Timestamp) -> KeptStatus:
        bars = self.kept.bars(symbol)
        last = bars.opened(-1)
        return KeptStatus(
            symbol=symbol,
            timeframe=self.kept.timeframe,
            bars=len(bars),
            missing=int((bars.stamps[-1] - bars.stamps[0]) // self.kept.step) + 1 - len(bars) if len(bars) else 0,
            first_bar=bars.opened(0),
            last_bar=last,
            fresh=last is not None and (now - last) // needs.step - 1 <= needs.max_age_bars,
            enough=len(bars) >= needs.history_bars,
        )

    async def _on_fresh(self, work: Callable[[], Found]) -> Found:
        def refreshed() -> Found:
            self._log.refresh()
            return work()

        return await self._on_thread(refreshed)

    async def _on_thread(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
