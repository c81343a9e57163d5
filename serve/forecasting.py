"""From a question to answers across deployments: members, combination, calibration, adaptation, signal."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import ray
from ray.serve.handle import DeploymentHandle

from cryptoml.data.schema import normalise_symbol
from cryptoml.errors import ConfigError
from cryptoml.live.adaptation import Adaptation
from cryptoml.live.inputs import Question
from cryptoml.live.prediction import Prediction
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import Bundle
from cryptoml.models.ensemble import Predictions
from serve.adaptation_store import AdaptationStore
from serve.problems import ConflictError, InvalidFieldError

__all__ = ["NO_ADAPTATION", "Forecasting", "ServedModel", "spelled"]

NO_ADAPTATION = "none"


@dataclass(frozen=True)
class ServedModel:
    """One version, whole.

    Attributes:
        version: Its name in answers.
        predictor: Its inputs and answers.
        bundle: Its ensemble.
        key: Its name in the registry; empty where a bundle is served.
    """

    version: str
    predictor: Predictor
    bundle: Bundle
    key: str


class Forecasting:
    """Ask the members and the adapter.

    Args:
        members: Handles of the member deployments.
        adapter: Handle of the adapter deployment.
        store: The adaptations.
    """

    def __init__(self, members: Sequence[DeploymentHandle], adapter: DeploymentHandle, store: AdaptationStore) -> None:
        self._members, self._adapter, self._store = list(members), adapter, store
        self._sent: tuple[Any, Any] = (None, None)

    async def forecast(self, model: ServedModel, question: Question) -> Predictions | None:
        """Return predictions `[asset, origin, ...]`, all by members of one version; None where nothing can be forecast."""
        if not question.intake.usable:
            return None
        ensemble, origins = model.bundle.ensemble, len(question.timestamps)
        features = self._once(question.features)
        asked = [
            self._members[place % len(self._members)].forecast.remote(model.key, place, features) if weight > 0 else None
            for place, weight in enumerate(ensemble.weights)
        ]
        found = iter(await asyncio.gather(*(response for response in asked if response is not None)))
        normalised = [None if response is None else next(found) for response in asked]
        return ensemble.combine(normalised, question.sigma[:, -origins:])

    def _once(self, features: np.ndarray) -> Any:
        """Return a reference to an array in the object store, the same one for all who ask at one state of the bars."""
        if not ray.is_initialized():
            return features
        if self._sent[0] is not features:
            self._sent = (features, ray.put(features))
        return self._sent[1]

    async def answers(
        self, model: ServedModel, question: Question, predictions: Predictions | None, adaptation: str | None
    ) -> list[Prediction]:
        """Return one prediction per symbol asked about.

        Args:
            model: The version that forecast.
            question: What was asked.
            predictions: From `forecast`; left as they are.
            adaptation: Id of the adaptation to use; each symbol's active one where None, none where `NO_ADAPTATION`.

        Raises:
            NotFoundError: There is no adaptation with this id.
            ConflictError: It was learned with another model, or was rolled back.
        """
        chosen = await asyncio.to_thread(self._chosen, model, question, adaptation)
        if predictions is not None and chosen:
            predictions = await self._moved(model, question, predictions, chosen)
        return model.predictor.answer(question, predictions, {symbol: one.id for symbol, one in chosen.items()})

    def _chosen(self, model: ServedModel, question: Question, adaptation: str | None) -> dict[str, Adaptation]:
        asked = question.intake.usable.keys() & set(question.intake.order)
        if adaptation == NO_ADAPTATION or not asked:
            return {}
        if adaptation is None:
            active = {symbol: self._store.active(symbol, model.predictor.version) for symbol in asked}
            return {symbol: one for symbol, one in active.items() if one is not None}
        one = self._store.get(adaptation).adaptation
        if one.model != model.predictor.version:
            raise ConflictError(f"adaptation {one.id} was learned with model {one.model}, not {model.version}", "/adaptation")
        if not one.accepted:
            raise ConflictError(f"adaptation {one.id} was rolled back: {one.reason}", "/adaptation")
        return {symbol: one for symbol in asked if symbol in one.symbols}

    async def _moved(
        self, model: ServedModel, question: Question, predictions: Predictions, chosen: Mapping[str, Adaptation]
    ) -> Predictions:
        """Return a copy with the chosen symbols' forecasts moved, each adaptation by a replica that holds it."""
        symbols = model.predictor.symbols
        sigma = question.sigma[:, -len(question.timestamps) :]
        groups = {
            one.id: [row for row, name in enumerate(symbols) if name in chosen and chosen[name].id == one.id]
            for one in chosen.values()
        }
        handle: Any = self._adapter
        moved = await asyncio.gather(
            *(
                handle.options(multiplexed_model_id=number).move.remote(
                    number, model.key, predictions.of_assets(rows), sigma[rows]
                )
                for number, rows in groups.items()
            )
        )
        copy = predictions.of_assets(range(len(symbols)))
        for rows, part in zip(groups.values(), moved, strict=True):
            for name in (one.name for one in fields(copy)):
                getattr(copy, name)[rows] = getattr(part, name)
        return copy


def spelled(symbols: Sequence[str], field: str) -> tuple[str, ...]:
    """Return symbols in the lake's spelling.

    Raises:
        InvalidFieldError: One is no symbol, or occurs twice.
    """
    try:
        named = tuple(normalise_symbol(symbol) for symbol in symbols)
    except ConfigError as error:
        raise InvalidFieldError(str(error), field) from None
    if len(set(named)) < len(named):
        raise InvalidFieldError(f"symbols must differ, were {', '.join(named[:10])}", field)
    return named
