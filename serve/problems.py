"""Errors as `application/problem+json` (RFC 9457). No traceback and no path leaves the service."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cryptoml.errors import DataError

__all__ = ["ModelUnavailableError", "install_problem_handlers", "problem"]

_LOG = logging.getLogger(__name__)
RETRY_AFTER_SECONDS = 1


class ModelUnavailableError(Exception):
    """The model is overloaded or not loaded yet; the request may be sent again."""


def problem(status: int, detail: str, **extra: Any) -> JSONResponse:
    """Return a problem answer; `extra` are members beside the standard ones."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the application with a problem body."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(DataError, _invalid_data)
    app.add_exception_handler(ModelUnavailableError, _unavailable)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": _pointer(found["loc"]), "detail": found["msg"]} for found in error.errors()[:20]]
    first = errors[0]
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{first['field']}: {first['detail']}", errors=errors)


def _pointer(location: tuple[int | str, ...]) -> str:
    """Return the JSON pointer of a field: `/history/BTCUSDT/close/3`."""
    return "/" + "/".join(str(part) for part in location[1:])


def _invalid_data(request: Request, error: Exception) -> JSONResponse:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("unexpected error on %s", request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the request failed on the server; its log has the cause")
