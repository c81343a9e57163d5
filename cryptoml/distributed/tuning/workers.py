"""A trial of several data-parallel workers: a Tune trial without resources of its own drives a Train run that holds them."""

import os
import time
from typing import Any

import ray
import torch
from ray import train, tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.state import list_nodes

from cryptoml.data.storage import open_storage
from cryptoml.distributed.tuning.reports import epoch_report, facts_since, outcome_report, use_threads
from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training.trial import Outcome, Worker, attempt
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["require_dashboard", "run_workers"]

STATE_SECONDS = 20
POLL_SECONDS = "0.3"
"""How often Ray Train's controller looks for reports, which the workers wait for after each epoch."""


def require_dashboard() -> None:
    """Check that the cluster answers what runs there.

    Ray Train frees the workers of a trial that was stopped, or whose node was lost, only where it can ask that; elsewhere
    they would be held for good and the next trial would wait for them.

    Raises:
        ConfigError: The cluster has no dashboard.
    """
    try:
        address = ray.get_runtime_context().gcs_address  # this cluster's, where several run on one machine
        list_nodes(address=address, limit=1, timeout=STATE_SECONDS)
    except Exception as error:
        raise ConfigError(
            f"num_workers above 1 for a trial needs a cluster with its dashboard, which does not answer: {error}"
        ) from error


def run_workers(
    parameters: dict[str, Any], shared: list[ray.ObjectRef], workers: WorkerConfig, held: dict[str, float], folder: str
) -> None:
    """Run one trial as a Train run; its name is the trial's, so a trial that is retried goes on with it."""
    started, storage = time.time(), open_storage(folder)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    _tell_address()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"shared": shared, "parameters": parameters, "workers": workers, "held": held},
        torch_config=TorchConfig(backend="nccl" if workers.gpus and torch.distributed.is_nccl_available() else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.gpus > 0,
            resources_per_worker={name: value / workers.num_workers for name, value in held.items()},
        ),
        run_config=train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=storage.base,
            storage_filesystem=storage.filesystem,
            failure_config=train.FailureConfig(max_failures=workers.max_failures),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        facts = facts_since(started) | {"resources": held}
        tune.report(outcome_report(Outcome("FAIL", facts=facts, reason=reason)))


def _tell_address() -> None:
    """Have the processes of the Train run know their cluster.

    The one that frees the workers of a stopped trial asks whether the run is alive. Where several clusters run on one
    machine it cannot tell its own and gives up, and the workers would be held for good.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def _work(config: dict[str, Any]) -> None:
    """Run the objective on one worker; the first one's reports reach Tune.

    An error on purpose is the same on every worker and makes the trial's outcome. Any other, such as want of memory on
    one of them, ends them all, since the others would wait for it.
    """
    workers: WorkerConfig = config["workers"]
    context, started = train.get_context(), time.time()
    objective = ray.get(config["shared"][0])
    use_threads(workers.threads)
    worker = Worker(_device(workers.gpus), context.get_world_rank(), context.get_world_size())

    def report(step: int, value: float) -> None:
        train.report(epoch_report(step, value, started))

    outcome = attempt(objective, config["parameters"], report, worker, config["held"], catch=CryptomlError)
    train.report(outcome_report(outcome))


def _device(gpus: float) -> Any:
    """Return the worker's device; logical GPUs of a machine without any are its CPU."""
    return train.torch.get_device() if gpus and torch.cuda.is_available() else torch.device("cpu")
