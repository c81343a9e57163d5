"""Forecasts and signals."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from cryptoml.errors import DataError
from cryptoml.live.prediction import Refusal
from cryptoml.live.wire import Forecast, ForecastAnswer, Signal, SignalAnswer
from serve.access import Access
from serve.arrow import ARROW, predictions_to_arrow
from serve.bodies import ForecastQuestion, forecast_question, json_body
from serve.features import Answered, KeptRequest
from serve.forecasting import spelled
from serve.keys import Role
from serve.requests import ForecastRequest
from serve.routes.descriptions import PROBLEMS, arrow_answer
from serve.service import Service

__all__ = ["forecast_routes"]

_BODY = json_body(ForecastRequest, arrow="Columns symbol, timestamp (with a time zone), open, high, low, close, volume")
Question = Annotated[ForecastQuestion, Depends(forecast_question)]


def forecast_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["forecasts"], dependencies=[Depends(access.require(Role.READ))], responses=PROBLEMS)

    @router.post("/v1/predict", openapi_extra=_BODY, response_model=ForecastAnswer, responses=arrow_answer())
    async def predict(request: Request, question: Question) -> ForecastAnswer | Response:
        """Return every task's forecast for each symbol."""
        answered = await _ask(service, question)
        if _wants_arrow(request):
            return Response(predictions_to_arrow(answered.predictions, answered.info.version), media_type=ARROW)
        told = [Forecast.of(one, answered.explained.get(one.symbol)) for one in answered.predictions]
        return ForecastAnswer(model=answered.info, predictions=told)

    @router.post("/v1/signals", openapi_extra=_BODY, response_model=SignalAnswer, responses=arrow_answer())
    async def signals(request: Request, question: Question) -> SignalAnswer | Response:
        """Return BUY, SELL or HOLD with size, stop and target for each symbol."""
        answered = await _ask(service, question)
        if _wants_arrow(request):
            return Response(predictions_to_arrow(answered.predictions, answered.info.version), media_type=ARROW)
        told = [Signal.of(one, answered.explained.get(one.symbol)) for one in answered.predictions]
        return SignalAnswer(model=answered.info, signals=told)

    return router


async def _ask(service: Service, question: ForecastQuestion) -> Answered:
    if question.frames is None:
        symbols = spelled(question.symbols, "/symbols")
        return await service.predict_kept(KeptRequest(symbols, question.as_of, question.adaptation, question.explain))
    now = question.as_of or datetime.now(UTC)
    answered = await service.predict(question.frames, now, question.adaptation, question.explain)
    unknown = [one.symbol for one in answered.predictions if one.refusal is Refusal.NEVER_TRAINED]
    if unknown:
        known = ", ".join(answered.info.symbols[:20])
        raise DataError(f"history holds symbols that the model was never trained on: {unknown[:20]}; it knows {known}")
    return answered


def _wants_arrow(request: Request) -> bool:
    return ARROW in request.headers.get("accept", "")
