"""Settings of the application: the `args` of a Serve config file."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MAX_ONGOING", "AppArgs", "Batching", "Limits"]

MAX_ONGOING = 48
"""Requests in work that take no more than twice the time of 32 at once, the load at which batches are full."""


class Limits(BaseModel):
    """What one caller, and all of them, may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Largest body")
    requests_per_second: float = Field(200.0, gt=0, description="Steady rate of a key, on each ingress replica")
    burst: int = Field(400, ge=1, description="Requests of a key at once, on each ingress replica")
    max_ongoing: int = Field(MAX_ONGOING, ge=1, description="Requests in work on each ingress replica; more are answered 503")
    streams: int = Field(64, ge=1, description="Open event streams on each ingress replica")
    clock_skew_seconds: float = Field(2.0, ge=0, description="How far a caller's clock may be ahead of the service's")


class Batching(BaseModel):
    """How requests that wait together are answered together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_size: int = Field(
        32, ge=1, description="Windows forecast in one pass by a member; with 1 nobody shares a forecast that is under way"
    )
    remember: bool = Field(
        True, description="Whether a forecast of kept bars also answers those who ask later, until bars change"
    )


class AppArgs(BaseModel):
    """Arguments of the application."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str | None = Field(None, description="Folder of the one bundle to serve, readable by every replica")
    registry: str | None = Field(None, description="Registry (folder or s3://) whose champion is served; it may change meanwhile")
    state: str = Field(
        "runs/serving", description="Folder or s3:// of kept bars, adaptations and the audit log; shared by replicas"
    )
    keys: str | None = Field(
        None, description="File of API keys (see serve.keys); CRYPTOML_API_KEYS where absent, then none asked"
    )
    kept_bars: int | None = Field(
        None, ge=1, description="Newest bars kept per symbol; what forecast and adaptation need if absent"
    )
    max_age_bars: int = Field(
        1, ge=0, description="Whole bars that may have closed since a symbol's newest one before it is stale"
    )
    watch_seconds: float = Field(1.0, gt=0, description="How often replicas look whether another version was promoted")
    limits: Limits = Limits()
    batching: Batching = Batching()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.bundle is None) == (self.registry is None):
            raise ValueError(f"one of bundle and registry must be given, were {self.bundle!r} and {self.registry!r}")
        return self

    def resolved(self) -> Self:
        """Return the same with absolute paths: replicas run in folders of their own."""
        paths = {name: _absolute(getattr(self, name)) for name in ("bundle", "registry", "state", "keys")}
        return self.model_copy(update=paths)


def _absolute(address: str | None) -> str | None:
    return address if address is None or "://" in address else str(Path(address).expanduser().resolve())
