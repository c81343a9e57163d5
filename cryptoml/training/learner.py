"""The state of a training run: model, optimizer, schedule and counters, and the steps that change them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import (
    join_state,
    random_state,
    read_tensors,
    restore_random_state,
    split_state,
    weights_of,
    write_tensors,
)
from cryptoml.training.chunks import Batch
from cryptoml.training.config import FitResult, TrainingConfig
from cryptoml.training.objectives import Objective, StepLoss

__all__ = ["BatchLoss", "Learner"]

HISTORY = ("train_loss", "val_loss", "accuracy", "direction_accuracy", "mae", "mse", "learning_rate", "seconds")
MAY_CHANGE = {"max_epochs", "patience", "checkpoint_every", "keep_every"}


class BatchLoss(nn.Module):
    """Model and objective as one module whose forward maps a batch to its loss: what data parallelism wraps."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any) -> StepLoss:
        """Compute the training losses of one batch."""
        return self.objective(self.model, batch)


@dataclass
class Progress:
    """Counters of a run; a plain document in checkpoints."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: dict[str, list[float]] = field(default_factory=dict)


class Learner:
    """A training run between epochs.

    Args:
        model: On `device` already.
        objective: Losses and metrics; its parameters are trained too.
        config: Settings of the loop.
        device: Where batches go.
        prepare_model: Wraps the module that maps a batch to its loss.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainingConfig,
        device: torch.device,
        prepare_model: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        if config.autocast == "float16" and device.type != "cuda":
            raise ConfigError(f"autocast float16 needs a CUDA device, was {device.type}; use bfloat16")
        self.model, self.objective, self.config, self.device = model, objective, config, device
        self.batch_loss = BatchLoss(model, objective)
        step: nn.Module = torch.compile(self.batch_loss) if config.compile else self.batch_loss  # type: ignore[assignment]
        self.step_module = prepare_model(step) if prepare_model is not None else step
        self.optimizer = torch.optim.AdamW(_groups(self.batch_loss, config.weight_decay), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=config.lr_factor, patience=config.lr_patience, min_lr=config.min_learning_rate
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.autocast == "float16")
        self.progress = Progress()
        self.best_weights = weights_of(self.batch_loss)

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.progress.epoch

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done or patience has run out."""
        return self.epoch >= self.config.max_epochs or self.epoch - self.progress.best_epoch >= self.config.patience

    def train_epoch(self, loader: Any, on_batch: Callable[[int], Any] = int) -> float:
        """Run one pass over the training data; returns the mean monitored loss per batch.

        Raises:
            DataError: A loss or gradient is not finite. The weights are still those of the step before.
        """
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(self.epoch)
        self.step_module.train()
        total, count = torch.zeros((), device=self.device), 0
        for group in _grouped(loader, self.config.accumulate):
            total += self._step([_moved(batch, self.device) for batch in group], loader)
            count += len(group)
            on_batch(len(group))
        return total.item() / max(count, 1)

    def _step(self, group: list[Any], loader: Any) -> Tensor:
        """Accumulate the gradients of some batches and descend once; returns the sum of their monitored losses."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in group:
            with self._autocast():
                step = self.step_module(_without_spans(batch))
            self.scaler.scale(step.loss / len(group)).backward()
            losses.append(step)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.batch_loss.parameters(), self.config.grad_clip)
        values = torch.stack([step.loss.detach() for step in losses])
        checked = values.sum() if self.scaler.is_enabled() else values.sum() + norm
        if not checked.isfinite():
            raise DataError(_not_finite(values, group, loader, self.epoch + 1))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([step.monitored for step in losses]).sum()

    @torch.no_grad()
    def validate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Run one pass over the validation data; returns exact means over all its labels.

        Raises:
            DataError: The loss is not finite.
        """
        self.batch_loss.eval()
        sums: dict[str, Tensor] = {}
        for batch in loader:
            with self._autocast():
                parts = self.objective.sums(self.model, _moved(batch, self.device))
            for name, pair in parts.items():
                total = torch.stack(pair).double()
                sums[name] = sums[name] + total if name in sums else total
        means = {name: (total[0] / total[1]).item() for name, total in sums.items() if total[1] > 0}
        loss = self.objective.validation_loss(means)
        if not math.isfinite(loss):
            raise DataError(f"validation loss must be finite, was {loss} after epoch {self.epoch + 1}")
        tasks = {f"val_{name}": value for name, value in means.items() if name.startswith("loss_")}
        return {"val_loss": loss} | {name: means.get(name, math.nan) for name in HISTORY[2:6]} | tasks

    def end_epoch(self, row: dict[str, float]) -> bool:
        """Count the epoch, adapt the learning rate and remember the best weights; returns whether it was the best."""
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.schedule.step(row["val_loss"])
        self.progress.epoch += 1
        for name, value in row.items():
            self.progress.history.setdefault(name, []).append(value)
        improved = row["val_loss"] < self.progress.best_loss - (self.config.min_improvement if self.progress.best_epoch else 0.0)
        if improved:
            self.progress.best_epoch, self.progress.best_loss = self.epoch, row["val_loss"]
            self.best_weights = weights_of(self.batch_loss)
        return improved

    def restore_best(self) -> None:
        """Load the best weights into the model and put it in eval mode."""
        self.batch_loss.load_state_dict(self.best_weights)
        self.batch_loss.eval()

    def result(self) -> FitResult:
        """Sum up the run."""
        history = {name: list(values) for name, values in self.progress.history.items()}
        return FitResult(history, self.progress.best_epoch, self.progress.best_loss, sum(history.get("seconds", [])))

    def save(self, path: Path) -> Path:
        """Write everything that the next epoch depends on."""
        moments, optimizer = split_state(self.optimizer)
        parts = {
            "weights": weights_of(self.batch_loss),
            "best": self.best_weights,
            "optimizer": moments,
            "random": random_state(),
        }
        document = {
            "config": self.config.model_dump(mode="json"),
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": vars(self.progress),
        }
        tensors = {f"{part}/{name}": values for part, named in parts.items() for name, values in named.items()}
        return write_tensors(path, tensors, document)

    def resume(self, path: Path) -> None:
        """Undo `save`.

        Raises:
            ConfigError: The checkpoint was made with other settings; `max_epochs` and `patience` may differ.
            DataError: The file is damaged or belongs to another model.
        """
        tensors, document = read_tensors(path)
        self._require_same_config(document["config"], path)
        try:
            self.batch_loss.load_state_dict(_part(tensors, "weights"))
            self.optimizer.load_state_dict(join_state(_part(tensors, "optimizer"), document["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise DataError(f"checkpoint {path} belongs to another model: {error}") from error
        self.best_weights = _part(tensors, "best")
        self.schedule.load_state_dict(document["schedule"])
        self.scaler.load_state_dict(document["scaler"])
        self.progress = Progress(**document["progress"])
        restore_random_state(_part(tensors, "random"))

    def _require_same_config(self, stored: dict[str, Any], path: Path) -> None:
        for name, value in self.config.model_dump(mode="json").items():
            if name not in MAY_CHANGE and stored.get(name) != value:
                raise ConfigError(f"{name} must be {stored.get(name)} as in checkpoint {path}, was {value}")

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.autocast == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.autocast != "none")


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _grouped(loader: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield group


def _moved(batch: Any, device: torch.device) -> Any:
    if hasattr(batch, "to"):
        return batch.to(device)
    return type(batch)(_moved(part, device) for part in batch) if isinstance(batch, list | tuple) else batch


def _without_spans(batch: Any) -> Any:
    """Numbers that change with every batch would make a compiled step start over."""
    return batch._replace(spans=()) if isinstance(batch, Batch) else batch


def _not_finite(losses: Tensor, group: list[Any], loader: Any, epoch: int) -> str:
    bad = [index for index, loss in enumerate(losses.tolist()) if not math.isfinite(loss)] or list(range(len(group)))
    what = "loss" if len(bad) < len(group) or not losses.isfinite().all() else "gradient"
    where = "; ".join(loader.describe(group[index]) for index in bad) if hasattr(loader, "describe") else "a plain batch"
    return f"training {what} must be finite, was not in epoch {epoch} on {where}"


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): values for name, values in tensors.items() if name.startswith(f"{part}/")}
