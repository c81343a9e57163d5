"""The deployments: one that holds the model, and a thin ingress that speaks HTTP."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import pandas as pd
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve import Deployment
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from cryptoml.errors import DataError
from cryptoml.live.prediction import Prediction
from cryptoml.live.predictor import Predictor
from serve.api import create_app
from serve.problems import ModelUnavailableError
from serve.requests import ModelInfo

__all__ = ["HttpIngress", "Ingress", "LocalModel", "Model", "RemoteModel"]


class LocalModel:
    """A predictor in this process, on its GPU where there is one; the plain part of the model deployment."""

    def __init__(self, bundle: str) -> None:
        self._predictor = Predictor(bundle, device="cuda" if torch.cuda.is_available() else "cpu")

    async def predict(self, frames: Mapping[str, pd.DataFrame], now: datetime) -> tuple[ModelInfo, list[Prediction]]:
        """Forecast in a thread, so that the event loop answers others meanwhile."""
        predictions = await asyncio.to_thread(self._predictor.predict, frames, now=now)
        return await self.info(), predictions

    async def info(self) -> ModelInfo:
        """Describe the loaded bundle."""
        predictor = self._predictor
        return ModelInfo(
            version=predictor.version,
            timeframe=predictor.timeframe,
            horizon_bars=predictor.horizon_bars,
            history_bars=predictor.history_bars,
            symbols=list(predictor.symbols),
        )


class RemoteModel:
    """The same calls through a handle; what Ray raises becomes what the interface knows."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def predict(self, frames: Mapping[str, pd.DataFrame], now: datetime) -> tuple[ModelInfo, list[Prediction]]:
        """Forecast on a replica."""
        try:
            return await self._handle.predict.remote(dict(frames), now)
        except RayTaskError as error:
            if isinstance(error.cause, DataError):
                raise DataError(str(error.cause)) from None
            raise
        except (BackPressureError, DeploymentUnavailableError, RayActorError) as error:
            raise ModelUnavailableError("the model is busy or starting; send the request again") from error

    async def info(self) -> ModelInfo:
        """Describe the bundle of a replica."""
        try:
            return await self._handle.info.remote()
        except (BackPressureError, DeploymentUnavailableError, RayActorError) as error:
            raise ModelUnavailableError("no model is loaded yet") from error


class HttpIngress:
    """HTTP in front of the model deployment."""

    def __init__(self, model: DeploymentHandle) -> None:
        self._model = RemoteModel(model)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application that this replica answers with; called by Serve after the constructor."""
        return create_app(self._model)


Model: Deployment = serve.deployment(name="Model", max_ongoing_requests=4, max_queued_requests=64)(LocalModel)
Ingress: Deployment = serve.deployment(name="Ingress", max_ongoing_requests=64)(serve.ingress()(HttpIngress))
