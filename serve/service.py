"""What the routes need of the application behind them, and the same through a handle."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, cast

import pandas as pd
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from cryptoml.errors import DataError
from cryptoml.live.wire import KeptStatus, ModelInfo, TakenAnswer
from serve.adaptation_store import StoredAdaptation
from serve.depth import Depth, Revision
from serve.features import Answered, KeptRequest
from serve.kept_bars import BarArrays
from serve.model_source import ModelVersion
from serve.problems import ModelUnavailableError, ServiceError

__all__ = ["Service", "remote_service"]


class Service(Protocol):
    """The methods of `LocalFeatures`, which documents them."""

    async def info(self) -> ModelInfo: ...
    async def predict(
        self, frames: Mapping[str, pd.DataFrame], now: datetime, adaptation: str | None, explain: bool
    ) -> Answered: ...
    async def predict_kept(self, request: KeptRequest) -> Answered: ...
    async def put(self, symbol: str, bars: BarArrays) -> TakenAnswer: ...
    async def drop(self, symbol: str) -> None: ...
    async def status(self, symbol: str | None) -> list[KeptStatus]: ...
    async def candles(self, symbol: str, number: int) -> BarArrays: ...
    async def depth(self, symbol: str) -> Depth: ...
    async def graph(self) -> list[list[float | None]] | None: ...
    async def revision(self) -> Revision: ...
    async def adapt(
        self,
        symbols: tuple[str, ...],
        frames: Mapping[str, pd.DataFrame] | None,
        bars: int | None,
        regime: str | None,
        now: datetime | None,
    ) -> StoredAdaptation: ...
    async def adaptations(self) -> list[StoredAdaptation]: ...
    async def adaptation(self, number: str) -> StoredAdaptation: ...
    async def remove_adaptation(self, number: str) -> None: ...
    async def models(self) -> list[ModelVersion]: ...
    async def promote(self, version: str, reason: str) -> ModelInfo: ...
    async def rollback(self, reason: str) -> ModelInfo: ...


class _Remote:
    """Every method of a deployment, through a handle; what Ray raises becomes what the routes know."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any) -> Any:
            try:
                return await getattr(self._handle, name).remote(*arguments)
            except (RayError, BackPressureError, DeploymentUnavailableError) as error:
                raise _known(error) from None

        return ask


def remote_service(handle: DeploymentHandle) -> Service:
    """Return the service behind the handle of the feature deployment."""
    return cast(Service, _Remote(handle))


def _known(error: BaseException) -> BaseException:
    """Return the cause of a failed call as one of the errors that have an answer of their own."""
    cause = error
    while isinstance(cause, RayTaskError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ServiceError | DataError):
        return type(cause)(*cause.args)
    if isinstance(cause, RayError | BackPressureError | DeploymentUnavailableError) and not isinstance(cause, RayTaskError):
        return ModelUnavailableError("the service is busy or a part of it is starting; send the request again")
    return error
