"""The training loop: one plain function, `fit`, under which nothing knows of Ray or of a search.

Orchestrators come in as values: `prepare_model` wraps the module whose forward gives a batch's loss (data parallel,
compiled), `on_epoch_end` hears every epoch and may raise to stop a trial.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import CHECKPOINT_NAME, pack, read_tensors, require_writable, unpack, write_file
from cryptoml.training.config import EpochEnd, FitResult, TrainingConfig
from cryptoml.training.events import EventLog
from cryptoml.training.failures import memory_hints
from cryptoml.training.feed import Feed, length_of
from cryptoml.training.learner import Learner
from cryptoml.training.objectives import Objective, PairObjective, objective_of
from cryptoml.training.randomness import derived_seed, seeded
from cryptoml.training.savepoint import restore_run, state_of_run
from cryptoml.training.workers import Workers

__all__ = ["EpochEnd", "FitResult", "TrainingConfig", "UltimateTrainer", "fit"]

OnEpochEnd = Callable[[EpochEnd], None]
OnCheckpoint = Callable[[bytes], None]


def fit(
    model: nn.Module,
    train: Iterable[Any],
    validation: Iterable[Any],
    config: TrainingConfig | None = None,
    *,
    objective: Objective | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    prepare_model: Callable[[nn.Module], nn.Module] | None = None,
    resume: str | Path | bytes | None = None,
    checkpoint_dir: str | Path | None = None,
    log_dir: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> FitResult:
    """Train a model with early stopping; it ends with the weights of the best validation epoch, in eval mode.

    The caller's random states are left as they were. A run that stopped after any checkpoint and resumed equals one that never
    stopped, bit by bit. Several workers that each take their part of every batch give the result of one worker with the
    whole batches, as far as sums in another order do and no dropout draws: each rank drops by random numbers of its own.

    Args:
        model: A forecaster with `dense(features, mask)` for `ChunkLoader`s, or any module for loaders of (x, y).
        train: Batches; a loader with `set_epoch`, or whose sampler has it, is told the epoch. With several workers the
            batches of this one: `ChunkLoader(shard=...)`, or a `DistributedSampler`.
        validation: Batches on which early stopping and the learning rate schedule depend; of this worker, as `train`.
        config: Settings of the loop.
        objective: Losses and metrics of a batch; by default what fits the model.
        on_epoch_end: Called after each epoch's checkpoint; what it raises ends the run and reaches the caller.
        on_checkpoint: Called on the first worker with the content of each resumable checkpoint, of an epoch or inside one,
            after it is written; needs no `checkpoint_dir`.
        prepare_model: Wraps the module that maps a portion of a step to its loss. Data parallelism needs none.
        resume: Checkpoint to go on from: a file, a folder with one, or the content. The first worker's counts.
        checkpoint_dir: Where the first worker keeps `last`, `best` and periodic checkpoints; none by default.
        log_dir: Where the first worker writes TensorBoard events; none by default.
        device: Where to train; where the model is by default.
        progress: Show a progress bar; by default only on a terminal.
        rank: Number of this worker among `world_size`.
        world_size: Workers that train together, in torch.distributed's default process group.

    Raises:
        DataError: A loss or gradient is not finite (names the batch's bars and symbols; the model keeps the best weights
            so far), there is no batch or no label, memory or disk is full, or a checkpoint cannot be read.
        ConfigError: A checkpoint was made with other settings, the workers disagree, or there is no such device.
    """
    config, workers = config or TrainingConfig(), Workers(rank, world_size)
    device = _present(device) if device is not None else _device_of(model)
    seed = config.seed if rank == 0 else derived_seed(config.seed, rank)
    with _current(device), seeded(seed), memory_hints(config, device):
        _require_batches(train, validation, workers)
        objective = (objective or objective_of(model, config)).to(device)
        feeds = Feed(train, device), Feed(validation, device)
        learner = Learner(model.to(device), objective, config, *feeds, prepare_model, workers)
        folder = _open_checkpoints(learner, resume, checkpoint_dir)
        events = EventLog(log_dir if rank == 0 else None, learner.epoch)
        try:
            _run_epochs(learner, on_epoch_end, _checkpoints(learner, folder, on_checkpoint), events, progress)
        finally:
            learner.restore_best()
            events.close()
    return learner.result()


def _open_checkpoints(learner: Learner, resume: str | Path | bytes | None, folder: str | Path | None) -> Path | None:
    """See that checkpoints can be written and go on from one; both places are those that the first worker was given."""
    first = learner.workers.by_first
    place = first(lambda: None if folder is None else require_writable(folder))
    found = first(lambda: None if resume is None else _checkpoint(resume))
    if found is not None:
        restore_run(learner, *found)
    return place


def _run_epochs(
    learner: Learner,
    on_epoch_end: OnEpochEnd | None,
    checkpoints: "_Checkpoints",
    events: EventLog,
    progress: bool | None,
) -> None:
    config, batches = learner.config, length_of(learner.train.loader)
    total = None if batches is None else config.max_epochs * batches
    done = 0 if batches is None else learner.epoch * batches + learner.progress.batch
    hidden = True if learner.workers.rank else None if progress is None else not progress
    with tqdm(total=total, initial=done, disable=hidden, unit="batch", leave=False) as bar:

        def on_step(batches: int) -> None:
            bar.update(batches)
            checkpoints.after_step(learner)

        while not learner.finished:
            waited = learner.train.waited
            row = {"train_loss": learner.train_epoch(on_step)} | learner.validate()
            improved = learner.end_epoch(row)
            checkpoints.after_epoch(learner, improved)
            events.add(learner.epoch, row | {"loading_seconds": learner.train.waited - waited})
            bar.set_postfix(epoch=learner.epoch, val_loss=f"{row['val_loss']:.4f}")
            if on_epoch_end is not None:
                on_epoch_end(EpochEnd(learner.epoch, row, improved, learner.model))


@dataclass(frozen=True)
class _Checkpoints:
    """Writes the checkpoints of a run, on all workers at once, and tells of the resumable ones."""

    folder: Path | None
    told: bool
    heard: OnCheckpoint | None

    def after_step(self, learner: Learner) -> None:
        """Write the resumable checkpoint where one is due inside the epoch."""
        config = learner.config
        steps = -(-learner.progress.batch // config.accumulate)
        if config.checkpoint_steps and steps % config.checkpoint_steps == 0:
            self._write(learner, [CHECKPOINT_NAME])

    def after_epoch(self, learner: Learner, improved: bool) -> None:
        """Write the best, the periodic and the resumable checkpoint, each where it is due."""
        config = learner.config
        names = ["best.safetensors"] if improved else []
        if config.keep_every and learner.epoch % config.keep_every == 0:
            names.append(f"epoch-{learner.epoch:04d}.safetensors")
        due = learner.epoch % config.checkpoint_every == 0 or learner.finished
        self._write(learner, names + [CHECKPOINT_NAME] * due)

    def _write(self, learner: Learner, names: list[str]) -> None:
        folder, told = self.folder, self.told and CHECKPOINT_NAME in names
        if not names or (folder is None and not told):
            return
        state = state_of_run(learner)
        content = pack(*state) if learner.workers.rank == 0 else b""
        if folder is not None:
            learner.workers.by_first(lambda: [write_file(folder / name, content) for name in names])
        if told and self.heard is not None and learner.workers.rank == 0:
            self.heard(content)


def _checkpoints(learner: Learner, folder: Path | None, heard: OnCheckpoint | None) -> _Checkpoints:
    return _Checkpoints(folder, learner.workers.by_first(lambda: heard is not None), heard)


def _checkpoint(resume: str | Path | bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any], Path]:
    """Return tensors and document of a checkpoint, and where it is from."""
    if isinstance(resume, bytes):
        return *unpack(resume, CHECKPOINT_NAME), Path(CHECKPOINT_NAME)
    path = Path(resume) / CHECKPOINT_NAME if Path(resume).is_dir() else Path(resume)
    return *read_tensors(path), path


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _present(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be one that torch knows, was {device!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device must be on this machine, which has {torch.cuda.device_count()} CUDA devices, was {device}")
    return found


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one, through which small values travel between workers."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _require_batches(train: Any, validation: Any, workers: Workers) -> None:
    lengths = length_of(train), length_of(validation)
    for name, batches in zip(("train", "validation"), lengths, strict=True):
        if batches == 0:
            raise DataError(f"{name} data must hold at least one batch, held none")
    told = workers.gather(lengths)
    if len(set(told)) > 1:
        raise ConfigError(f"all workers must have as many batches of training and validation data, had {told}")


class UltimateTrainer:
    """Train any model and keep its history: a thin face over `fit`.

    Args:
        model: A forecaster, or any module when the loaders yield (x, y).
        device: Where to train; where the model is by default.
        save_dir: Where to keep checkpoints; none by default.
        loss_fn: (prediction, y) -> scalar for (x, y) loaders; by default cross-entropy for integer y, else squared error.
        config: Settings that `train` does not name.
        log_dir: Where to write TensorBoard events; none by default.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        save_dir: str | Path | None = None,
        *,
        loss_fn: Callable[..., torch.Tensor] | None = None,
        config: TrainingConfig | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        self.model, self.device, self.save_dir, self.log_dir = model, device, save_dir, log_dir
        self.loss_fn, self.config = loss_fn, config or TrainingConfig()
        self.result: FitResult | None = None

    def train(
        self,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any],
        num_epochs: int = 100,
        learning_rate: float = 1e-3,
        patience: int = 10,
        grad_clip: float = 1.0,
        *,
        resume: bool = False,
    ) -> dict[str, list[float]]:
        """Train and return the history, one entry per epoch; see `FitResult`.

        With `resume`, go on from the checkpoint in `save_dir`.

        Raises:
            ConfigError: `resume` without `save_dir`, or a setting out of range.
            DataError: As for `fit`.
        """
        if resume and self.save_dir is None:
            raise ConfigError("resume needs save_dir, was None")
        named = {"max_epochs": num_epochs, "learning_rate": learning_rate, "patience": patience, "grad_clip": grad_clip}
        self.result = fit(
            self.model,
            train_loader,
            val_loader,
            self.config.updated(**named),
            objective=self._objective(train_loader),
            resume=self.save_dir if resume else None,
            checkpoint_dir=self.save_dir,
            log_dir=self.log_dir,
            device=self.device,
        )
        return self.result.history

    def _objective(self, train_loader: Iterable[Any]) -> Objective:
        pairs = self.loss_fn is not None or not hasattr(train_loader, "iterate")
        return PairObjective(self.loss_fn) if pairs else objective_of(self.model, self.config)
