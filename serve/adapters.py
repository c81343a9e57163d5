"""The adapter deployment: learns small corrections and applies them, multiplexed by their id."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd
from ray import serve

from cryptoml.live.adaptation import Adaptation
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import Bundle
from cryptoml.models.ensemble import Predictions
from serve.adaptation_store import AdaptationStore, StoredAdaptation
from serve.metrics import count_adaptation
from serve.model_source import LoadedModels, ModelSource, watch
from serve.settings import AppArgs

__all__ = ["LocalAdapter"]


class LocalAdapter:
    """Adaptations in this process. Any replica can apply any of them: it reads the one asked for from the store.

    Args:
        args: Settings of the application.

    Raises:
        BundleError: The model cannot be loaded.
    """

    def __init__(self, args: AppArgs) -> None:
        self._store = AdaptationStore(args.state)
        self._models: LoadedModels[Predictor] = LoadedModels(ModelSource(args.bundle, args.registry), _predictor)
        watch(self._models, args.watch_seconds)

    @serve.multiplexed(max_num_models_per_replica=256)
    async def adaptation(self, number: str) -> Adaptation:
        """Return an adaptation by its id.

        Raises:
            NotFoundError: There is none.
        """
        return (await asyncio.to_thread(self._store.get, number)).adaptation

    async def move(self, number: str, version: str, predictions: Predictions, sigma: np.ndarray) -> Predictions:
        """Move forecasts by an adaptation; callers multiplex by its id, so that replicas that hold it are preferred.

        Args:
            number: Id of the adaptation.
            version: Of the model that made them.
            predictions: `[asset, origin, ...]` of the symbols to move.
            sigma: `[asset, origin]`.
        """
        one = await self.adaptation(number)
        return await asyncio.to_thread(lambda: self._models.get(version).adapted(predictions, sigma, one))

    async def adapt(
        self,
        version: str,
        frames: Mapping[str, pd.DataFrame],
        bars: int | None,
        symbols: Sequence[str],
        regime: str | None,
        now: datetime | None,
    ) -> StoredAdaptation:
        """Learn from the newest bars and keep what was learned; `Predictor.adapt` has the arguments.

        Raises:
            DataError: The bars cannot teach.
        """

        def learn() -> StoredAdaptation:
            found = self._models.get(version).adapt(frames, bars=bars, symbols=symbols, regime=regime, now=now)
            return self._store.add(found)

        stored = await asyncio.to_thread(learn)
        one = stored.adaptation
        known = one.loss_before is not None and one.loss_after is not None
        count_adaptation(one.accepted, one.loss_before - one.loss_after if known else None)  # type: ignore[operator]
        return stored


def _predictor(version: str, bundle: Bundle) -> Predictor:
    return Predictor(bundle)
