"""Versions of the model."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from cryptoml.live.wire import ModelInfo, ModelsAnswer, VersionAnswer
from serve.access import Access, Caller
from serve.keys import Role
from serve.requests import ChangeRequest
from serve.routes.descriptions import PROBLEMS
from serve.service import Service

__all__ = ["model_routes"]

Version = Annotated[str, Path(min_length=1, max_length=128, description="Name of a version")]


def model_routes(service: Service, access: Access) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["models"], responses=PROBLEMS)
    read, admin = (Depends(access.require(role)) for role in (Role.READ, Role.ADMIN))

    @router.get("/v1/models", dependencies=[read])
    async def models() -> ModelsAnswer:
        """Return all versions, oldest first."""
        info = await service.info()
        versions = [VersionAnswer(**asdict(one)) for one in await service.models()]
        return ModelsAnswer(serving=info.version, versions=versions)

    @router.get("/v1/model", dependencies=[read])
    async def model() -> ModelInfo:
        """Return the version that serves and what it needs."""
        return await service.info()

    @router.post("/v1/models/{version}/promote")
    async def promote(version: Version, caller: Annotated[Caller, admin], body: ChangeRequest | None = None) -> ModelInfo:
        """Serve another version from now on; a damaged one is refused and the old one goes on."""
        reason = body.reason if body else ""
        return await caller.act("promote", service.promote(version, reason), version=version, reason=reason)

    @router.post("/v1/models/rollback")
    async def rollback(caller: Annotated[Caller, admin], body: ChangeRequest | None = None) -> ModelInfo:
        """Serve the version before this one again."""
        reason = body.reason if body else ""
        return await caller.act("rollback", service.rollback(reason), reason=reason)

    return router
