"""Hyperparameter search in one process: Optuna over the plain training loop."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.config import EpochEnd, TrainingConfig
from cryptoml.training.objectives import PairObjective, objective_of
from cryptoml.training.search_space import SearchSpace
from cryptoml.training.trainer import fit

__all__ = ["HyperparameterOptimizer"]

Data = tuple[Any, Any] | Iterable[Any]


class HyperparameterOptimizer:
    """Find the hyperparameters with the least validation loss, pruning trials below the median.

    Args:
        model_factory: Builds a model from the suggested hyperparameters: takes one dict, or those it names as keywords.
        train_data: (X, y) arrays or tensors, or a loader; `suggested["batch_size"]` applies to arrays only.
        val_data: The same, for validation; part of the training span, never of the test span.
        device: Where to train; the CPU by default.
        n_trials: Trials to run.
        search_space: What may vary.
        config: Settings of the loop that the search does not vary.
        loss_fn: (prediction, y) -> scalar for (x, y) data; by default what fits y.
        storage: Optuna storage URL, such as `sqlite:///study.db`; in memory by default.
        study_name: Name in that storage; a study that exists there goes on.
        seed: Seed of the sampler and of each model's weights.

    Raises:
        ConfigError: `n_trials` is below 1.
    """

    def __init__(
        self,
        model_factory: Callable[..., nn.Module],
        train_data: Data,
        val_data: Data,
        device: torch.device | str | None = None,
        n_trials: int = 50,
        *,
        search_space: SearchSpace | None = None,
        config: TrainingConfig | None = None,
        loss_fn: Callable[[Any, Tensor], Tensor] | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        seed: int = 0,
    ) -> None:
        if n_trials < 1:
            raise ConfigError(f"n_trials must be at least 1, was {n_trials}")
        self.model_factory, self.train_data, self.val_data = model_factory, train_data, val_data
        self.device, self.n_trials, self.loss_fn, self.seed = device or "cpu", n_trials, loss_fn, seed
        self.search_space, self.config = search_space or SearchSpace(), config or TrainingConfig(max_epochs=10)
        self.study = _study(storage, study_name, seed)

    def optimize(self) -> dict[str, Any]:
        """Run the trials and return the best one's hyperparameters; `study` holds them all.

        A trial whose loss is not finite counts as failed, and the search goes on.

        Raises:
            DataError: Not one trial finished.
        """
        with _quiet():
            self.study.optimize(self.objective, n_trials=self.n_trials, catch=(DataError,), show_progress_bar=sys.stderr.isatty())
        finished = [trial for trial in self.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        if not finished:
            raise DataError(f"at least one of {self.n_trials} trials must finish, none did; is the loss finite?")
        return dict(self.study.best_trial.user_attrs["suggested"])

    def objective(self, trial: optuna.Trial) -> float:
        """Train one suggested model and return its best validation loss; raises TrialPruned below the median."""
        suggested = self.search_space.suggest(trial)
        trial.set_user_attr("suggested", suggested)
        config = self.config.updated(**{name: value for name, value in suggested.items() if name in TrainingConfig.model_fields})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = _build(self.model_factory, suggested)

        def prune(end: EpochEnd) -> None:
            trial.report(end.metrics["val_loss"], end.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        pairs = isinstance(self.train_data, tuple) or self.loss_fn is not None
        result = fit(
            model,
            _loader(self.train_data, config.batch_size, shuffle=True),
            _loader(self.val_data, config.batch_size, shuffle=False),
            config,
            objective=PairObjective(self.loss_fn) if pairs else objective_of(model, config),
            on_epoch_end=prune,
            device=self.device,
            progress=False,
        )
        return result.best_validation_loss


def _study(storage: str | None, study_name: str | None, seed: int) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=study_name,
        load_if_exists=study_name is not None,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )


def _build(factory: Callable[..., nn.Module], suggested: dict[str, Any]) -> nn.Module:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return factory(**suggested)
    named = {parameter.name for parameter in parameters} & set(suggested)
    return factory(**{name: suggested[name] for name in named}) if named else factory(dict(suggested))


def _loader(data: Data, batch_size: int, shuffle: bool) -> Iterable[Any]:
    if not isinstance(data, tuple):
        return data
    x, y = (part if isinstance(part, Tensor) else torch.from_numpy(np.asarray(part)) for part in data)
    if len(x) != len(y) or len(x) == 0:
        raise ConfigError(f"X and y must hold the same number of examples, at least 1; held {len(x)} and {len(y)}")
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's line per trial off a log that is not a terminal."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level if sys.stderr.isatty() else optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
