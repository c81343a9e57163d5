"""Who may ask what: keys, roles and rates, as dependencies of the routes."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from cryptoml.errors import CryptomlError
from serve.audit import AuditLog
from serve.keys import ApiKey, KeyRing, Role
from serve.limits import TokenBuckets
from serve.problems import ForbiddenError, ServiceError, TooManyRequestsError, UnauthorisedError
from serve.settings import Limits

__all__ = ["ENVIRONMENT", "Access", "Caller"]

ENVIRONMENT = "CRYPTOML_API_KEYS"
_BEARER = HTTPBearer(auto_error=False, description="`Authorization: Bearer cml_...`")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="`X-API-Key: cml_...`")


class Caller:
    """Who asks, and a way to write down what was done.

    Attributes:
        key: None where the service asks for none.
        address: Network address.
    """

    def __init__(self, key: ApiKey | None, address: str, audit: AuditLog | None) -> None:
        self.key, self.address, self._audit = key, address, audit

    async def act(self, action: str, work: Awaitable[Any], **details: Any) -> Any:
        """Wait for some work and write it down, refused or done."""
        try:
            found = await work
        except (ServiceError, CryptomlError) as error:
            await self._note(action, str(error), details)
            raise
        await self._note(action, "done", details)
        return found

    async def _note(self, action: str, outcome: str, details: dict[str, Any]) -> None:
        if self._audit is None:
            return
        key = self.key
        who = {"key": key and key.id, "name": key and key.name, "role": key and key.role, "address": self.address}
        await asyncio.to_thread(self._audit.note, who, action, outcome, **details)


class Access:
    """The keys of a service and what they have asked lately; everybody may do everything where there is no file of keys."""

    def __init__(self, keys: str | None = None, limits: Limits | None = None, audit: AuditLog | None = None) -> None:
        """Read the keys.

        Raises:
            ConfigError: The file of keys is missing or damaged.
        """
        path = keys or os.environ.get(ENVIRONMENT)
        limits = limits or Limits()
        self._ring = KeyRing(path) if path else None
        self._buckets = TokenBuckets(limits.requests_per_second, limits.burst)
        self._audit = audit

    def require(self, role: Role) -> Callable[..., Awaitable[Caller]]:
        """Return a dependency that lets callers with this role pass.

        The dependency raises UnauthorisedError, ForbiddenError or TooManyRequestsError.
        """

        async def caller(
            request: Request,
            bearer: HTTPAuthorizationCredentials | None = Security(_BEARER),  # noqa: B008
            header: str | None = Security(_HEADER),
        ) -> Caller:
            address = request.client.host if request.client else ""
            if self._ring is None:
                return Caller(None, address, self._audit)
            return Caller(self._admit(self._ring, bearer.credentials if bearer else header, role), address, self._audit)

        return caller

    def _admit(self, ring: KeyRing, given: str | None, role: Role) -> ApiKey:
        key = None if given is None else ring.find(given)
        if key is None:
            said = "is missing" if given is None else "is not one of this service"
            raise UnauthorisedError(f"the API key {said}; send it as `Authorization: Bearer` or `X-API-Key`", "Authorization")
        if not key.role.includes(role):
            raise ForbiddenError(f"this needs a key with the role {role}, the role of {key.name} is {key.role}", "Authorization")
        if not self._buckets.take(key.id, time.monotonic()):
            raise TooManyRequestsError(f"{key.name} sends requests too fast", "Authorization")
        return key
