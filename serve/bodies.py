"""Bodies read by their content type, and how OpenAPI describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

import pandas as pd
from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from cryptoml.data.validation import REASONS, check_candles
from cryptoml.errors import DataError
from serve.arrow import ARROW, candles_of, frames_of
from serve.kept_bars import BarArrays
from serve.problems import InvalidFieldError, UnsupportedMediaError
from serve.requests import ForecastRequest, NewCandles

__all__ = ["BODY_MODELS", "ForecastQuestion", "body_of", "checked_bars", "forecast_question", "json_body", "new_candles"]

JSON = "application/json"
BODY_MODELS: tuple[type[BaseModel], ...] = (ForecastRequest, NewCandles)
"""Models that routes read by themselves, so that FastAPI does not describe them."""
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class ForecastQuestion:
    """A request over candles, whatever it was written in.

    Attributes:
        frames: Candles of the body; None where kept ones are to be used.
        symbols: Symbols of kept bars.
        as_of: Instant of the decision; the clock where None.
        adaptation: As `ForecastRequest.adaptation`.
        explain: Whether to tell what moved the forecasts.
    """

    frames: Mapping[str, pd.DataFrame] | None
    symbols: tuple[str, ...]
    as_of: datetime | None
    adaptation: str | None
    explain: bool


def json_body(model: type[BaseModel], *, arrow: str | None = None) -> dict[str, Any]:
    """Return what OpenAPI says of a body that a route reads by itself; `arrow` describes its Arrow form."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if arrow is not None:
        content[ARROW] = {"schema": {"type": "string", "format": "binary", "description": arrow}}
    return {"requestBody": {"required": True, "content": content}}


async def forecast_question(
    request: Request, as_of: datetime | None = None, adaptation: str | None = None, explain: bool = False
) -> ForecastQuestion:
    """Read a question about forecasts; the parameters of the address are those of an Arrow body.

    Raises:
        RequestValidationError: A field is wrong.
        UnsupportedMediaError: The body is neither JSON nor Arrow.
    """
    if _kind(request) == ARROW:
        if as_of is not None and as_of.tzinfo is None:
            raise InvalidFieldError("as_of must have an offset", "as_of")
        return ForecastQuestion(frames_of(await request.body()), (), as_of, adaptation, explain)
    body = await body_of(request, ForecastRequest)
    frames = None if body.history is None else body.frames()
    return ForecastQuestion(frames, tuple(body.symbols or ()), body.as_of, body.adaptation, body.explain)


async def new_candles(
    request: Request, timeframe: Annotated[str | None, Query(max_length=8, description="Of an Arrow body")] = None
) -> tuple[pd.DataFrame, str | None]:
    """Read bars to keep, and the timeframe that the caller takes them for; the parameter is that of an Arrow body.

    Raises:
        RequestValidationError: A field is wrong.
        UnsupportedMediaError: The body is neither JSON nor Arrow.
    """
    if _kind(request) == ARROW:
        return candles_of(await request.body()), timeframe
    body = await body_of(request, NewCandles)
    return body.to_frame(), body.timeframe


async def body_of(request: Request, model: type[Body]) -> Body:
    """Read a JSON body.

    Raises:
        RequestValidationError: A field is wrong.
        UnsupportedMediaError: The body is not JSON.
    """
    if _kind(request) != JSON:
        raise UnsupportedMediaError(f"content-type must be {JSON} or {ARROW}, was {_kind(request)[:100]!r}", "content-type")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


def checked_bars(frame: pd.DataFrame, symbol: str, timeframe: str, now: pd.Timestamp) -> BarArrays:
    """Return sound, closed bars of the timeframe.

    Args:
        frame: From `new_candles`.
        symbol: For messages.
        timeframe: Length of a bar.
        now: Instant by which they must be closed.

    Raises:
        InvalidFieldError: A bar is of the future or not closed, breaks a rule of candles, or is not on the grid.
    """
    step = pd.Timedelta(timeframe.replace("w", "W"))
    late = (frame["timestamp"] + step > now).to_numpy()
    if late.any():
        row = int(late.argmax())
        what = "of the future" if frame["timestamp"].iloc[row] > now else "not closed yet"
        raise InvalidFieldError(f"timestamp {frame['timestamp'].iloc[row].isoformat()} is {what}", f"/timestamp/{row}")
    try:
        check = check_candles(frame, symbol=symbol, timeframe=timeframe, source="candles")
    except DataError as error:
        raise InvalidFieldError(str(error), "/timestamp") from None
    if len(check.quarantine):
        bad = check.quarantine.iloc[0]
        detail = f"{bad['column']} is {bad['value']}: {REASONS[bad['reason']]}"
        raise InvalidFieldError(detail, f"/{bad['column']}/{bad['row']}")
    return BarArrays.of_frame(check.good)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
