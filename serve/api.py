"""The HTTP interface as a plain FastAPI application over anything that answers like the feature deployment."""

import time
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cryptoml import __version__
from serve.access import Access
from serve.bodies import BODY_MODELS
from serve.headers import HeadAsGet, SecurityHeaders
from serve.limits import Admission, BodyLimit
from serve.metrics import observe_answer
from serve.problems import Unexpected, install_problem_handlers
from serve.requests import AdaptationRequest
from serve.routes.adaptations import adaptation_routes
from serve.routes.candles import candle_routes
from serve.routes.descriptions import Problem
from serve.routes.forecasts import forecast_routes
from serve.routes.health import health_routes
from serve.routes.models import model_routes
from serve.routes.page import page_routes
from serve.routes.watching import watching_routes
from serve.service import Service
from serve.settings import Limits

__all__ = ["create_app"]


def create_app(service: Service, access: Access | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the application; it holds no state but what callers asked lately.

    Args:
        service: What answers.
        access: Keys and rates; everybody may do everything where None.
        limits: What a caller may ask for.
    """
    access, limits = access or Access(), limits or Limits()
    about = "Forecasts and trading signals for crypto markets."
    app = FastAPI(title="cryptoml", version=__version__, description=about, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=limits.body_bytes)
    app.add_middleware(Unexpected)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Admission, max_ongoing=limits.max_ongoing)
    app.add_middleware(Measured)
    app.add_middleware(SecurityHeaders)
    install_problem_handlers(app)
    for router in (
        forecast_routes(service, access),
        candle_routes(service, access, limits.clock_skew_seconds),
        adaptation_routes(service, access),
        model_routes(service, access),
        watching_routes(service, access, limits.streams),
        health_routes(service, access),
        page_routes(),
    ):
        app.include_router(router)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


class Measured:
    """ASGI middleware that counts and times the answers of each route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            observe_answer(route, status, (time.perf_counter() - began) * 1e3)


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, with the bodies that routes read by themselves."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        own: tuple[type[BaseModel], ...] = (*BODY_MODELS, AdaptationRequest, Problem)
        _, models = models_json_schema([(model, "validation") for model in own], ref_template="#/components/schemas/{model}")
        described["components"].setdefault("schemas", {}).update(models["$defs"])
        app.openapi_schema = described
    return app.openapi_schema
