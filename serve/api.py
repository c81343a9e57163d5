"""The HTTP interface as a plain FastAPI application over anything that can predict."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol

import pandas as pd
from fastapi import FastAPI

from cryptoml import __version__
from cryptoml.errors import DataError
from cryptoml.live.prediction import Prediction, Refusal
from serve.limits import BodyLimit
from serve.problems import install_problem_handlers
from serve.requests import MAX_BODY_BYTES, Forecast, ForecastAnswer, HistoryRequest, ModelInfo, Signal, SignalAnswer

__all__ = ["Model", "create_app"]


class Model(Protocol):
    """What the interface needs of the model behind it."""

    async def predict(self, frames: Mapping[str, pd.DataFrame], now: datetime) -> tuple[ModelInfo, list[Prediction]]:
        """Forecast every symbol at its last bar that is closed at `now`, and tell which model did.

        Raises:
            DataError: The candles cannot be used at all.
            ModelUnavailableError: Overloaded or not loaded.
        """
        ...

    async def info(self) -> ModelInfo:
        """Describe the loaded model.

        Raises:
            ModelUnavailableError: None is loaded.
        """
        ...


def create_app(model: Model) -> FastAPI:
    """Return the application; it holds no state but the model it asks."""
    app = FastAPI(title="cryptoml", version=__version__, description="Forecasts and trading signals for crypto markets.")
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    install_problem_handlers(app)
    problems: dict[int | str, dict[str, Any]] = {status: {"description": HTTPStatus(status).phrase} for status in (413, 422, 503)}

    @app.post("/v1/predict", responses=problems)
    async def predict(request: HistoryRequest) -> ForecastAnswer:
        """Return every task's forecast for each symbol of the body."""
        info, predictions = await _ask(model, request)
        return ForecastAnswer(model=info, predictions=[Forecast.of(one) for one in predictions])

    @app.post("/v1/signals", responses=problems)
    async def signals(request: HistoryRequest) -> SignalAnswer:
        """Return BUY, SELL or HOLD with size, stop and target for each symbol of the body."""
        info, predictions = await _ask(model, request)
        return SignalAnswer(model=info, signals=[Signal.of(one) for one in predictions])

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answer while the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: problems[503]})
    async def readyz() -> ModelInfo:
        """Answer with the model once it is loaded, 503 before."""
        return await model.info()

    return app


async def _ask(model: Model, request: HistoryRequest) -> tuple[ModelInfo, list[Prediction]]:
    info, predictions = await model.predict(request.frames(), request.as_of or datetime.now(UTC))
    unknown = [one.symbol for one in predictions if one.refusal is Refusal.NEVER_TRAINED]
    if unknown:
        raise DataError(f"history holds symbols that the model was never trained on: {unknown}; it knows {info.symbols}")
    return info, predictions
