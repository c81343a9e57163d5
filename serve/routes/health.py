"""Whether the process lives, and whether it can answer."""

from fastapi import APIRouter

from cryptoml.live.wire import ModelInfo
from serve.access import Access
from serve.problems import ModelUnavailableError
from serve.routes.descriptions import problems
from serve.service import Service

__all__ = ["health_routes"]

_UNSOUND = "the file of keys cannot be read; the keys read before it was damaged count"


def health_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes; they need no key, and tell where the file of keys of `access` cannot be read."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answer while the process lives."""
        return {"status": "ok"} | ({} if access.sound else {"keys": _UNSOUND})

    @router.get("/readyz", responses=problems(503))
    async def readyz() -> ModelInfo:
        """Answer with the model once it is loaded and, where bars are kept, some of them are fresh; 503 before."""
        info = await service.info()
        kept = [one for one in await service.status(None) if one.bars]
        if kept and not any(one.fresh for one in kept):
            raise ModelUnavailableError("the kept bars of every symbol are stale")
        return info

    return router
