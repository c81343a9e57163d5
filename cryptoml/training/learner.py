"""The state of a training run: model, optimizer, schedule and counters, and the steps that change them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cryptoml.errors import ConfigError, DataError
from cryptoml.training.checkpoint import weights_of
from cryptoml.training.chunks import Batch
from cryptoml.training.config import FitResult, TrainingConfig
from cryptoml.training.failures import blamed
from cryptoml.training.feed import Feed
from cryptoml.training.objectives import BatchLoss, Objective, Portion, StepLoss
from cryptoml.training.workers import Workers

__all__ = ["Learner", "Progress"]

SMALLEST_SCALE = 2.0**-10
"""Of float16 gradients; it is halved at each step that overflows, so that only a broken loss gets here."""
METRICS = ("accuracy", "direction_accuracy", "mae", "mse")


@dataclass
class Progress:
    """Counters of a run; a plain document in checkpoints.

    Attributes:
        batch: Batches of the current epoch that are done.
        seconds: Spent on them in earlier processes.
        waited: Seconds that the whole run has waited for training batches in earlier processes.
    """

    epoch: int = 0
    batch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    seconds: float = 0.0
    waited: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)


class Learner:
    """A training run between two optimizer steps.

    Args:
        model: On `device` already.
        objective: Losses and metrics; its parameters are trained too.
        config: Settings of the loop.
        train: The training batches.
        validation: The validation batches, on the same device.
        prepare_model: Wraps the module that maps a portion to its loss.
        workers: Who trains together.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainingConfig,
        train: Feed,
        validation: Feed,
        prepare_model: Callable[[nn.Module], nn.Module] | None = None,
        workers: Workers | None = None,
    ) -> None:
        device = train.device
        if config.autocast == "float16" and device.type != "cuda":
            raise ConfigError(f"autocast float16 needs a CUDA device, was {device.type}; use bfloat16")
        self.model, self.objective, self.config, self.device = model, objective, config, device
        self.train, self.validation = train, validation
        self.workers = workers or Workers()
        self.batch_loss = BatchLoss(model, objective)
        self.workers.share_state(self.batch_loss)
        step: nn.Module = torch.compile(self.batch_loss) if config.compile else self.batch_loss  # type: ignore[assignment]
        self.step_module = prepare_model(step) if prepare_model is not None else step
        self.optimizer = torch.optim.AdamW(_groups(self.batch_loss, config.weight_decay), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=config.lr_factor, patience=config.lr_patience, min_lr=config.min_learning_rate
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.autocast == "float16")
        self.progress, self.best_weights = Progress(), weights_of(self.batch_loss)
        self.started = time.perf_counter()
        self._clear_sums()

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return self.progress.epoch

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done or patience has run out."""
        return self.epoch >= self.config.max_epochs or self.epoch - self.progress.best_epoch >= self.config.patience

    def train_epoch(self, on_step: Callable[[int], Any] = int) -> float:
        """Run the rest of one pass over the training data; returns the mean loss over all labels of the pass.

        Args:
            on_step: Called after each optimizer step with the number of batches it took.

        Raises:
            DataError: A loss or gradient is not finite (the weights are still those of the step before), or there is no label.
        """
        self.started = time.perf_counter()
        self.step_module.train()
        for group in _grouped(self.train.batches(self.epoch, self.progress.batch), self.config.accumulate):
            self._step(group)
            self.progress.batch += len(group)
            on_step(len(group))
        sums, counts = self.workers.sum(torch.stack([self.sums, self.counts])).tolist()
        means = {name: total / count for name, total, count in zip(self.objective.terms, sums, counts, strict=True) if count > 0}
        return self._combined(means, "training")

    def _step(self, group: list[Any]) -> None:
        """Descend once along the gradient of some batches, those of all workers together taken as one."""
        self.optimizer.zero_grad(set_to_none=True)
        own = torch.stack([self.objective.counts(batch) for batch in group]).sum(dim=0)
        totals = self.workers.sum(own.clone())
        share = totals.new_tensor(1.0 / (len(group) * self.workers.world_size))
        steps = [self._backward(Portion(_without_spans(batch), totals, share)) for batch in group]
        losses = torch.stack([step.loss for step in steps])
        loss = self.workers.sum_gradients(self.batch_loss.parameters(), losses.sum())
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.batch_loss.parameters(), self.config.grad_clip)
        if not (loss if self.scaler.is_enabled() else loss + norm).isfinite():
            raise DataError(self._not_finite(losses, group))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise DataError(self._not_finite(losses, group))
        self.sums += torch.stack([step.sums for step in steps]).sum(dim=0)
        self.counts += own

    def _backward(self, portion: Portion) -> StepLoss:
        with self._autocast():
            step = self.step_module(portion)
        self.scaler.scale(step.loss).backward()
        return step._replace(loss=step.loss.detach().float())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Run one pass over the validation data; returns exact means over all its labels.

        Raises:
            DataError: The loss is not finite, or there is no label.
        """
        self.batch_loss.eval()
        self.workers.share_state(self.batch_loss)
        sums: dict[str, Tensor] = {}
        for batch in self.validation.batches(0):
            for name, total in self._validated(batch).items():
                sums[name] = sums[name] + total if name in sums else total
        totals = self.workers.sum(torch.stack(list(sums.values()))).tolist()
        means = {name: total / count for name, (total, count) in zip(sums, totals, strict=True) if count > 0}
        loss = self._combined(means, "validation")
        if not math.isfinite(loss):
            raise DataError(f"validation loss must be finite, was {loss} in epoch {self.epoch + 1}{self._broken_validation()}")
        tasks = {f"val_{name}": means[name] for name in self.objective.terms if name != "loss" and name in means}
        return {"val_loss": loss} | {name: means.get(name, math.nan) for name in METRICS} | tasks

    def _validated(self, batch: Any) -> dict[str, Tensor]:
        with self._autocast():
            parts = self.objective.sums(self.model, batch)
        return {name: torch.stack(pair).double() for name, pair in parts.items()}

    def _combined(self, means: dict[str, float], name: str) -> float:
        if not any(term in means for term in self.objective.terms):
            raise DataError(f"{name} data must hold at least one label, had none")
        return self.objective.combined(means)

    def end_epoch(self, row: dict[str, float]) -> bool:
        """Count the epoch, adapt the learning rate and remember the best weights; returns whether it was the best."""
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = self.seconds()
        self.schedule.step(row["val_loss"])
        progress = self.progress
        progress.epoch, progress.batch, progress.seconds = progress.epoch + 1, 0, 0.0
        self.started = time.perf_counter()
        self._clear_sums()
        for name, value in row.items():
            progress.history.setdefault(name, []).append(value)
        improved = row["val_loss"] < progress.best_loss - (self.config.min_improvement if progress.best_epoch else 0.0)
        if improved:
            progress.best_epoch, progress.best_loss = self.epoch, row["val_loss"]
            self.best_weights = weights_of(self.batch_loss)
        return improved

    def restore_best(self) -> None:
        """Load the best weights into the model and put it in eval mode."""
        self.batch_loss.load_state_dict(self.best_weights)
        self.batch_loss.eval()

    def result(self) -> FitResult:
        """Sum up the run."""
        history = {name: list(values) for name, values in self.progress.history.items()}
        seconds, waited = sum(history.get("seconds", [])), self.progress.waited + self.train.waited
        return FitResult(history, self.progress.best_epoch, self.progress.best_loss, seconds, waited)

    def seconds(self) -> float:
        """Wall time of the current epoch so far."""
        return self.progress.seconds + time.perf_counter() - self.started

    def _clear_sums(self) -> None:
        self.sums, self.counts = torch.zeros((2, len(self.objective.terms)), dtype=torch.float64, device=self.device)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.autocast == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.autocast != "none")

    def _not_finite(self, losses: Tensor, group: list[Any]) -> str:
        """Say on which data a step failed; the workers tell each other."""
        number = self.progress.batch
        texts = [blamed(batch, number + index, self.train.loader, self.batch_loss) for index, batch in enumerate(group)]
        bad = [text for text, loss in zip(texts, losses.tolist(), strict=True) if not math.isfinite(loss)]
        told = self.workers.gather((bad, texts))
        what = "loss" if any(bad for bad, _ in told) else "gradient"
        where = [text for bad, texts in told for text in (bad if what == "loss" else texts)]
        return f"training {what} must be finite, was not in epoch {self.epoch + 1} on {'; '.join(where)}"

    def _broken_validation(self) -> str:
        bad = ((number, batch) for number, batch in enumerate(self.validation.batches(0)) if not _finite(self._validated(batch)))
        own = [blamed(batch, number, self.validation.loader, self.batch_loss) for number, batch in islice(bad, 1)]
        told = "; ".join(text for texts in self.workers.gather(own) for text in texts)
        return f" on {told}" if told else ""


def _finite(totals: dict[str, Tensor]) -> bool:
    return all(bool(total.isfinite().all()) for total in totals.values())


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _grouped(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(batches, size)):
        yield group


def _without_spans(batch: Any) -> Any:
    """Numbers that change with every batch would make a compiled step start over."""
    return batch._replace(spans=()) if isinstance(batch, Batch) else batch
