"""Fit the members of an ensemble side by side, one Ray Train run each.

The fold's arrays lie once in the object store and reach workers without a copy. Run names are deterministic: the same
submission on the same storage resumes each run from its last checkpoint.
"""

import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import train
from ray.train.torch import TorchTrainer, prepare_model

from cryptoml.distributed.cluster import num_slots
from cryptoml.distributed.progress import epoch_counter, epoch_progress
from cryptoml.errors import CryptomlError
from cryptoml.training.config import EpochEnd
from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member, load_fitted, save_fitted

__all__ = ["WorkerConfig", "fit_members"]

FITTED = "fitted.safetensors"
POLL_SECONDS = 1.0


class WorkerConfig(BaseModel):
    """What each member's training run may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_workers: int = Field(1, ge=1, description="Data-parallel workers of one member")
    cpus: float = Field(1.0, gt=0, description="CPUs of one worker")
    gpus: float = Field(0.0, ge=0, description="GPUs of one worker; a fraction shares one")
    max_failures: int = Field(2, ge=0, description="Worker failures from which one run recovers")
    max_concurrent: int | None = Field(None, ge=1, description="Members fitted at once; None is as many as the cluster holds")


def fit_members(
    data: FoldData, tasks: Sequence[MemberTask], folder: str, *, workers: WorkerConfig | None = None
) -> list[FittedMember]:
    """Fit all tasks on the cluster, as many at once as it holds; results in the order of `tasks`.

    Args:
        data: The fold, shared by all tasks.
        tasks: Members to fit; their names must differ.
        folder: Where runs keep their checkpoints, local or `s3://`; all nodes must reach it.
        workers: Resources of each run.

    Raises:
        CryptomlError: A member failed more often than `max_failures`.
    """
    workers, shared, counter = workers or WorkerConfig(), ray.put(data), epoch_counter()
    slots = num_slots(workers.cpus * workers.num_workers, workers.gpus * workers.num_workers)
    slots = min(slots, workers.max_concurrent or slots)
    queue, running, fitted = deque(tasks), dict[Any, MemberTask](), dict[str, FittedMember]()
    with epoch_progress(counter, sum(task.training.max_epochs for task in tasks), "members") as refresh:
        while queue or running:
            while queue and len(running) < slots:
                task = queue.popleft()
                running[_run.remote([shared], task, folder, workers, counter)] = task
            for run in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                task = running.pop(run)
                fitted[task.name] = _result(run, task.name)
            refresh()
    return [fitted[task.name] for task in tasks]


def _result(run: ray.ObjectRef, name: str) -> FittedMember:
    try:
        return ray.get(run)
    except ray.exceptions.RayError as error:
        cause = str(getattr(error, "cause", None) or error).strip() or type(error).__name__
        raise CryptomlError(f"member {name} could not be fitted: {cause.splitlines()[-1]}") from error


@ray.remote(num_cpus=0.01)
def _run(shared: list[ray.ObjectRef], task: MemberTask, folder: str, workers: WorkerConfig, counter: Any) -> FittedMember:
    """Drive one Train run; `shared` is a list so that Ray passes the reference on instead of fetching the arrays."""
    trainer = TorchTrainer(
        _work,
        train_loop_config={"shared": shared, "task": task, "counter": counter},
        scaling_config=train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=train.RunConfig(
            name=task.name,
            storage_path=folder,
            failure_config=train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as checkpoint:
        return load_fitted(Path(checkpoint) / FITTED)


def _work(config: dict[str, Any]) -> None:
    """Fit on one worker: the plain function, reporting each epoch's checkpoint to Ray Train."""
    task: MemberTask = config["task"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        latest = train.get_checkpoint()
        if latest is not None:
            latest.to_directory(folder)

        def report(event: EpochEnd) -> None:
            checkpoint = train.Checkpoint.from_directory(folder) if event.checkpoint is not None else None
            train.report(event.metrics, checkpoint=checkpoint)
            config["counter"].tick.remote()

        fitted = fit_member(
            ray.get(config["shared"][0]),
            task,
            checkpoint_dir=folder,
            on_epoch_end=report,
            prepare_model=prepare_model,
            device=train.torch.get_device(),
            progress=False,
        )
        save_fitted(folder / FITTED, fitted)
        train.report({"val_loss": fitted.validation_loss}, checkpoint=train.Checkpoint.from_directory(folder))
