"""A hyperparameter sweep on the cluster: Ray Tune schedules the plain trials, Optuna proposes them.

The fold's arrays lie once in the object store; trial actors are reused. Trials without early stopping by rank end the
same in any order, so a short sweep (up to ten trials, which Optuna draws at random) repeats exactly for a seed.
"""

import logging
import os
import tempfile
from functools import partial
from typing import Any

import optuna
import ray
import torch
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from cryptoml.distributed.progress import SweepProgress
from cryptoml.distributed.resources import num_slots
from cryptoml.errors import CryptomlError
from cryptoml.training.member import FoldData, MemberTask
from cryptoml.training.search_space import SearchSpace
from cryptoml.training.sweep import SweepConfig, SweepTrial, run_trial

__all__ = ["run_sweep"]

logger = logging.getLogger(__name__)

METRIC = "val_loss"


def run_sweep(data: FoldData, task: MemberTask, config: SweepConfig, *, cpus_per_trial: float = 1.0) -> list[SweepTrial]:
    """Try `config.num_trials` configurations, as many at once as the cluster holds; a failed one is recorded.

    Raises:
        CryptomlError: Every trial failed; the message is that of the last.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # its handler takes Ctrl-C for the end of the sweep, and stays afterwards
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(space=partial(_draw, config.space), metric=METRIC, mode="min", seed=task.training.seed)
    trainable = tune.with_parameters(_trial, shared=[ray.put(data)], task=task, max_epochs=config.max_epochs)
    with tempfile.TemporaryDirectory(prefix="cryptoml-sweep-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": cpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(search, max_concurrent=max(1, num_slots(cpus_per_trial))),
                num_samples=config.num_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[SweepProgress(config.num_trials)]),
        )
        grid = tuner.fit()
        trials = [_record(number, grid[number]) for number in range(len(grid))]
    if all(trial.state == "FAIL" for trial in trials):
        raise CryptomlError(f"every trial of the sweep failed, the last with: {_reason(grid[len(grid) - 1])}")
    return trials


def _draw(space: SearchSpace, trial: Any) -> None:
    """Draw in the way that OptunaSearch wants: it records the suggestions itself and takes no result."""
    space.suggest(trial)


def _trial(parameters: dict[str, Any], shared: list[ray.ObjectRef], task: MemberTask, max_epochs: int) -> None:
    """Run the plain trial in a Tune actor."""
    torch.set_num_threads(1)
    tune.report({METRIC: run_trial(ray.get(shared[0]), task, parameters, max_epochs)})


def _record(number: int, result: "tune.Result") -> SweepTrial:
    metrics = result.metrics or {}
    loss = metrics.get(METRIC)
    state = "COMPLETE" if result.error is None and loss is not None else "FAIL"
    if state == "FAIL":
        logger.warning("trial %d of the sweep failed: %s", number, _reason(result))
    return SweepTrial(number, dict(result.config or {}), loss, float(metrics.get("time_total_s", 0.0)), state)


def _reason(result: "tune.Result") -> str:
    """Return the last line of a trial's error, which holds its message."""
    return str(result.error).strip().splitlines()[-1] if result.error is not None else "it reported no loss"
