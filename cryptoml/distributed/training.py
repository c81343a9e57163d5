"""Fit the members of an ensemble side by side, one Ray Train run each.

The fold's arrays lie once in the object store of each node and reach workers without a copy. The name of a run covers
all that decides its result, so the same submission on the same storage resumes each run from its last checkpoint, and a
changed one starts anew.

A member of one worker trains inside the task that drives its run: one process instead of seven, and a third of the
start-up. Where the last member would leave other slots idle, one gives way between two epochs and goes on elsewhere from its
checkpoint. Several workers form a group that Ray Train places, connects (gloo or NCCL) and restarts.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from cryptoml.data.storage import open_storage
from cryptoml.distributed.member_store import MemberStore, require_writable
from cryptoml.distributed.progress import MemberProgress
from cryptoml.distributed.resources import slots_for
from cryptoml.distributed.schedule import pieces_of
from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training.config import EpochEnd
from cryptoml.training.cost import relative_cost
from cryptoml.training.identity import data_fingerprint, fit_key
from cryptoml.training.member import FittedMember, FoldData, MemberTask, fit_member
from cryptoml.training.member_curves import OnMemberEpoch, hear_nothing
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["WorkerConfig", "fit_members", "run_names"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
KEY_LENGTH = 16


@dataclass(frozen=True)
class _Run:
    """One member on its way.

    Attributes:
        name: Of the run, and of its folder.
        folder: Storage of all runs.
        until: Epochs after which it gives way to another; None is its end.
        shared: The fold, as a list so that Ray passes the reference on instead of fetching the arrays.
    """

    task: MemberTask
    name: str
    folder: str
    workers: WorkerConfig
    until: int | None = None
    shared: tuple[ray.ObjectRef, ...] = ()

    @property
    def store(self) -> MemberStore:
        return MemberStore(self.folder, self.name)


def run_names(data: FoldData, tasks: Sequence[MemberTask], num_workers: int = 1) -> list[str]:
    """Return the names of the members' runs: that of the task, and a key of everything that decides the result."""
    fingerprint = data_fingerprint(data)
    return [f"{task.name}-{fit_key(task, fingerprint, num_workers)[:KEY_LENGTH]}" for task in tasks]


def fit_members(
    data: FoldData,
    tasks: Sequence[MemberTask],
    folder: str,
    *,
    workers: WorkerConfig | None = None,
    on_epoch: OnMemberEpoch = hear_nothing,
) -> list[FittedMember]:
    """Fit all tasks on the cluster, as many at once as it holds; results in the order of `tasks`.

    A member that an earlier submission has finished on the same storage is read, not fitted again.

    Args:
        data: The fold, shared by all tasks.
        tasks: Members to fit; their names must differ.
        folder: Where runs keep checkpoints and fitted members, local or `s3://`; all nodes must reach it.
        workers: Resources of each run.
        on_epoch: Told, in the caller's process, of every epoch of every member, those of an earlier submission included.

    Raises:
        ConfigError: Before anything starts: names repeat, the storage cannot be written, or the cluster can never hold one run.
        CryptomlError: A member cannot be fitted, or lost its worker more often than `max_failures`. What its data or its
            settings are to blame for is raised at once, as a `DataError` or `ConfigError`. Checkpoints stay.
    """
    workers = workers or WorkerConfig()
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ConfigError(f"tasks must have different names, were {names}")
    require_writable(folder)
    slots_for(workers, len(tasks))
    runs = [
        _Run(task, name, folder, workers) for task, name in zip(tasks, run_names(data, tasks, workers.num_workers), strict=True)
    ]
    fitted = {run.name: found for run in runs if (found := run.store.fitted()) is not None}
    missing = [run for run in runs if run.name not in fitted]
    with MemberProgress(on_epoch, sum(run.task.training.max_epochs for run in runs)) as progress:
        for found in fitted.values():
            progress.finish(found.name, found.history)
        if missing:
            fitted |= _fit_all(data, missing, workers, progress)
    return [fitted[run.name] for run in runs]


def _fit_all(data: FoldData, runs: Sequence[_Run], workers: WorkerConfig, progress: MemberProgress) -> dict[str, FittedMember]:
    """Keep as many runs going as the cluster holds until all are done; an error ends those that go."""
    slots, shared = slots_for(workers, len(runs)), (ray.put(data),)
    waiting = [replace(run, shared=shared) for run in _laid_out(runs, slots)]
    running, fitted, failures = dict[ray.ObjectRef, _Run](), dict[str, FittedMember](), Counter[str]()
    with _ended(running):
        while waiting or running:
            while len(running) < slots and (run := _next(waiting, running)) is not None:
                waiting.remove(run)
                running[_start(run)] = run
            for done in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                run = running.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayError as error:
                    failures[run.name] += 1
                    _raise_unless_lost(error, run, failures[run.name])
                    waiting.insert(0, run)
                else:
                    fitted |= {} if result is None else {run.name: _finished(result, run, progress)}
            progress.look({run.task.name: run.store for run in running.values()})
    return fitted


def _laid_out(runs: Sequence[_Run], slots: int) -> list[_Run]:
    """Return the runs, some of them in two parts, in the order in which they should start.

    Groups of workers and compiled steps take too long to start for two parts.
    """
    costs = [relative_cost(run.task) for run in runs]
    epochs = [1 if run.workers.num_workers > 1 or run.task.training.compile else run.task.training.max_epochs for run in runs]
    return [replace(runs[piece.index], until=piece.until) for piece in pieces_of(costs, epochs, slots)]


def _next(waiting: Sequence[_Run], running: Mapping[ray.ObjectRef, _Run]) -> _Run | None:
    """Return the first run that waits, and not for a part of itself."""
    busy = {run.name for run in running.values()}
    return next((run for run in waiting if run.name not in busy), None)


@contextmanager
def _ended(running: Mapping[ray.ObjectRef, _Run]) -> Iterator[None]:
    """End what is left running."""
    try:
        yield
    finally:
        for task, run in running.items():
            ray.cancel(task, force=run.workers.num_workers == 1)


def _raise_unless_lost(error: ray.exceptions.RayError, run: _Run, failures: int) -> None:
    """Raise why a run ended, unless it lost its worker and may go on from its last checkpoint."""
    cause = _own_error(error)
    if cause is not None:
        raise type(cause)(f"member {run.task.name} could not be fitted: {cause}") from error
    reason, spent = _last_line(error), isinstance(getattr(error, "cause", None), train.WorkerGroupError)
    if spent or failures > run.workers.max_failures:
        raise CryptomlError(f"member {run.task.name} could not be fitted: {reason}") from error
    logger.warning("member %s goes on from its last checkpoint after: %s", run.task.name, reason)


def _finished(fitted: FittedMember, run: _Run, progress: MemberProgress) -> FittedMember:
    progress.finish(fitted.name, fitted.history)
    if not run.workers.keep_checkpoints:
        run.store.remove_checkpoint()
    logger.info("member %s: validation loss %.4f after %.0f s", run.task.name, fitted.validation_loss, fitted.seconds)
    return fitted


def _own_error(error: BaseException | None) -> CryptomlError | None:
    """Return the error of the user's making inside what Ray and Ray Train wrap around it."""
    if error is None or (isinstance(error, CryptomlError) and not isinstance(error, ray.exceptions.RayError)):
        return error
    inner = [getattr(error, "cause", None), getattr(error, "controller_failure", None)]
    inner += getattr(error, "worker_failures", {}).values()
    return next((found for one in inner if (found := _own_error(one)) is not None), None)


def _last_line(error: BaseException) -> str:
    text = str(getattr(error, "cause", None) or error).strip() or type(error).__name__
    return text.splitlines()[-1]


def _start(run: _Run) -> ray.ObjectRef:
    run.store.announce()
    workers = run.workers
    alone = {"num_cpus": workers.cpus, "num_gpus": workers.gpus} if workers.num_workers == 1 else {}
    return _drive.options(name=f"member {run.task.name}", **alone).remote(run)


@ray.remote(num_cpus=0, max_retries=0)
def _drive(run: _Run) -> FittedMember | None:
    """Drive one Train run to its end, or to where it gives way: there is no result yet."""
    _trainer(run).fit()
    return run.store.fitted() if run.until is None else None


def _trainer(run: _Run) -> TorchTrainer:
    workers, storage = run.workers, open_storage(run.folder)
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return TorchTrainer(
        _work,
        train_loop_config={"run": run},
        torch_config=TorchConfig(backend="nccl" if workers.gpus and torch.distributed.is_nccl_available() else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=workers.num_workers if workers.num_workers > 1 else 0,  # 0 is Train's word for "in this process"
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=run.name,
            storage_path=storage.base,
            storage_filesystem=storage.filesystem,
            failure_config=train.FailureConfig(max_failures=workers.max_failures),
            callbacks=[_NoSecondTry()],  # type: ignore[list-item]
        ),
    )


class _NoSecondTry(train.UserCallback):
    """Ends a run at once when data or settings are to blame: what fails there fails again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the error of the user's making, which Ray Train does not retry."""
        for error in worker_exceptions.values():
            if isinstance(error, CryptomlError):
                raise error


def _work(config: dict[str, Any]) -> None:
    """Fit on one worker: the plain function, publishing each resumable checkpoint.

    Nothing is reported to Ray Train: a report of several workers waits for its controller's next look, two seconds an epoch.
    """
    run: _Run = config["run"]
    store, context = run.store, train.get_context()
    store.require_visible()
    torch.set_num_threads(run.workers.threads)
    device, rank = _device(run.workers.gpus), context.get_world_rank()
    task = run.task if run.until is None else replace(run.task, training=run.task.training.updated(max_epochs=run.until))

    epochs = store.epochs() if rank == 0 else {}

    def after_epoch(end: EpochEnd) -> None:
        if rank == 0:
            epochs[end.epoch] = end.metrics
            store.publish_epochs(epochs)

    fitted = fit_member(
        ray.get(run.shared[0]),
        task,
        on_epoch_end=after_epoch,
        on_checkpoint=store.publish_checkpoint,
        resume=store.checkpoint() if rank == 0 else None,
        device=device,
        progress=False,
        rank=rank,
        world_size=context.get_world_size(),
    )
    if rank == 0 and run.until is None:
        store.publish_fitted(fitted)


def _device(gpus: float) -> torch.device:
    """Return the worker's device; of a shared GPU it takes no more memory than its share."""
    device = train.torch.get_device() if gpus else torch.device("cpu")
    if device.type == "cuda" and gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return device
