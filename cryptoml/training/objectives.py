"""What a batch's loss is: for the multi-task forecaster, and for any module trained on (x, y) pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.errors import DataError
from cryptoml.models.forecaster import Forecaster
from cryptoml.training.chunks import Batch
from cryptoml.training.config import TrainingConfig
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_losses, multi_task_sums

__all__ = ["ForecastObjective", "Objective", "PairObjective", "StepLoss", "Sums", "objective_of"]

Sums = dict[str, tuple[Tensor, Tensor]]
"""Metric -> (sum, count): additive over batches, whatever their sizes."""


class StepLoss(NamedTuple):
    """Losses of one training batch.

    Attributes:
        loss: What the optimizer descends.
        monitored: The same batch in the units of the validation loss, so that both curves compare.
    """

    loss: Float[Tensor, ""]
    monitored: Float[Tensor, ""]


class Objective(nn.Module):
    """Interface of an objective; its parameters, if any, are trained beside the model's."""

    def forward(self, model: nn.Module, batch: Any) -> StepLoss:
        """Compute the training losses of one batch."""
        raise NotImplementedError

    def sums(self, model: nn.Module, batch: Any) -> Sums:
        """Sum losses and metrics of one validation batch; the names of losses start with `loss`."""
        raise NotImplementedError

    def validation_loss(self, means: Mapping[str, float]) -> float:
        """Combine the means of a whole validation pass into the one figure that early stopping watches.

        Metrics without any label are absent from `means`.
        """
        return means["loss"]


class ForecastObjective(Objective):
    """Multi-task objective of a forecaster with a `dense(features, mask)` method.

    Training descends the uncertainty-weighted sum (Kendall et al. 2018) or, with `learned_weights` off, the fixed one.
    Validation always uses the fixed weights: learned ones would make epochs, members and trials incomparable.

    Metrics over validation labels: `accuracy` of the three direction classes; `direction_accuracy`, the share of UP and
    DOWN labels for which the likelier of those two was right; `mae` and `mse` of the median quantile, in sigmas.

    Args:
        quantiles: Levels of the forecast's quantiles.
        task_weights: Importance per task, 1 where absent, 0 to ignore a task.
        learned_weights: Learn one log-variance per task.
    """

    def __init__(
        self, quantiles: Sequence[float], task_weights: Mapping[str, float] | None = None, learned_weights: bool = True
    ) -> None:
        super().__init__()
        unknown = set(task_weights or {}) - set(TASKS)
        if unknown:
            raise ValueError(f"task_weights must be among {tuple(TASKS)}, found {sorted(unknown)}")
        self.quantiles = tuple(quantiles)
        self.task_weights = {task: (task_weights or {}).get(task, 1.0) for task in TASKS}
        self.weighting = UncertaintyWeightedLoss(TASKS) if learned_weights else None

    def forward(self, model: nn.Module, batch: Batch) -> StepLoss:
        """Compute the training losses of one batch of chunks."""
        forecast = cast(Forecaster, model).dense(batch.features, batch.mask)
        losses = multi_task_losses(forecast, batch.targets, batch.origin_mask, self.quantiles)
        fixed = torch.stack([self.task_weights[task] * loss for task, loss in losses.items()]).sum()
        if self.weighting is None:
            return StepLoss(fixed, fixed.detach())
        masks = label_masks(batch.targets, batch.origin_mask)
        return StepLoss(self.weighting(losses, masks, self.task_weights), fixed.detach())

    def sums(self, model: nn.Module, batch: Batch) -> Sums:
        """Sum each task's loss and the metrics of one batch of chunks."""
        forecast = cast(Forecaster, model).dense(batch.features, batch.mask)
        tasks = multi_task_sums(forecast, batch.targets, batch.origin_mask, self.quantiles)
        direction = batch.targets["direction"].masked_fill(~batch.origin_mask, -1)
        error = (forecast.quantiles.float()[..., len(self.quantiles) // 2] - batch.targets["returns"]).masked_fill(
            ~batch.origin_mask.unsqueeze(-1), float("nan")
        )
        losses = {f"loss_{task}": value for task, value in tasks.items()}
        return losses | _class_metrics(forecast.direction, direction) | _error_metrics(error)

    def validation_loss(self, means: Mapping[str, float]) -> float:
        """Fixed-weight sum of the tasks' mean losses; tasks without any label are left out."""
        present = [task for task in TASKS if f"loss_{task}" in means]
        if not present:
            raise DataError("validation data must hold at least one label, had none")
        return sum(self.task_weights[task] * means[f"loss_{task}"] for task in present)


class PairObjective(Objective):
    """Objective of any module on batches (x, y); x may be a tuple of arguments.

    Of a model that returns a tuple, the first entry is the prediction. Metrics: for integer labels `accuracy` is that of
    the likeliest class and, with three classes, `direction_accuracy` as for forecasts; for float labels
    `direction_accuracy` is the share of nonzero labels whose sign was right. Those that do not apply are NaN.

    Args:
        loss_fn: (prediction, y) -> scalar mean loss; by default cross-entropy for integer y, else squared error.
    """

    def __init__(self, loss_fn: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, model: nn.Module, batch: Sequence[Any]) -> StepLoss:
        """Compute the training loss of one (x, y) batch."""
        predicted = _predict(model, batch[0])
        loss = self._loss(predicted, batch[1])
        return StepLoss(loss, loss.detach())

    def sums(self, model: nn.Module, batch: Sequence[Any]) -> Sums:
        """Sum the loss, weighted by the number of examples, and the metrics of one (x, y) batch."""
        predicted, y = _predict(model, batch[0]), batch[1]
        count = torch.tensor(float(len(y)), device=y.device)
        sums = {"loss": (self._loss(predicted, y).float() * count, count)}
        if not y.is_floating_point():
            return sums | _class_metrics(predicted, y)
        if predicted.shape != y.shape:
            return sums
        error = predicted.float() - y
        right = (predicted.sign() == y.sign()) & (y != 0)
        return sums | _error_metrics(error) | {"direction_accuracy": (right.sum().float(), (y != 0).sum().float())}

    def _loss(self, predicted: Tensor, y: Tensor) -> Float[Tensor, ""]:
        if self.loss_fn is not None:
            return self.loss_fn(predicted, y)
        if y.is_floating_point():
            return functional.mse_loss(predicted, y)
        return functional.cross_entropy(predicted.flatten(0, -2), y.long().flatten())


def _predict(model: nn.Module, x: Any) -> Tensor:
    output = model(*x) if isinstance(x, list | tuple) else model(x)
    return output[0] if isinstance(output, tuple) else output


def _class_metrics(logits: Float[Tensor, "*shape label"], label: Tensor) -> Sums:
    known = label >= 0
    metrics = {"accuracy": (((logits.argmax(-1) == label) & known).sum().float(), known.sum().float())}
    if logits.shape[-1] != 3:
        return metrics
    moved = known & (label != 1)
    right = (logits[..., 2] > logits[..., 0]) == (label == 2)
    return metrics | {"direction_accuracy": ((right & moved).sum().float(), moved.sum().float())}


def _error_metrics(error: Float[Tensor, "..."]) -> Sums:
    count = (~error.isnan()).sum().float()
    return {"mae": (error.abs().nansum(), count), "mse": (error.square().nansum(), count)}


def objective_of(model: nn.Module, config: TrainingConfig | None = None) -> Objective:
    """Choose the objective that fits a model: that of forecasts where it has `dense`, else (x, y) pairs.

    A forecaster's quantiles come from `model.config.quantiles`.
    """
    if not hasattr(model, "dense"):
        return PairObjective()
    config = config or TrainingConfig()
    return ForecastObjective(cast(Forecaster, model).config.quantiles, config.task_weights, config.learned_task_weights)
