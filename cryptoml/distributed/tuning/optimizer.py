"""The public hyperparameter search: on Ray where a cluster is at hand or asked for, else in this process."""

import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from cryptoml.errors import ConfigError
from cryptoml.training import optimizer
from cryptoml.training.optimizer import Data
from cryptoml.training.search import run_here
from cryptoml.training.study import Study
from cryptoml.training.trial import Objective
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["HyperparameterOptimizer"]


class HyperparameterOptimizer(optimizer.HyperparameterOptimizer):
    """Find the hyperparameters with the least validation loss; trials below the others end early.

    Args:
        model_factory: Builds a model from the suggested hyperparameters: takes one dict, or those it names as keywords.
        train_data: (X, y) arrays or tensors, or a loader.
        val_data: The same, for validation; part of the training span, never of the test span.
        device: Where to train; the CPU by default.
        n_trials: Trials that the study shall hold in the end.
        engine: `ray` runs trials side by side on the cluster (that of `RAY_ADDRESS`, or a private one on this machine), `local`
            one after the other in this process; `auto` is `ray` where the process is connected to a cluster or
            `RAY_ADDRESS` names one.
        workers: What a trial holds on Ray; by default one CPU, and one GPU where the device is one.
        settings: The other settings of `cryptoml.training.optimizer.HyperparameterOptimizer`, by keyword.

    Raises:
        ConfigError: A setting is impossible; the message names it.
    """

    def __init__(
        self,
        model_factory: Callable[..., nn.Module],
        train_data: Data,
        val_data: Data,
        device: torch.device | str | None = None,
        n_trials: int = 50,
        *,
        engine: Literal["auto", "ray", "local"] = "auto",
        workers: WorkerConfig | None = None,
        **settings: Any,
    ) -> None:
        if engine not in ("auto", "ray", "local"):
            raise ConfigError(f"engine must be 'auto', 'ray' or 'local', was {engine!r}")
        super().__init__(model_factory, train_data, val_data, device, n_trials, **settings)
        self.workers = workers
        self.engine = self._run_on_ray if engine == "ray" or (engine == "auto" and _cluster_at_hand()) else run_here

    def _run_on_ray(self, objective: Objective, study: Study) -> None:
        from cryptoml.distributed.cluster import cluster  # imports Ray, which a search in this process does without
        from cryptoml.distributed.tuning.engine import RayEngine

        workers = self.workers or WorkerConfig(gpus=1.0 if str(self.objective.device).startswith("cuda") else 0.0)
        with cluster(dashboard=workers.num_workers > 1):
            RayEngine(workers)(objective, study)


def _cluster_at_hand() -> bool:
    """Tell whether this process is connected to a cluster or told where one is, without importing Ray."""
    connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    return connected or bool(os.environ.get("RAY_ADDRESS"))
