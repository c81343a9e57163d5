"""Clients of a served model, one that blocks and one for event loops; both try again where the service asks for it.

with ServiceClient("http://127.0.0.1:8000", key="cml_...") as client:
    client.put_candles("BTC/USDT", frame)
    signal = client.signals(["BTC/USDT"]).signals[0]
"""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx
import pandas as pd

from cryptoml.errors import CryptomlError, DataError
from cryptoml.live.calls import Answer, Call, Calls, History
from cryptoml.live.wire import (
    AdaptationAnswer,
    AdaptationsAnswer,
    ForecastAnswer,
    KeptStatus,
    ModelInfo,
    ModelsAnswer,
    SignalAnswer,
    TakenAnswer,
)

__all__ = ["AsyncServiceClient", "RefusedError", "ServiceClient", "UnavailableError"]

AGAIN = (429, 502, 503, 504)
CONNECT_SECONDS = 5.0


class RefusedError(DataError):
    """The service refused a request.

    Attributes:
        status: HTTP status.
        field: The field to blame, where one is.
    """

    def __init__(self, detail: str, status: int, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.field = status, field


class UnavailableError(CryptomlError, ConnectionError):
    """The service could not be reached, or stayed overloaded, however often it was asked."""


def _lost_its_replica(answer: httpx.Response) -> bool:
    """Tell Serve's own 500, where the process that answered died, from the application's, which is a problem body."""
    return answer.status_code == 500 and "json" not in answer.headers.get("content-type", "")


def _asked_wait(answer: httpx.Response | None) -> float:
    """Return the seconds of `Retry-After`, a number or a date; 0 without."""
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return 0.0


class _Retries:
    """Whom to ask, how often and how long to wait, with jitter so that many clients do not come back at once."""

    def __init__(self, urls: str | Sequence[str], attempts: int, longest_wait_s: float) -> None:
        self._urls = [_checked(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not self._urls:
            raise DataError("url must be at least one http address, was empty")
        self.attempts, self._longest, self._turn = attempts, longest_wait_s, 0

    @property
    def url(self) -> str:
        """The host to ask."""
        return self._urls[self._turn]

    def leave(self, url: str) -> None:
        """Ask the next host from now on, unless another thread has turned away from this one already."""
        if url == self.url:
            self._turn = (self._turn + 1) % len(self._urls)

    def wait(self, attempt: int, answer: httpx.Response | None) -> float:
        """Return for how long, never less than the service asks for."""
        return _asked_wait(answer) + random.uniform(0.0, min(0.1 * 2**attempt, self._longest))

    def again(self, attempt: int, answer: httpx.Response | None) -> bool:
        if attempt + 1 >= self.attempts or _asked_wait(answer) > self._longest:
            return False
        return answer is None or answer.status_code in AGAIN or _lost_its_replica(answer)


class ServiceClient:
    """A client that blocks; safe to share between threads.

    Args:
        url: Such as `"http://127.0.0.1:8000"`; of several, the next one is asked where one cannot be reached.
        key: API key, where the service asks for one.
        timeout_s: Longest wait for one answer.
        attempts: How often to ask in all, where the service is overloaded or cannot be reached.
        longest_wait_s: Longest pause between two attempts; a service that asks for a longer one is not asked again.

    Raises:
        DataError: `url` is no http address.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        attempts: int = 6,
        longest_wait_s: float = 5.0,
    ) -> None:
        self._http = httpx.Client(**_settings(key, timeout_s))
        self._retries = _Retries(url, attempts, longest_wait_s)
        self._calls = Calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def model(self) -> ModelInfo:
        """Return the model that serves."""
        return self._ask(self._calls.model())

    def signals(
        self,
        source: Sequence[str] | History,
        *,
        as_of: datetime | None = None,
        adaptation: str | None = None,
        explain: bool = False,
    ) -> SignalAnswer:
        """Return signals of symbols whose bars the service keeps (all of them for an empty list), or of given candles.

        Raises:
            RefusedError: The service refuses, with its reason.
            UnavailableError: It could not be reached, or stayed overloaded.
        """
        return self._ask(self._calls.signals(source, as_of, adaptation, explain))

    def predict(
        self,
        source: Sequence[str] | History,
        *,
        as_of: datetime | None = None,
        adaptation: str | None = None,
        explain: bool = False,
    ) -> ForecastAnswer:
        """Return forecasts; arguments and errors as for `signals`."""
        return self._ask(self._calls.predict(source, as_of, adaptation, explain))

    def put_candles(self, symbol: str, candles: pd.DataFrame, *, timeframe: str | None = None) -> TakenAnswer:
        """Let the service keep closed bars; errors as for `signals`."""
        return self._ask(self._calls.put_candles(symbol, candles, timeframe))

    def candle_status(self, symbol: str) -> KeptStatus:
        """Return how many bars of a symbol the service keeps."""
        return self._ask(self._calls.candle_status(symbol))

    def adapt(
        self,
        symbols: Sequence[str],
        *,
        last_bars: int | None = None,
        history: History | None = None,
        regime: str | None = None,
    ) -> AdaptationAnswer:
        """Let the service learn from the newest bars; errors as for `signals`."""
        return self._ask(self._calls.adapt(symbols, last_bars, history, regime))

    def adaptations(self) -> AdaptationsAnswer:
        """Return all adaptations, oldest first."""
        return self._ask(self._calls.adaptations())

    def remove_adaptation(self, number: str) -> None:
        """Let the service forget an adaptation."""
        self._send(self._calls.remove_adaptation(number))

    def models(self) -> ModelsAnswer:
        """Return all versions that could serve."""
        return self._ask(self._calls.models())

    def promote(self, version: str, reason: str = "") -> ModelInfo:
        """Let another version serve; errors as for `signals`."""
        return self._ask(self._calls.promote(version, reason))

    def rollback(self, reason: str = "") -> ModelInfo:
        """Let the version before this one serve again."""
        return self._ask(self._calls.rollback(reason))

    def _ask(self, call: Call[Answer]) -> Answer:
        return call.answer.model_validate_json(self._send(call).content)

    def _send(self, call: Call) -> httpx.Response:
        for attempt in range(self._retries.attempts):
            url = self._retries.url
            try:
                answer = self._http.request(call.method, url + call.path, json=call.body, params=call.parameters)
            except httpx.TransportError as error:
                answer, failure = None, error
                self._retries.leave(url)
            if not self._retries.again(attempt, answer):
                break
            time.sleep(self._retries.wait(attempt, answer))
        return _accepted(answer, None if answer is not None else failure)


class AsyncServiceClient:
    """The same for event loops; arguments as for `ServiceClient`, and its methods and errors."""

    def __init__(
        self,
        url: str | Sequence[str],
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        attempts: int = 6,
        longest_wait_s: float = 5.0,
    ) -> None:
        self._http = httpx.AsyncClient(**_settings(key, timeout_s))
        self._retries = _Retries(url, attempts, longest_wait_s)
        self._calls = Calls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def model(self) -> ModelInfo:
        """As `ServiceClient.model`."""
        return await self._ask(self._calls.model())

    async def signals(
        self,
        source: Sequence[str] | History,
        *,
        as_of: datetime | None = None,
        adaptation: str | None = None,
        explain: bool = False,
    ) -> SignalAnswer:
        """As `ServiceClient.signals`."""
        return await self._ask(self._calls.signals(source, as_of, adaptation, explain))

    async def predict(
        self,
        source: Sequence[str] | History,
        *,
        as_of: datetime | None = None,
        adaptation: str | None = None,
        explain: bool = False,
    ) -> ForecastAnswer:
        """As `ServiceClient.predict`."""
        return await self._ask(self._calls.predict(source, as_of, adaptation, explain))

    async def put_candles(self, symbol: str, candles: pd.DataFrame, *, timeframe: str | None = None) -> TakenAnswer:
        """As `ServiceClient.put_candles`."""
        return await self._ask(self._calls.put_candles(symbol, candles, timeframe))

    async def candle_status(self, symbol: str) -> KeptStatus:
        """As `ServiceClient.candle_status`."""
        return await self._ask(self._calls.candle_status(symbol))

    async def adapt(
        self,
        symbols: Sequence[str],
        *,
        last_bars: int | None = None,
        history: History | None = None,
        regime: str | None = None,
    ) -> AdaptationAnswer:
        """As `ServiceClient.adapt`."""
        return await self._ask(self._calls.adapt(symbols, last_bars, history, regime))

    async def adaptations(self) -> AdaptationsAnswer:
        """As `ServiceClient.adaptations`."""
        return await self._ask(self._calls.adaptations())

    async def remove_adaptation(self, number: str) -> None:
        """As `ServiceClient.remove_adaptation`."""
        await self._send(self._calls.remove_adaptation(number))

    async def models(self) -> ModelsAnswer:
        """As `ServiceClient.models`."""
        return await self._ask(self._calls.models())

    async def promote(self, version: str, reason: str = "") -> ModelInfo:
        """As `ServiceClient.promote`."""
        return await self._ask(self._calls.promote(version, reason))

    async def rollback(self, reason: str = "") -> ModelInfo:
        """As `ServiceClient.rollback`."""
        return await self._ask(self._calls.rollback(reason))

    async def _ask(self, call: Call[Answer]) -> Answer:
        return call.answer.model_validate_json((await self._send(call)).content)

    async def _send(self, call: Call) -> httpx.Response:
        for attempt in range(self._retries.attempts):
            url = self._retries.url
            try:
                answer = await self._http.request(call.method, url + call.path, json=call.body, params=call.parameters)
            except httpx.TransportError as error:
                answer, failure = None, error
                self._retries.leave(url)
            if not self._retries.again(attempt, answer):
                break
            await asyncio.sleep(self._retries.wait(attempt, answer))
        return _accepted(answer, None if answer is not None else failure)


def _accepted(answer: httpx.Response | None, failure: httpx.TransportError | None) -> httpx.Response:
    """Return an answer that is none of an error.

    Raises:
        RefusedError: The request was refused.
        UnavailableError: There is none, or the service stayed overloaded.
    """
    if answer is None:
        raise UnavailableError(f"the service cannot be reached: {failure}") from failure
    if answer.status_code in AGAIN or _lost_its_replica(answer):
        raise UnavailableError(f"the service answered {answer.status_code} to every attempt: {_detail(answer)[0]}")
    if answer.is_error:
        detail, field = _detail(answer)
        raise RefusedError(f"{answer.request.url.path} answered {answer.status_code}: {detail}", answer.status_code, field)
    return answer


def _detail(answer: httpx.Response) -> tuple[str, str | None]:
    try:
        problem = answer.json()
        errors = problem.get("errors") or [{}]
        return str(problem["detail"]), errors[0].get("field")
    except (ValueError, KeyError, AttributeError):
        return answer.text[:200], None


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise DataError(f"url must be an http address, was {url!r}")
    return url.rstrip("/")


def _settings(key: str | None, timeout_s: float) -> dict[str, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return {"headers": headers, "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_SECONDS))}
