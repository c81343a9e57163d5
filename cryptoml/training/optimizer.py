"""Hyperparameter search for any model: a factory, data, and the plain training loop."""

import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import optuna
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.errors import ConfigError
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.objectives import PairObjective, objective_of
from cryptoml.training.randomness import seeded
from cryptoml.training.search import Engine, search
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.search_space import FEATURE_GROUPS, HYPERPARAMETERS, SearchSpace, Trial
from cryptoml.training.study import Study
from cryptoml.training.sweep import best_parameters
from cryptoml.training.trainer import fit
from cryptoml.training.trial import Report, Worker

__all__ = ["Data", "FactoryObjective", "HyperparameterOptimizer", "Suggests"]

Data = tuple[Any, Any] | Iterable[Any]


class Suggests(Protocol):
    """A search space: anything that draws a configuration from a trial."""

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw one configuration."""


@dataclass(frozen=True, eq=False)
class FactoryObjective:
    """A trial: build a model, fit it, and return its best validation loss.

    Attributes:
        model_factory: Takes the suggested hyperparameters as one dict, or those it names as keywords.
        train_data: (X, y) or a loader.
        val_data: The same, for validation.
        config: Settings of the loop that the search does not vary.
        loss_fn: (prediction, y) -> scalar for (x, y) data, or None.
        device: Where to train, unless the worker says.
        seed: Of each model's weights.
    """

    model_factory: Callable[..., nn.Module]
    train_data: Data
    val_data: Data
    config: TrainingConfig
    loss_fn: Callable[[Any, Tensor], Tensor] | None
    device: torch.device | str
    seed: int

    def __call__(self, parameters: Mapping[str, Any], report: Report, worker: Worker) -> dict[str, float]:
        """Fit one suggested model.

        Raises:
            DataError: The loss is not finite.
        """
        loop = {name: value for name, value in parameters.items() if name in TrainingConfig.model_fields}
        config = self.config.updated(**loop)
        with seeded(self.seed):
            model = _build(self.model_factory, dict(parameters))
        pairs = isinstance(self.train_data, tuple) or self.loss_fn is not None
        best = float("inf")

        def after_epoch(end: EpochEnd) -> None:
            nonlocal best
            best = min(best, end.metrics["val_loss"])
            report(end.epoch, best)

        result = fit(
            model,
            _loader(self.train_data, config.batch_size, worker, shuffle=True),
            _loader(self.val_data, config.batch_size, worker, shuffle=False),
            config,
            objective=PairObjective(self.loss_fn) if pairs else objective_of(model, config),
            on_epoch_end=after_epoch,
            device=worker.device or self.device,
            progress=False,
            rank=worker.rank,
            world_size=worker.world_size,
        )
        return {"loss": result.best_validation_loss}


class HyperparameterOptimizer:
    """Find the hyperparameters with the least validation loss; trials below the others end early.

    Args:
        model_factory: Builds a model from the suggested hyperparameters: takes one dict, or those it names as keywords.
        train_data: (X, y) arrays or tensors, or a loader; `suggested["batch_size"]` applies to arrays only.
        val_data: The same, for validation; part of the training span, never of the test span.
        device: Where to train; the CPU by default.
        n_trials: Trials that the study shall hold in the end.
        search_space: What may vary: a `SearchSpace`, a dict of its fields, or anything with `suggest(trial)`.
        config: Settings of the loop that the search does not vary.
        search: Sampler, pruner and warm start.
        loss_fn: (prediction, y) -> scalar for (x, y) data; by default what fits y.
        storage: Optuna storage URL, such as `sqlite:///study.db`, or a path; in memory by default.
        study_name: Name in that storage; a study that exists there goes on. A new one by default.
        seed: Seed of the sampler and of each model's weights.
        engine: Where trials run; one after the other in this process by default.

    Attributes:
        trials: The tried configurations with what came of them.

    Raises:
        ConfigError: `n_trials` is below 1, X and y differ in length, the space is empty or names what it does not know, or the
            storage cannot be written.
    """

    def __init__(
        self,
        model_factory: Callable[..., nn.Module],
        train_data: Data,
        val_data: Data,
        device: torch.device | str | None = None,
        n_trials: int = 50,
        *,
        search_space: Suggests | Mapping[str, Any] | None = None,
        config: TrainingConfig | None = None,
        search: SearchConfig | None = None,
        loss_fn: Callable[[Any, Tensor], Tensor] | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> None:
        if type(n_trials) is not int or n_trials < 1:
            raise ConfigError(f"n_trials must be at least 1, and a whole number, was {n_trials!r}")
        if not callable(model_factory):
            raise ConfigError(f"model_factory must be callable, was {model_factory!r}")
        settings, loop = search or SearchConfig(), config or TrainingConfig(max_epochs=10)
        if settings.objectives != ("loss",):
            raise ConfigError(f"objectives must be ('loss',), all that these trials report, were {settings.objectives}")
        self.engine, self.search_space = engine, _space(search_space)
        data = _as_tensors("train_data", train_data), _as_tensors("val_data", val_data)
        self.objective = FactoryObjective(model_factory, *data, loop, loss_fn, device or "cpu", seed)
        self._study = Study(
            self.search_space.suggest,
            settings.model_copy(update={"num_trials": n_trials}),
            loop.max_epochs,
            seed=seed,
            storage=storage,
            name=study_name or f"search-{uuid.uuid4()}",
        )
        self.trials = self._study.trials

    def optimize(self) -> dict[str, Any]:
        """Run the trials that the study still lacks and return the best one's hyperparameters.

        A trial that fails, for want of memory or a loss that is not finite, is recorded, and the search goes on.

        Raises:
            CryptomlError: Not one trial finished.
        """
        self.trials = search(self.objective, self._study, self.engine)
        return best_parameters(self.trials)

    @property
    def study(self) -> optuna.Study:
        """The finished trials as an Optuna study, for its charts."""
        return self._study.as_optuna()


def _space(given: Suggests | Mapping[str, Any] | None) -> Suggests:
    """Return the space; by default everything but groups of features, which only a fold's data has."""
    if given is None:
        return SearchSpace(search=tuple(name for name in HYPERPARAMETERS if name != FEATURE_GROUPS))
    if isinstance(given, Mapping):
        if not given:
            raise ConfigError("search_space must hold at least one hyperparameter, was empty")
        try:
            given = SearchSpace.model_validate({"search": tuple(name for name in given if name != "search")} | dict(given))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"search_space {'.'.join(map(str, first['loc']))}: {first['msg']}, was {first['input']!r}"
            ) from error
    return given.require_variety() if isinstance(given, SearchSpace) else given


def _build(factory: Callable[..., nn.Module], suggested: dict[str, Any]) -> nn.Module:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return factory(**suggested)
    named = {parameter.name for parameter in parameters} & set(suggested)
    return factory(**{name: suggested[name] for name in named}) if named else factory(dict(suggested))


def _as_tensors(name: str, data: Data) -> Data:
    """Return (X, y) as tensors, floats of arrays in torch's own precision, as the weights of a model are; or the loader."""
    if not isinstance(data, tuple):
        return data
    try:
        x, y = (part if isinstance(part, Tensor) else _tensor(np.asarray(part)) for part in data)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be (X, y) arrays of numbers: {error}") from error
    if len(x) != len(y) or len(x) == 0:
        raise ConfigError(f"{name}: X and y must hold the same number of examples, at least 1; held {len(x)} and {len(y)}")
    return x, y


def _tensor(values: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _loader(data: Data, batch_size: int, worker: Worker, *, shuffle: bool) -> Iterable[Any]:
    """Batch arrays, of which each data-parallel worker takes its part; the first examples fill up unequal parts."""
    if not isinstance(data, tuple):
        if worker.world_size > 1:
            raise ConfigError(f"train_data and val_data must be (X, y) arrays for {worker.world_size} workers, was a loader")
        return data
    x, y = cast(tuple[Tensor, Tensor], _as_tensors("data", data))
    if worker.world_size > 1:
        rows = np.resize(np.arange(len(x)), -(-len(x) // worker.world_size) * worker.world_size)[worker.rank :: worker.world_size]
        x, y = x[rows], y[rows]
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)
