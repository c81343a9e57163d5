"""What a batch's loss is: for the multi-task forecaster, and for any module trained on (x, y) pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.errors import DataError
from cryptoml.models.forecaster import Forecaster
from cryptoml.training.chunks import Batch
from cryptoml.training.config import TrainingConfig
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_errors, multi_task_sums

__all__ = [
    "BatchLoss",
    "ForecastObjective",
    "Objective",
    "PairObjective",
    "Portion",
    "StepLoss",
    "Sums",
    "aligned",
    "objective_of",
    "prediction_of",
]

Sums = dict[str, tuple[Tensor, Tensor]]
"""Metric -> (sum, count): additive over batches, whatever their sizes."""


class Portion(NamedTuple):
    """One batch as a part of an optimizer step, which several batches and several workers may share.

    Attributes:
        batch: What the loader gave.
        totals: Labels per term in the whole step, by which sums are divided. A worker's share of labels may be uneven.
        share: One over the number of portions in the step.
    """

    batch: Any
    totals: Float[Tensor, " term"]
    share: Float[Tensor, ""]


class StepLoss(NamedTuple):
    """Losses of one portion; over all portions of a step they add up.

    Attributes:
        loss: What the optimizer descends.
        sums: Sum of each term's loss over the portion's labels, without gradient.
    """

    loss: Float[Tensor, ""]
    sums: Float[Tensor, " term"]


class Objective(nn.Module):
    """Interface of an objective; its parameters, if any, are trained beside the model's.

    Attributes:
        terms: Names of the losses that are averaged over labels of their own; each starts with `loss`.
    """

    terms: tuple[str, ...] = ("loss",)

    def counts(self, batch: Any) -> Float[Tensor, " term"]:
        """Count the labels of each term in one training batch."""
        raise NotImplementedError

    def forward(self, model: nn.Module, portion: Portion) -> StepLoss:
        """Compute the training losses of one portion."""
        raise NotImplementedError

    def sums(self, model: nn.Module, batch: Any) -> Sums:
        """Sum the terms and metrics of one validation batch."""
        raise NotImplementedError

    def combined(self, means: Mapping[str, float]) -> float:
        """Combine the means of a whole pass into one figure; early stopping watches that of the validation data.

        Terms and metrics without any label are absent from `means`.
        """
        return means["loss"]

    def broken(self, model: nn.Module, batch: Any) -> Bool[Tensor, "batch asset time"] | None:
        """Tell which forecasts of a batch have a loss that is not finite, where the objective can tell them apart."""
        return None


class BatchLoss(nn.Module):
    """Model and objective as one module whose forward maps a portion of a step to its loss."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, portion: Portion) -> StepLoss:
        """Compute the training losses of one portion."""
        return self.objective(self.model, portion)


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
        self.terms = tuple(f"loss_{task}" for task in TASKS)

    def counts(self, batch: Batch) -> Float[Tensor, " task"]:
        """Count each task's labels."""
        masks = label_masks(batch.targets, batch.origin_mask)
        return torch.stack([masks[task].sum() for task in TASKS]).float()

    def forward(self, model: nn.Module, portion: Portion) -> StepLoss:
        """Compute the training losses of one batch of chunks."""
        batch = portion.batch
        forecast = cast(Forecaster, model).dense(batch.features, batch.mask)
        pairs = multi_task_sums(forecast, batch.targets, batch.origin_mask, self.quantiles)
        sums = torch.stack([pairs[task][0] for task in TASKS])
        means = dict(zip(TASKS, sums / portion.totals.clamp(min=1.0), strict=True))
        if self.weighting is None:
            return StepLoss(torch.stack([self.task_weights[task] * loss for task, loss in means.items()]).sum(), sums.detach())
        present = dict(zip(TASKS, portion.totals > 0, strict=True))
        return StepLoss(self.weighting(means, present, self.task_weights, portion.share), sums.detach())

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

    def combined(self, means: Mapping[str, float]) -> float:
        """Fixed-weight sum of the tasks' mean losses; tasks without any label are left out."""
        return sum(self.task_weights[task] * means[f"loss_{task}"] for task in TASKS if f"loss_{task}" in means)

    def broken(self, model: nn.Module, batch: Batch) -> Bool[Tensor, "batch asset time"]:
        """Tell at which origins the loss of any task is not finite."""
        forecast = cast(Forecaster, model).dense(batch.features, batch.mask)
        errors = multi_task_errors(forecast, batch.targets, label_masks(batch.targets, batch.origin_mask), self.quantiles)
        bad = [~errors[task].isfinite() for task in TASKS]
        return torch.stack([each.any(dim=-1) if each.ndim == 4 else each for each in bad]).any(dim=0)


class PairObjective(Objective):
    """Objective of any module on batches (x, y); x may be a tuple of arguments.

    Of a model that returns a tuple, the first entry is the prediction. Metrics: for integer labels `accuracy` is that of
    the likeliest class and, with three classes, `direction_accuracy` as for forecasts; for float labels
    `direction_accuracy` is the share of nonzero labels whose sign was right. Those that do not apply are NaN.

    Args:
        loss_fn: (prediction, y) -> scalar mean loss over the examples; by default cross-entropy over the last axis for
            integer y, else squared error.
    """

    def __init__(self, loss_fn: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def counts(self, batch: Sequence[Any]) -> Float[Tensor, "1"]:
        """Count the examples.

        Raises:
            DataError: The batch is not a pair (x, y).
        """
        if not isinstance(batch, list | tuple) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise DataError(f"batches must be pairs (x, y) with a tensor y, found {_shape_of(batch)}")
        return torch.tensor([float(len(batch[1]))], device=batch[1].device)

    def forward(self, model: nn.Module, portion: Portion) -> StepLoss:
        """Compute the training loss of one (x, y) batch."""
        x, y = portion.batch
        loss = self._loss(prediction_of(model, x), y)
        return StepLoss(loss * (len(y) / portion.totals[0]), (loss.detach() * len(y)).reshape(1))

    def sums(self, model: nn.Module, batch: Sequence[Any]) -> Sums:
        """Sum the loss, weighted by the number of examples, and the metrics of one (x, y) batch."""
        count = self.counts(batch)[0]
        predicted = prediction_of(model, batch[0])
        sums = {"loss": (self._loss(predicted, batch[1]).float() * count, count)}
        pair = aligned(predicted, batch[1])
        if pair is None:
            return sums
        predicted, y = pair
        if not y.is_floating_point():
            return sums | _class_metrics(predicted, y)
        error = predicted.float() - y
        right = (predicted.sign() == y.sign()) & (y != 0)
        return sums | _error_metrics(error) | {"direction_accuracy": (right.sum().float(), (y != 0).sum().float())}

    def _loss(self, predicted: Tensor, y: Tensor) -> Float[Tensor, ""]:
        if self.loss_fn is not None:
            return self.loss_fn(predicted, y)
        pair = aligned(predicted, y)
        if pair is None:
            what = "values of" if y.is_floating_point() else "one class for each but the last axis of"
            raise DataError(f"y must hold {what} the prediction's shape {tuple(predicted.shape)}, has shape {tuple(y.shape)}")
        predicted, y = pair
        if y.is_floating_point():
            return functional.mse_loss(predicted, y)
        return functional.cross_entropy(predicted.flatten(0, -2), y.long().flatten())


def prediction_of(model: nn.Module, x: Any) -> Any:
    """Call a model: a tuple is a list of arguments, a dict one of keywords; of a tuple that it returns, take the first entry."""
    output = model(*x) if isinstance(x, list | tuple) else model(**x) if isinstance(x, dict) else model(x)
    return output[0] if isinstance(output, tuple) else output


def aligned(predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Drop a last axis of length 1 where prediction and label differ by no more than that; None where they do."""
    wanted = predicted.shape if y.is_floating_point() else predicted.shape[:-1]
    if y.shape == wanted:
        return predicted, y
    if y.shape == (*wanted, 1):
        return predicted, y.squeeze(-1)
    if y.is_floating_point() and predicted.shape == (*y.shape, 1):
        return predicted.squeeze(-1), y
    return None


def _shape_of(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__


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
    return ForecastObjective(cast(Forecaster, model).config.quantiles, config.task_weights, config.loss == "uncertainty")
