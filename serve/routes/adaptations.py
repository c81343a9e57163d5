"""Adaptations to new regimes."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from cryptoml.live.wire import AdaptationAnswer, AdaptationsAnswer
from serve.access import Access, Caller
from serve.adaptation_store import StoredAdaptation
from serve.bodies import body_of, json_body
from serve.forecasting import spelled
from serve.keys import Role
from serve.requests import AdaptationRequest
from serve.routes.descriptions import PROBLEMS
from serve.service import Service

__all__ = ["adaptation_routes"]

Number = Annotated[str, Path(min_length=1, max_length=64, description="Id of an adaptation")]


def adaptation_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["adaptations"], responses=PROBLEMS)
    read, write = (Depends(access.require(role)) for role in (Role.READ, Role.WRITE))

    @router.post("/v1/adaptations", status_code=201, openapi_extra=json_body(AdaptationRequest))
    async def adapt(request: Request, caller: Annotated[Caller, write]) -> AdaptationAnswer:
        """Learn a small correction from the newest bars; one that does worse on held-back bars is rolled back at once."""
        body = await body_of(request, AdaptationRequest)
        symbols = spelled(body.symbols, "/symbols")
        work = service.adapt(symbols, body.frames(), body.last_bars, body.regime, body.as_of)
        return _told(await caller.act("adapt", work, symbols=list(symbols)))

    @router.get("/v1/adaptations", dependencies=[read])
    async def adaptations() -> AdaptationsAnswer:
        """Return all adaptations, oldest first."""
        return AdaptationsAnswer(adaptations=[_told(one) for one in await service.adaptations()])

    @router.get("/v1/adaptations/{number}", dependencies=[read])
    async def adaptation(number: Number) -> AdaptationAnswer:
        """Return one adaptation."""
        return _told(await service.adaptation(number))

    @router.delete("/v1/adaptations/{number}", status_code=204)
    async def remove(number: Number, caller: Annotated[Caller, write]) -> Response:
        """Forget an adaptation; the one before it is its symbols' active one again."""
        await caller.act("remove_adaptation", service.remove_adaptation(number), adaptation=number)
        return Response(status_code=204)

    return router


def _told(stored: StoredAdaptation) -> AdaptationAnswer:
    return AdaptationAnswer.of(stored.adaptation, stored.created_at)
