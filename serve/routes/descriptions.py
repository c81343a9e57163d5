"""What OpenAPI says of answers that are the same on many routes."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from serve.arrow import ARROW

__all__ = ["PROBLEMS", "Problem", "arrow_answer", "problems"]


class FieldProblem(BaseModel):
    """A field that is wrong."""

    field: str = Field(description="JSON pointer into the body, or name of a parameter or header")
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of some errors."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


PROBLEMS = problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503)


def arrow_answer() -> dict[int | str, dict[str, Any]]:
    """Return the description of an answer that may also be an Arrow stream."""
    return {200: {"content": {ARROW: {"schema": {"type": "string", "format": "binary"}}}}}
