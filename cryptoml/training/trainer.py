"""The training loop: one plain function, `fit`, under which nothing knows of Ray or of a search.

Orchestrators come in as values: `prepare_model` wraps the module whose forward gives a batch's loss (data parallel,
compiled), `on_epoch_end` hears every epoch and may raise to stop a trial.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import CHECKPOINT_NAME, weights_of, write_tensors
from cryptoml.training.config import EpochEnd, FitResult, TrainingConfig
from cryptoml.training.learner import Learner
from cryptoml.training.objectives import Objective, PairObjective, objective_of

__all__ = ["EpochEnd", "FitResult", "TrainingConfig", "UltimateTrainer", "fit"]

OnEpochEnd = Callable[[EpochEnd], None]


def fit(
    model: nn.Module,
    train: Iterable[Any],
    validation: Iterable[Any],
    config: TrainingConfig | None = None,
    *,
    objective: Objective | None = None,
    on_epoch_end: OnEpochEnd | None = None,
    prepare_model: Callable[[nn.Module], nn.Module] | None = None,
    resume: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    log_dir: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Train a model with early stopping; it ends with the weights of the best validation epoch, in eval mode.

    The caller's random state is left as it was. A run stopped after k epochs and resumed equals one that never stopped.

    Args:
        model: A forecaster with `dense(features, mask)` for `ChunkLoader`s, or any module for loaders of (x, y).
        train: Sized iterable of batches; a `ChunkLoader` is told the epoch, so that its order can be resumed.
        validation: Batches on which early stopping and the learning rate schedule depend.
        config: Settings of the loop.
        objective: Losses and metrics of a batch; by default what fits the model.
        on_epoch_end: Called after each epoch's checkpoint; what it raises ends the run and reaches the caller.
        prepare_model: Wraps the module that maps a batch to its loss, such as DistributedDataParallel.
        resume: Checkpoint file, or a folder with one, to go on from.
        checkpoint_dir: Where to keep `last`, `best` and periodic checkpoints; none by default.
        log_dir: Where to write TensorBoard events; none by default.
        device: Where to train; where the model is by default.
        progress: Show a progress bar; by default only on a terminal.

    Raises:
        DataError: A loss or gradient is not finite (names the batch's bars and symbols; the model keeps the best weights
            so far), there is no batch, or a checkpoint cannot be read or written.
        ConfigError: A checkpoint was made with other settings.
    """
    config = config or TrainingConfig()
    device = torch.device(device) if device is not None else _device_of(model)
    _require_batches(train, validation)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        learner = Learner(model.to(device), (objective or objective_of(model, config)).to(device), config, device, prepare_model)
        if resume is not None:
            learner.resume(_checkpoint_file(resume))
        writer = _writer(log_dir)
        try:
            _run_epochs(learner, train, validation, on_epoch_end, checkpoint_dir, writer, progress)
        finally:
            learner.restore_best()
            if writer is not None:
                writer.close()
    return learner.result()


def _run_epochs(
    learner: Learner,
    train: Any,
    validation: Iterable[Any],
    on_epoch_end: OnEpochEnd | None,
    checkpoint_dir: str | Path | None,
    writer: Any,
    progress: bool | None,
) -> None:
    config = learner.config
    remaining = config.max_epochs - learner.epoch
    with tqdm(total=remaining * len(train), disable=None if progress is None else not progress, unit="batch", leave=False) as bar:
        while not learner.finished:
            started = time.perf_counter()
            train_loss = learner.train_epoch(train, on_batch=bar.update)
            row = {"train_loss": train_loss} | learner.validate(validation) | {"seconds": time.perf_counter() - started}
            improved = learner.end_epoch(row)
            checkpoint = _keep(learner, checkpoint_dir, improved)
            _log(writer, learner.epoch, row)
            bar.set_postfix(epoch=learner.epoch, val_loss=f"{row['val_loss']:.4f}")
            if on_epoch_end is not None:
                on_epoch_end(EpochEnd(learner.epoch, row, improved, checkpoint))


def _keep(learner: Learner, folder: str | Path | None, improved: bool) -> Path | None:
    """Write the checkpoints of one epoch; returns the resumable one, or None when none is due."""
    if folder is None:
        return None
    folder, config = Path(folder), learner.config
    if improved:
        write_tensors(folder / "best.safetensors", weights_of(learner.model), {"epoch": learner.epoch})
    if config.keep_every and learner.epoch % config.keep_every == 0:
        learner.save(folder / f"epoch-{learner.epoch:04d}.safetensors")
    if learner.epoch % config.checkpoint_every and not learner.finished:
        return None
    return learner.save(folder / CHECKPOINT_NAME)


def _checkpoint_file(resume: str | Path) -> Path:
    return Path(resume) / CHECKPOINT_NAME if Path(resume).is_dir() else Path(resume)


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _require_batches(train: Any, validation: Any) -> None:
    for name, loader in (("train", train), ("validation", validation)):
        if len(loader) == 0:
            raise DataError(f"{name} data must hold at least one batch, held none")


def _writer(log_dir: str | Path | None) -> Any:
    if log_dir is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(log_dir))


def _log(writer: Any, epoch: int, row: dict[str, float]) -> None:
    if writer is not None:
        for name, value in row.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()


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
