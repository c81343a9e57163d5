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
_NOTES_PER_SECOND, _NOTES_AT_ONCE = 0.1, 20
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
            await self.note(action, str(error), **details)
            raise
        await self.note(action, "done", **details)
        return found

    async def note(self, action: str, outcome: str, **details: Any) -> None:
        """Write down what the caller did or tried; arguments as for `AuditLog.note`."""
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
        self._noted, self._left_out = TokenBuckets(_NOTES_PER_SECOND, _NOTES_AT_ONCE), 0

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
            given = bearer.credentials if bearer else header
            try:
                return Caller(self._admit(self._ring, given, role), address, self._audit)
            except (UnauthorisedError, ForbiddenError) as error:
                await self._note_refusal(Caller(self._ring.find(given or ""), address, self._audit), request, str(error))
                raise

        return caller

    @property
    def sound(self) -> bool:
        """Whether the file of keys, where there is one, could be read when it was last looked at."""
        return self._ring is None or self._ring.sound

    async def _note_refusal(self, caller: Caller, request: Request, why: str) -> None:
        """Write a refused key down, unless so many were lately that guessing would fill the log; the next one tells how many."""
        if not self._noted.take("refused", time.monotonic()):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        await caller.note("refuse_key", why, method=request.method, path=request.url.path[:200], left_out=left_out)

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
