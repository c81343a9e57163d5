"""Signals from a served model: one question to `POST /v1/signals` per bar."""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.live.client import ServiceClient
from cryptoml.live.signal_source import COLUMNS, present_candles
from cryptoml.live.wire import Signal

__all__ = ["EndpointSignals"]

logger = logging.getLogger(__name__)

FIELDS = ("open", "high", "low", "close", "volume")
KEPT_ANSWERS = 10_000


class EndpointSignals:
    """Signals of a service that runs `serve.app`, as a `SignalSource`.

    The service forecasts the last bar of what it is given, so every bar is a request with `history_bars` candles per symbol:
    quick for the few newest bars that a running bot needs, slow over a long backtest. Equal questions are asked once.

    Args:
        url: Such as `"http://127.0.0.1:8000"`.
        key: API key; the environment's `CRYPTOML_API_KEY` where None.
        timeout_s: Longest wait for an answer.

    Raises:
        DataError: The service refuses, with its reason.
        OSError: It cannot be reached.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 30.0) -> None:
        self._client = ServiceClient(url, key or os.environ.get("CRYPTOML_API_KEY"), timeout_s=timeout_s)
        self._url = url.rstrip("/")
        self._answers: OrderedDict[bytes, list[Signal]] = OrderedDict()
        try:
            info = self._client.model()
        except BaseException:
            self.close()
            raise
        self.symbols: tuple[str, ...] = tuple(info.symbols)
        self.timeframe: str = info.timeframe
        self.history_bars: int = info.history_bars
        self.holding_bars: int = info.holding_bars

    def close(self) -> None:
        """Close the connections; without, they end with the process."""
        self._client.close()

    def signals(self, symbol: str, frames: Mapping[str, pd.DataFrame], newest: int | None = None) -> pd.DataFrame:
        """As `SignalSource.signals` says."""
        known = {name: present_candles(frame, name, self.timeframe) for name, frame in frames.items() if name in self.symbols}
        stamps = (
            known[symbol]["timestamp"].iloc[self.history_bars - 1 :]
            if symbol in known
            else pd.Series(dtype="datetime64[us, UTC]")
        )
        wanted = stamps if newest is None else stamps.iloc[-newest:]
        if len(wanted) > self.holding_bars:
            logger.info("asking %s for %d bars of %s, one by one", self._url, len(wanted), symbol)
        rows = [self._at(bar, symbol, known) for bar in wanted]
        table = pd.DataFrame(rows, index=pd.DatetimeIndex(wanted, name="timestamp"), columns=list(COLUMNS))
        numbers = [name for name in COLUMNS if name not in ("action", "market_regime")]
        return table.astype(dict.fromkeys(numbers, float))

    def _at(self, bar: pd.Timestamp, symbol: str, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
        """Return the answer for one symbol at one bar."""
        step = parse_timeframe(self.timeframe)
        first = bar - (self.history_bars - 1) * step
        wanted = ["timestamp", *FIELDS]
        cut = {name: frame.loc[frame["timestamp"].between(first, bar), wanted] for name, frame in frames.items()}
        history = {name: frame for name, frame in cut.items() if len(frame)}
        return next(one for one in self._asked_once(history, bar + step) if one.symbol == symbol).model_dump()

    def _asked_once(self, history: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> list[Signal]:
        key = _digest(history, as_of)
        if key not in self._answers:
            self._answers[key] = self._client.signals(history, as_of=as_of).signals
            if len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[key]


def _digest(history: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> bytes:
    """Return a name of the question's content."""
    digest = hashlib.sha256(as_of.isoformat().encode())
    for name, frame in history.items():
        digest.update(name.encode())
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.digest()
