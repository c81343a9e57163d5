"""Bars that the service keeps."""

from datetime import timedelta
from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Depends, Path, Query, Response

from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError
from cryptoml.live.wire import KeptStatus, TakenAnswer
from serve.access import Access, Caller
from serve.bodies import checked_bars, json_body, new_candles
from serve.forecasting import spelled
from serve.keys import Role
from serve.problems import InvalidFieldError
from serve.requests import Candles, NewCandles
from serve.routes.descriptions import PROBLEMS
from serve.service import Service

__all__ = ["candle_routes"]

Symbol = Annotated[str, Path(min_length=1, max_length=32, description="Such as BTCUSDT")]
_BODY = json_body(NewCandles, arrow="Columns timestamp (with a time zone), open, high, low, close, volume")


def candle_routes(service: Service, access: Access, clock_skew_seconds: float) -> APIRouter:
    """Return the routes; bars may close up to `clock_skew_seconds` after the service's clock."""
    router = APIRouter(tags=["candles"], responses=PROBLEMS)
    timeframe: list[str] = []
    skew = timedelta(seconds=clock_skew_seconds)
    write, read, admin = (Depends(access.require(role)) for role in (Role.WRITE, Role.READ, Role.ADMIN))

    @router.put("/v1/candles/{symbol}", openapi_extra=_BODY, dependencies=[write])
    async def put(symbol: Symbol, body: Annotated[tuple[pd.DataFrame, str | None], Depends(new_candles)]) -> TakenAnswer:
        """Keep closed bars; those that are kept already with the same values change nothing."""
        (name,), (frame, given) = spelled([symbol], "symbol"), body
        if not timeframe:
            timeframe.append((await service.info()).timeframe)  # a service never changes it
        _refuse_other_timeframe(given, timeframe[0])
        return await service.put(name, checked_bars(frame, name, timeframe[0], pd.Timestamp.now("UTC") + skew))

    @router.get("/v1/candles/{symbol}/status", dependencies=[read])
    async def status(symbol: Symbol) -> KeptStatus:
        """Return how many bars of a symbol are kept, from when to when."""
        (name,) = spelled([symbol], "symbol")
        return (await service.status(name))[0]

    @router.get("/v1/candles/{symbol}", dependencies=[read])
    async def candles(symbol: Symbol, bars: Annotated[int, Query(ge=1, le=5000)] = 200) -> Candles | None:
        """Return the newest kept bars of a symbol by column; null without any."""
        (name,) = spelled([symbol], "symbol")
        frame = (await service.candles(name, bars)).frame()
        columns = {key: frame[key].tolist() for key in frame.columns if key != "timestamp" and not frame[key].isna().any()}
        stamps = [stamp.to_pydatetime() for stamp in frame["timestamp"]]
        return Candles.model_validate({"timestamp": stamps, **columns}) if len(frame) else None

    @router.delete("/v1/candles/{symbol}", status_code=204)
    async def drop(symbol: Symbol, caller: Annotated[Caller, admin]) -> Response:
        """Forget the bars of a symbol, so that others can be put in their place."""
        (name,) = spelled([symbol], "symbol")
        await caller.act("drop_candles", service.drop(name), symbol=name)
        return Response(status_code=204)

    return router


def _refuse_other_timeframe(given: str | None, wanted: str) -> None:
    try:
        same = given is None or parse_timeframe(given) == parse_timeframe(wanted)
    except ConfigError as error:
        raise InvalidFieldError(str(error), "/timeframe") from None
    if not same:
        raise InvalidFieldError(f"timeframe must be {wanted}, was {given}", "/timeframe")
