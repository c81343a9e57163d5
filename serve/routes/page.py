"""The page at `/` and the described interface at `/docs`: files beside this package, read once and answered from memory."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

__all__ = ["page_routes"]

_PAGE = Path(__file__).parents[1] / "page"
_ADDRESSES = {"index.html": "/", "docs.html": "/docs"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_routes(folder: Path = _PAGE) -> APIRouter:
    """Return a route for each file, `index.html` at `/` and `docs.html` at `/docs`; they hold no data and need no key."""
    router = APIRouter(include_in_schema=False)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES:
            name = path.relative_to(folder).as_posix()
            _add(router, _ADDRESSES.get(name, f"/{name}"), path.read_bytes(), _TYPES[path.suffix])
    return router


def _add(router: APIRouter, address: str, content: bytes, media_type: str) -> None:
    """Answer with the content, or 304 to whoever has it; browsers ask each time, so that a new version shows at once."""
    mark = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": mark, "Cache-Control": "no-cache"}

    async def answer(request: Request) -> Response:
        if mark in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    router.add_api_route(address, answer, methods=["GET", "HEAD"])
