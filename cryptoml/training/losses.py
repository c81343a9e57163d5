"""Losses of the multi-task forecaster, each a mean over the labels that exist.

Labels are normalised: returns by sigma * sqrt(h), volatility by sigma * sqrt(H). Missing labels are -1 (classes) or
NaN (floats); they add neither loss nor gradient. Everything is computed in float32 or wider, also under autocast.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.forecaster import Forecast

__all__ = [
    "TASKS",
    "UncertaintyWeightedLoss",
    "label_masks",
    "multi_task_errors",
    "multi_task_losses",
    "multi_task_sums",
    "pinball_loss",
]

Likelihood = Literal["gaussian", "softmax", "laplace"]

TASKS: dict[str, Likelihood] = {
    "direction": "softmax",
    "volatility": "softmax",
    "regime": "softmax",
    "position_size": "gaussian",
    "returns": "laplace",
}
"""Tasks of the forecaster and the likelihood by which uncertainty weighting treats each one."""

SMALLEST_VOLATILITY = 1e-2
MISSING = {"volatility": 1.0, "position_size": 0.0, "returns": 0.0}


def _pinball(
    predicted: Float[Tensor, "*shape quantile"], target: Float[Tensor, "*shape"], quantiles: Sequence[float]
) -> Float[Tensor, "*shape quantile"]:
    levels = predicted.new_tensor(quantiles)
    error = target.unsqueeze(-1) - predicted
    return torch.maximum(levels * error, (levels - 1.0) * error)


def pinball_loss(
    predicted: Float[Tensor, "*shape quantile"], target: Float[Tensor, "*shape"], quantiles: Sequence[float]
) -> Float[Tensor, ""]:
    """Average the quantile loss max(q e, (q - 1) e) with e = target - predicted over labels and quantiles.

    A NaN target is a missing label; with no label at all the loss is 0.

    Raises:
        ValueError: `predicted` does not have the axes of `target` and then one entry per quantile.

    Source: Koenker & Bassett 1978; Lim et al. 2021, eq. 25.
    """
    if tuple(predicted.shape) != (*target.shape, len(quantiles)):
        expected = [*target.shape, len(quantiles)]
        raise ValueError(
            f"predicted must have shape {expected}, that of target and {len(quantiles)} quantiles, was {list(predicted.shape)}"
        )
    present = ~target.isnan()
    losses = _pinball(predicted.float(), _kept(target, present), quantiles).mean(-1)
    return _masked_sum(losses, present) / present.sum().clamp(min=1)


def _masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    return torch.where(mask, values, 0.0).sum()


def _kept(target: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], missing: float = 0.0) -> Float[Tensor, "*shape"]:
    """Replace what carries no loss, so that whatever stands there reaches no gradient; infinite labels that do stay."""
    return torch.where(mask, target, missing)


def _class_losses(logits: Float[Tensor, "*shape label"], target: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    flat = functional.cross_entropy(logits.float().flatten(0, -2), target.long().flatten(), ignore_index=-1, reduction="none")
    return flat.view(target.shape)


def _volatility_losses(predicted: Float[Tensor, "*shape 1"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """QLIKE: v/f - log(v/f) - 1 on variances; its minimiser is the expected variance (Patton 2011)."""
    log_variance = 2.0 * predicted.float().squeeze(-1).clamp(min=SMALLEST_VOLATILITY).log()
    log_target = 2.0 * target.clamp(min=SMALLEST_VOLATILITY).log()
    difference = log_target - log_variance
    return difference.exp() - difference - 1.0


def label_masks(
    targets: Mapping[str, Shaped[Tensor, "..."]], origin_mask: Bool[Tensor, "*shape"]
) -> dict[str, Bool[Tensor, "..."]]:
    """Tell per task which origins have a label and carry loss; `returns` has a horizon axis of its own."""
    return {
        "direction": (targets["direction"] >= 0) & origin_mask,
        "volatility": ~targets["volatility"].isnan() & origin_mask,
        "regime": (targets["regime"] >= 0) & origin_mask,
        "position_size": ~targets["position_size"].isnan() & origin_mask,
        "returns": ~targets["returns"].isnan() & origin_mask.unsqueeze(-1),
    }


def multi_task_errors(
    forecast: Forecast,
    targets: Mapping[str, Shaped[Tensor, "..."]],
    masks: Mapping[str, Bool[Tensor, "..."]],
    quantiles: Sequence[float],
) -> dict[str, Float[Tensor, "..."]]:
    """Compute the loss of each label that `masks` keeps, `[batch asset time]`, of returns `[... horizon]`; 0 elsewhere."""
    floats = {name: _kept(targets[name], masks[name], missing) for name, missing in MISSING.items()}
    errors = {
        "direction": _class_losses(forecast.direction, targets["direction"]),
        "volatility": _volatility_losses(forecast.volatility, floats["volatility"]),
        "regime": _class_losses(forecast.regime, targets["regime"]),
        "position_size": (forecast.position_size.float().squeeze(-1) - floats["position_size"]).square(),
        "returns": _pinball(forecast.quantiles.float(), floats["returns"], quantiles).mean(-1),
    }
    return {task: torch.where(masks[task], errors[task], 0.0) for task in TASKS}


def multi_task_sums(
    forecast: Forecast,
    targets: Mapping[str, Shaped[Tensor, "..."]],
    origin_mask: Bool[Tensor, "*shape"],
    quantiles: Sequence[float],
) -> dict[str, tuple[Float[Tensor, ""], Float[Tensor, ""]]]:
    """Sum each task's loss over its labels; returns (sum, number of labels) per task, so that batches add up."""
    masks = label_masks(targets, origin_mask)
    losses = multi_task_errors(forecast, targets, masks, quantiles)
    return {task: (losses[task].sum(), masks[task].sum().float()) for task in TASKS}


def multi_task_losses(
    forecast: Forecast,
    targets: Mapping[str, Shaped[Tensor, "..."]],
    origin_mask: Bool[Tensor, "*shape"],
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
) -> dict[str, Float[Tensor, ""]]:
    """Average each task's loss over its labels.

    Cross-entropy for direction and regime, QLIKE for volatility, squared error for position size, pinball over
    horizons and quantiles for the normalised returns. A task without labels is 0 with zero gradient.

    Args:
        forecast: Outputs with axes `[batch asset time ...]`, or any other leading axes that the targets share.
        targets: `direction`, `regime` (-1 missing), `volatility`, `position_size`, `returns [... horizon]` (NaN missing).
        origin_mask: Origins that carry loss.
        quantiles: Levels of `forecast.quantiles`.
    """
    sums = multi_task_sums(forecast, targets, origin_mask, quantiles)
    return {task: total / count.clamp(min=1.0) for task, (total, count) in sums.items()}


class UncertaintyWeightedLoss(nn.Module):
    """Weigh tasks by learned noise: Kendall et al. 2018, eqs. 7 to 10, with s = log sigma^2 learned per task.

    Gaussian tasks add exp(-s) L / 2 + s / 2 (L a squared error), softmax tasks exp(-s) L + s / 2, and Laplace tasks
    (absolute or pinball errors) exp(-s) L + s with s = log b. All s start at 0 and may go negative.

    Args:
        tasks: Likelihood per task; a plain sequence of names makes all of them Gaussian.
    """

    scale: Tensor
    penalty: Tensor

    def __init__(self, tasks: Mapping[str, Likelihood] | Sequence[str]) -> None:
        super().__init__()
        kinds = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, "gaussian")
        if not kinds:
            raise ValueError("tasks must name at least one task, was empty")
        unknown = set(kinds.values()) - set(get_args(Likelihood))
        if unknown:
            raise ValueError(f"tasks must be gaussian, softmax or laplace, found {sorted(unknown)}")
        self.tasks = tuple(kinds)
        self.log_variances = nn.Parameter(torch.zeros(len(kinds)))
        scale = [0.5 if kind == "gaussian" else 1.0 for kind in kinds.values()]
        penalty = [1.0 if kind == "laplace" else 0.5 for kind in kinds.values()]
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("penalty", torch.tensor(penalty), persistent=False)

    @property
    def sigmas(self) -> dict[str, float]:
        """Learned noise scale exp(s / 2) per task."""
        return dict(zip(self.tasks, (0.5 * self.log_variances.detach()).exp().tolist(), strict=True))

    def forward(
        self,
        losses: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
        weights: Mapping[str, float] | None = None,
        share: Float[Tensor, ""] | float = 1.0,
    ) -> Float[Tensor, ""]:
        """Add up the weighted tasks.

        Args:
            losses: Per task a scalar, or one loss per example.
            masks: Per task where a label exists, boolean, broadcastable to its losses. A task without a label contributes
                nothing, not even its penalty.
            weights: Fixed importance per task on top of the learned one; 1 where absent.
            share: Part of each penalty to add, where the losses are one of several parts of a step's.

        Raises:
            ValueError: A task is missing from `losses`, or a mask belongs to no task or does not fit its losses.
        """
        missing, unknown = [task for task in self.tasks if task not in losses], sorted(set(masks or ()) - set(self.tasks))
        if missing:
            raise ValueError(f"losses must hold the tasks {self.tasks}, lacks {missing}")
        if unknown:
            raise ValueError(f"masks must be of the tasks {self.tasks}, held {unknown}")
        total = self.log_variances.new_zeros(())
        for index, task in enumerate(self.tasks):
            value, present = _reduced(task, losses[task], (masks or {}).get(task))
            s = self.log_variances[index]
            term = self.scale[index] * torch.exp(-s) * value + share * self.penalty[index] * s
            total = total + (weights or {}).get(task, 1.0) * torch.where(present, term, 0.0)
        return total


def _reduced(
    task: str, losses: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None
) -> tuple[Float[Tensor, ""], Bool[Tensor, ""]]:
    """Mean loss over labels and whether there is any label; a scalar loss is that mean already."""
    if mask is None:
        return losses.mean(), torch.ones((), dtype=torch.bool, device=losses.device)
    if mask.dtype != torch.bool:
        raise ValueError(f"masks of {task} must be boolean, was {mask.dtype} of shape {list(mask.shape)}")
    present = mask.any()
    if losses.ndim == 0:
        return torch.where(present, losses, 0.0), present
    try:
        full = mask.expand(losses.shape)
    except RuntimeError:
        raise ValueError(
            f"masks of {task} must broadcast to losses of shape {list(losses.shape)}, was {list(mask.shape)}"
        ) from None
    return _masked_sum(losses, full) / full.sum().clamp(min=1), present
