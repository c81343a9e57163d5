"""Errors as `application/problem+json` (RFC 9457). No traceback and no path leaves the service."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cryptoml.errors import DataError

__all__ = [
    "ConflictError",
    "ForbiddenError",
    "InvalidFieldError",
    "ModelUnavailableError",
    "NotFoundError",
    "ServiceError",
    "TooManyRequestsError",
    "UnauthorisedError",
    "Unexpected",
    "UnsupportedMediaError",
    "install_problem_handlers",
    "problem",
]

_LOG = logging.getLogger(__name__)
RETRY_AFTER_SECONDS = 1
MOST_ERRORS = 20


class ServiceError(Exception):
    """A request that cannot be answered, and what the caller is told. Travels between processes.

    Attributes:
        status: HTTP status of the answer.
        detail: What is wrong and what would be right.
        field: JSON pointer into the body, or name of the header or parameter, where one is to blame.
    """

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    headers: dict[str, str] | None = None

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail, field)
        self.detail, self.field = detail, field

    def __str__(self) -> str:
        return self.detail


class InvalidFieldError(ServiceError):
    """A value that cannot be used."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ConflictError(ServiceError):
    """A request that contradicts what the service holds."""

    status = HTTPStatus.CONFLICT


class NotFoundError(ServiceError):
    """Something named in the path that does not exist."""

    status = HTTPStatus.NOT_FOUND


class UnauthorisedError(ServiceError):
    """No key, or a wrong one."""

    status = HTTPStatus.UNAUTHORIZED
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012


class ForbiddenError(ServiceError):
    """A key whose role does not suffice."""

    status = HTTPStatus.FORBIDDEN


class TooManyRequestsError(ServiceError):
    """More requests than the key may send."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}  # noqa: RUF012


class UnsupportedMediaError(ServiceError):
    """A body in a format that is not understood."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ModelUnavailableError(ServiceError):
    """The service is overloaded or not ready; the request may be sent again."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}  # noqa: RUF012


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **extra: Any) -> JSONResponse:
    """Return a problem answer; `extra` are members beside the standard ones."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail, **extra}
    return JSONResponse(body, int(status), headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the application with a problem body; `Unexpected` answers the others."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(DataError, _invalid_data)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http)


def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": _pointer(found["loc"]), "detail": found["msg"]} for found in error.errors()[:MOST_ERRORS]]
    first = errors[0]
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{first['field']}: {first['detail']}", errors=errors)


def _pointer(location: tuple[int | str, ...]) -> str:
    """Return the JSON pointer of a field: `/history/BTCUSDT/close/3`."""
    return "/" + "/".join(str(part) for part in location[1:])


def _invalid_data(request: Request, error: Exception) -> JSONResponse:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))


def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    named = {} if error.field is None else {"errors": [{"field": error.field, "detail": error.detail}]}
    return problem(error.status, error.detail, error.headers, **named)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


class Unexpected:
    """ASGI middleware that answers 500 to what nobody foresaw; the log has the cause, the caller nothing of it.

    A handler of the application would answer outside of all middleware: without security headers, and uncounted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            _LOG.error("unexpected error on %s", scope["path"], exc_info=error)
            if begun:
                raise
            answer = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the request failed on the server; its log has the cause")
            await answer(scope, receive, send)
