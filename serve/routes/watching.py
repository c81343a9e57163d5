"""What the page shows: every symbol at a glance, one symbol in depth, the learned graph, and a stream of what changes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import StreamingResponse

from cryptoml.live.wire import Forecast, Signal
from serve.access import Access
from serve.features import KeptRequest
from serve.forecasting import spelled
from serve.keys import Role
from serve.problems import ModelUnavailableError, ServiceError
from serve.routes.descriptions import PROBLEMS
from serve.service import Service
from serve.views import GraphAnswer, OverviewAnswer, SymbolRow, SymbolView

__all__ = ["watching_routes"]

STREAM_SECONDS = 1.0
BEAT_SECONDS = 15.0
Symbol = Annotated[str, Path(min_length=1, max_length=32, description="Such as BTCUSDT")]


def watching_routes(service: Service, access: Access, streams: int) -> APIRouter:
    """Return the routes; `streams` event streams may be open at once."""
    router = APIRouter(tags=["watching"], dependencies=[Depends(access.require(Role.READ))], responses=PROBLEMS)
    open_streams: set[object] = set()

    @router.get("/v1/symbols")
    async def symbols() -> OverviewAnswer:
        """Return every symbol of the model with the state of its bars and its newest signal."""
        kept = {one.symbol: one for one in await service.status(None)}
        answered = await service.predict_kept(KeptRequest())
        signals = {one.symbol: Signal.of(one) for one in answered.predictions}
        rows = [SymbolRow(candles=status, signal=signals.get(name)) for name, status in kept.items()]
        return OverviewAnswer(model=answered.info, symbols=rows)

    @router.get("/v1/symbols/{symbol}")
    async def one_symbol(symbol: Symbol, bars: Annotated[int, Query(ge=1, le=2000)] = 200) -> SymbolView:
        """Return one symbol's candles, forecast, past regimes, attention and what moved the forecast."""
        (name,) = spelled([symbol], "symbol")
        depth, candles = await service.depth(name), await service.candles(name, bars)
        answered = await service.predict_kept(KeptRequest((name,), None, None, True))
        forecast = Forecast.of(answered.predictions[0], answered.explained.get(name))
        return SymbolView.of(answered.info, candles, forecast, Signal.of(answered.predictions[0]), depth)

    @router.get("/v1/graph")
    async def graph() -> GraphAnswer:
        """Return how much each asset listens to each other one, as the model learned it, at the newest bar."""
        info = await service.info()
        return GraphAnswer(model=info, symbols=info.symbols, weights=await service.graph())

    @router.get("/v1/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
    async def events(request: Request) -> StreamingResponse:
        """Send an event whenever bars, the model or the adaptations change, and a comment every 15 seconds."""
        if len(open_streams) >= streams:
            raise ModelUnavailableError(f"{streams} event streams are open already")
        return StreamingResponse(_stream(service, request, open_streams), media_type="text/event-stream")

    return router


async def _stream(service: Service, request: Request, open_streams: set[object]) -> AsyncIterator[str]:
    mark, before, quiet = object(), None, 0.0
    open_streams.add(mark)
    try:
        while not await request.is_disconnected():
            state = await _state(service)
            if state is not None and state != before:
                yield f"event: change\ndata: {json.dumps(state)}\n\n"
                before, quiet = state, 0.0
            elif quiet >= BEAT_SECONDS:
                yield ": still here\n\n"
                quiet = 0.0
            await asyncio.sleep(STREAM_SECONDS)
            quiet += STREAM_SECONDS
    finally:
        open_streams.discard(mark)


async def _state(service: Service) -> dict[str, Any] | None:
    try:
        revision = await service.revision()
    except ServiceError:
        return None
    return revision._asdict()
