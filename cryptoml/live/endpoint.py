"""Signals from a served model: one question to `POST /v1/signals` per bar."""

import hashlib
import json
import logging
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import DataError
from cryptoml.live.signal_source import COLUMNS, present_candles

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
        timeout_s: Longest wait for an answer.

    Raises:
        DataError: The service refuses, with its reason.
        OSError: It cannot be reached.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"endpoint must be an http address, was {url!r}")
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._answers: OrderedDict[bytes, list[dict[str, Any]]] = OrderedDict()
        info = self._ask("/readyz")
        self.symbols: tuple[str, ...] = tuple(info["symbols"])
        self.timeframe: str = info["timeframe"]
        self.history_bars: int = info["history_bars"]
        self.holding_bars: int = info["holding_bars"]

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
        cut = {name: frame[frame["timestamp"].between(first, bar)] for name, frame in frames.items()}
        history = {name: _columns(frame) for name, frame in cut.items() if len(frame)}
        body = json.dumps({"history": history, "as_of": (bar + step).isoformat()}).encode()
        return next(one for one in self._asked_once(body) if one["symbol"] == symbol)

    def _asked_once(self, body: bytes) -> list[dict[str, Any]]:
        key = hashlib.sha256(body).digest()
        if key not in self._answers:
            self._answers[key] = self._ask("/v1/signals", body)["signals"]
            if len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                raise DataError(f"{self._url}{path} answered {error.code}: {error.read(2000).decode(errors='replace')}") from None


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    stamps = [stamp.isoformat() for stamp in frame["timestamp"]]
    return {"timestamp": stamps, **{name: frame[name].astype(float).tolist() for name in FIELDS}}
