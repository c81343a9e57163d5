"""Refuse what is too much before it costs anything: bodies that are too large, requests beyond what can be in work."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.headers import SecurityHeaders
from serve.problems import ModelUnavailableError, problem

__all__ = ["Admission", "BodyLimit", "TokenBuckets"]

_UNCOUNTED = ("/healthz", "/readyz", "/v1/events", "/-/healthz", "/-/routes")


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `max_bytes`, declared or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._detail = f"body must be at most {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counted body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _declared_length(scope) > self._max_bytes:
            await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail)
            return message

        return counted


class Admission:
    """ASGI middleware that answers 503 at once while `max_ongoing` requests are in work; health and streams do not count.

    The answer is made once: under overload it is given hundreds of times a second.

    Attributes:
        refused: How many requests were refused so far.
    """

    def __init__(self, app: ASGIApp, max_ongoing: int) -> None:
        self._app = app
        self._max_ongoing = max_ongoing
        self._ongoing = self.refused = 0
        detail = f"{max_ongoing} requests are in work; send this one again later"
        self._refusal = SecurityHeaders(problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, ModelUnavailableError.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counted, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        if self._ongoing >= self._max_ongoing:
            self.refused += 1
            await self._refusal(scope, receive, send)
            return
        self._ongoing += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._ongoing -= 1


class TokenBuckets:
    """A rate per name: `burst` requests at once, refilled at `per_second`."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float) -> bool:
        """Take one request of `name` at `now` (seconds of any steady clock); False where none is left."""
        left, before = self._left.get(name, (float(self._burst), now))
        left = min(self._burst, left + (now - before) * self._per_second)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        return left >= 1


def _declared_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() else 0
