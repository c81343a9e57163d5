"""Model-agnostic meta-learning: start weights from which a few gradient steps learn a new task (Finn et al. 2017)."""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap

from cryptoml.errors import DataError
from cryptoml.training.compiled import CompiledGradient
from cryptoml.training.examples import (
    Examples,
    LossFunction,
    call_with,
    count_of,
    largest_slope,
    map_tensors,
    take,
    trained_parameters,
)
from cryptoml.training.mappable import (
    GradientOf,
    differentiable_gradient,
    differentiable_recurrence,
    mappable,
    tracks_statistics,
)

__all__ = ["AdaptationOutcome", "MetaLearningMAML", "verdict"]

_log = logging.getLogger(__name__)

TaskData: TypeAlias = tuple[Examples, Any, Examples, Any]
"""Support x and y, query x and y, each `[task, shot, ...]`."""

HELD_BACK = 5
"""Every fifth support example, the latest ones, judges the adaptation."""


class AdaptationOutcome(NamedTuple):
    """Outcome of one adaptation.

    Attributes:
        accepted: Whether the adapted weights were kept.
        loss_before: Loss of the base on the held-back support.
        loss_after: Loss of the adapted weights there.
        reason: One line that says why.
    """

    accepted: bool
    loss_before: float
    loss_after: float
    reason: str


class MetaLearningMAML(nn.Module):
    """Meta-learner around any module.

    The tasks of a meta-batch run together under vmap, with full second order, recurrent layers and attention included. Two
    fallbacks are logged: a base that vmap refuses (it branches on values, or packs sequences) runs task by task with the same
    arithmetic, and `batching` says so; where a kernel of the base has no second derivative, `outer_step` goes over to first
    order, and `first_order` says so. Batch normalisation in training mode normalises every task by itself; `outer_step` then
    lets the running statistics follow the support of the meta-batch.

    Args:
        base_model: The network to adapt; its parameters are what meta-training learns.
        inner_lr: Step size of adaptation; where `learned_rates` is set, its start.
        num_inner_steps: Gradient steps of adaptation.
        first_order: Drop second derivatives (FOMAML, section 5.2 of the paper).
        learned_rates: Learn one step size per parameter tensor (Meta-SGD, Li et al. 2017, by layer).
        step_weights: Weight of the query loss after each inner step (Antoniou et al. 2019, eq. 3); by default only the
            loss after the last one counts, as in Finn et al. 2017.
        compiled: Trace and compile the meta-gradient, once per shape of the meta-batch, for `outer_step`: several times as
            fast on small networks after a minute or so of compiling, and the longer the longer the sequences of a recurrent
            base are. It needs a base that vmap takes, and the same loss function object in every step.

    Raises:
        ValueError: A rate or number of steps that is not positive, weights that do not fit the steps, or a base without
            trainable parameters.
    """

    def __init__(
        self,
        base_model: nn.Module,
        inner_lr: float = 0.01,
        num_inner_steps: int = 5,
        first_order: bool = False,
        *,
        learned_rates: bool = False,
        step_weights: Sequence[float] | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < inner_lr < math.inf:
            raise ValueError(f"inner_lr must be above 0 and finite, was {inner_lr}")
        if num_inner_steps < 1:
            raise ValueError(f"num_inner_steps must be at least 1, was {num_inner_steps}")
        self.base_model, self.inner_lr, self.num_inner_steps, self.first_order = (
            base_model,
            inner_lr,
            num_inner_steps,
            first_order,
        )
        trained = trained_parameters(base_model)
        if not trained:
            raise ValueError("base_model must have trainable parameters, had none")
        self.names, first = tuple(trained), next(iter(trained.values()))
        self.step_weights = None if step_weights is None else _checked_weights(step_weights, num_inner_steps)
        precise = torch.promote_types(first.dtype, torch.float32)
        rates = torch.full((len(self.names),), math.log(inner_lr), dtype=precise, device=first.device)
        self.log_rates = nn.Parameter(rates) if learned_rates else None
        self.compiled = CompiledGradient() if compiled else None
        self.batching = "vmap"
        self.last_adaptation: AdaptationOutcome | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the base model."""
        return self.base_model(*args, **kwargs)

    def adapt(self, support_x: Examples, support_y: Any, loss_fn: LossFunction) -> nn.Module:
        """Return a copy of the base that has learned the support set; the base stays as it is.

        The last fifth of the support is held back first. If the loss there, in eval mode, rises or is not finite, the copy is
        the unadapted base, and a warning is logged; otherwise all of the support is used. `last_adaptation` says which; it is
        also the attribute `adaptation` of the returned module. A single example judges itself.

        Args:
            support_x: `[shot, ...]`; a tuple of tensors is a list of arguments, a dict one of keywords.
            support_y: `[shot, ...]`, whatever `loss_fn` takes.
            loss_fn: (prediction, labels) -> scalar mean loss.

        Raises:
            ValueError: The support set is empty.
        """
        adapted, self.last_adaptation = self.adapt_and_report(support_x, support_y, loss_fn)
        if not self.last_adaptation.accepted:
            _log.warning("adaptation refused: %s", self.last_adaptation.reason)
        return adapted

    def adapt_and_report(
        self, support_x: Examples, support_y: Any, loss_fn: LossFunction, *, every_part: bool = False
    ) -> tuple[nn.Module, AdaptationOutcome]:
        """Adapt as `adapt` does and return the outcome too; nothing is logged or kept here, so it is safe to call concurrently.

        With `every_part` each fifth of the support is held back in turn, not the latest alone, and their losses are summed.
        """
        shots = count_of((support_x, support_y), "support_x and support_y")
        losses = []
        with differentiable_recurrence(self.base_model), torch.enable_grad():
            for seen, held in _held_back(shots, every_part):
                trial = self.descended(take(support_x, seen), take(support_y, seen), loss_fn)
                losses.append(self._losses(trial, take(support_x, held), take(support_y, held), loss_fn))
            outcome = verdict(*(sum(values) for values in zip(*losses, strict=True)))
            adapted = self.descended(support_x, support_y, loss_fn) if outcome.accepted else copy.deepcopy(self.base_model)
        if not all(values.isfinite().all() for values in trained_parameters(adapted).values()):
            adapted = copy.deepcopy(self.base_model)
            outcome = outcome._replace(accepted=False, reason="adapted weights are not finite: base kept")
        adapted.adaptation = outcome  # type: ignore[assignment]
        for module in adapted.modules():
            if isinstance(module, nn.RNNBase):  # a copy's weights no longer lie in the one block that cuDNN wants
                module.flatten_parameters()
        return adapted, outcome

    def outer_step(
        self,
        support_x: Examples,
        support_y: Any,
        query_x: Examples,
        query_y: Any,
        loss_fn: LossFunction,
        optimizer: torch.optim.Optimizer,
    ) -> Float[Tensor, ""]:
        """Take one meta-training step on a meta-batch and return its mean query loss before the step.

        Args:
            support_x: `[task, shot, ...]`.
            support_y: `[task, shot, ...]`.
            query_x: `[task, query, ...]`.
            query_y: `[task, query, ...]`.
            loss_fn: (prediction, labels) -> scalar mean loss of one task.
            optimizer: Over `self.parameters()`.

        Raises:
            DataError: The loss or its gradient is not finite; nothing has changed.
            ValueError: As `meta_loss`.
        """
        data = (support_x, support_y, query_x, query_y)
        optimizer.zero_grad(set_to_none=True)
        with differentiable_recurrence(self.base_model):
            loss = self._backward(data, loss_fn) if self.compiled is None else self._compiled(self.compiled, data, loss_fn)
        if not (loss.detach() + largest_slope(self)).isfinite():
            optimizer.zero_grad(set_to_none=True)
            raise DataError(f"meta-training loss and gradient must be finite, were not at a loss of {loss.item()}")
        optimizer.step()
        self._follow_statistics(support_x)
        return loss.detach()

    def meta_loss(
        self, support_x: Examples, support_y: Any, query_x: Examples, query_y: Any, loss_fn: LossFunction
    ) -> Float[Tensor, ""]:
        """Mean query loss after adapting to each task, differentiable in the base parameters: eq. 1 of the paper.

        Raises:
            ValueError: There is no task, the parts disagree about their number, or a support or query set is empty.
        """
        data = (support_x, support_y, query_x, query_y)
        tasks, learned = _checked_tasks(data), dict(trained_parameters(self))
        if self.batching == "vmap":
            try:
                return self._together(learned, data, loss_fn)
            except RuntimeError as error:
                refusal = error
            loss = self._one_by_one(learned, data, loss_fn, tasks)
            _log.warning("tasks run one by one, as vmap refuses the base model: %s", str(refusal).splitlines()[0])
            self.batching = "loop"
            return loss
        return self._one_by_one(learned, data, loss_fn, tasks)

    def _backward(self, data: TaskData, loss_fn: LossFunction) -> Float[Tensor, ""]:
        """Compute the meta-gradient; in first order from then on, should a kernel of the base have no second derivative."""
        try:
            loss = self.meta_loss(*data, loss_fn)
            loss.backward()
        except RuntimeError as error:
            if self.first_order or "is not implemented" not in str(error):
                raise
            _log.warning("meta-gradients are of first order from now on: %s", str(error).splitlines()[0])
            self.first_order = True
            self.zero_grad(set_to_none=True)
            return self._backward(data, loss_fn)
        return loss

    def _compiled(self, gradient: CompiledGradient, data: TaskData, loss_fn: LossFunction) -> Float[Tensor, ""]:
        _checked_tasks(data)
        learned = trained_parameters(self)
        loss, slopes = gradient(
            (loss_fn, self.training), lambda values, given: self._together(values, given, loss_fn), learned, data
        )
        for name, parameter in learned.items():
            parameter.grad = slopes[name]
        return loss

    def _together(self, learned: Mapping[str, Tensor], data: TaskData, loss_fn: LossFunction) -> Float[Tensor, ""]:
        """Mean query loss of a meta-batch, its tasks in one batched computation."""
        with mappable(self.base_model):
            return vmap(lambda *task: self._task_loss(learned, task, loss_fn, grad), randomness="different")(*data).mean()

    def _one_by_one(self, learned: Mapping[str, Tensor], data: TaskData, loss_fn: LossFunction, tasks: int) -> Float[Tensor, ""]:
        """The same, task by task, by plain autograd."""
        with mappable(self.base_model):
            split = [tuple(take(part, index) for part in data) for index in range(tasks)]
            return torch.stack([self._task_loss(learned, task, loss_fn, differentiable_gradient) for task in split]).mean()

    def _task_loss(
        self, learned: Mapping[str, Tensor], task: Sequence[Any], loss_fn: LossFunction, gradient_of: GradientOf
    ) -> Float[Tensor, ""]:
        """Query loss of one task after differentiable gradient descent on its support."""
        x, y, query_x, query_y = task
        parameters = {name: learned[f"base_model.{name}"] for name in self.names}
        rates = self._rates(learned.get("log_rates"))
        gradient = gradient_of(lambda weights: loss_fn(call_with(self.base_model, weights, x), y))
        losses = []
        for weight in self.step_weights or _last_only(self.num_inner_steps):
            slopes = gradient(parameters)
            if self.first_order:
                slopes = {name: slope.detach() for name, slope in slopes.items()}
            parameters = {name: value - rates[name] * slopes[name] for name, value in parameters.items()}
            if weight:
                losses.append(weight * loss_fn(call_with(self.base_model, parameters, query_x), query_y))
        return sum(losses[1:], start=losses[0])

    def descended(self, x: Examples, y: Any, loss_fn: LossFunction) -> nn.Module:
        """Return a copy of the base after gradient descent on some examples, whatever comes of it."""
        model = copy.deepcopy(self.base_model)
        weights = trained_parameters(model)
        rates = self._rates(None if self.log_rates is None else self.log_rates.detach())
        for _ in range(self.num_inner_steps):
            loss = loss_fn(call_with(model, {}, x), y)
            slopes = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            with torch.no_grad():
                for (name, values), slope in zip(weights.items(), slopes, strict=True):
                    values.sub_(rates[name] * slope)
        return model

    def _rates(self, log_rates: Tensor | None) -> Mapping[str, float | Tensor]:
        if log_rates is None:
            return dict.fromkeys(self.names, self.inner_lr)
        return dict(zip(self.names, log_rates.exp().unbind(), strict=True))

    @torch.no_grad()
    def _losses(self, trial: nn.Module, x: Examples, y: Any, loss_fn: LossFunction) -> tuple[float, float]:
        """Losses of the base and of the trial on held-back examples, both as they would be used."""
        before, after = (
            loss_fn(call_with(model, {}, x), y).item() for model in (copy.deepcopy(self.base_model).eval(), trial.eval())
        )
        return before, after

    @torch.no_grad()
    def _follow_statistics(self, support_x: Examples) -> None:
        """Let running statistics see the support of all tasks, which the meta-gradient hides from them."""
        if tracks_statistics(self.base_model):
            call_with(self.base_model, {}, map_tensors(lambda values: values.flatten(0, 1), support_x))


def _held_back(shots: int, every_part: bool) -> list[tuple[Tensor, Tensor]]:
    """Return which examples to learn from and which to hold back, once or in turn; a single one judges itself."""
    order = torch.arange(shots)
    if shots == 1:
        return [(order, order)]
    size = -(-shots // HELD_BACK)
    stops = range(shots, 0, -size) if every_part else [shots]
    parts = [(order >= max(stop - size, 0)) & (order < stop) for stop in stops]
    return [(order[~held], order[held]) for held in parts]


def verdict(before: float, after: float) -> AdaptationOutcome:
    """Return whether an adaptation is accepted: it is unless the loss on held-back support rises or is not finite."""
    if not math.isfinite(after):
        return AdaptationOutcome(False, before, after, "loss on held-back support is not finite after adaptation: base kept")
    if after > before:
        return AdaptationOutcome(
            False, before, after, f"loss on held-back support rises from {before:.6g} to {after:.6g}: base kept"
        )
    return AdaptationOutcome(True, before, after, f"loss on held-back support falls from {before:.6g} to {after:.6g}")


def _last_only(steps: int) -> tuple[float, ...]:
    return (0.0,) * (steps - 1) + (1.0,)


def _checked_weights(weights: Sequence[float], steps: int) -> tuple[float, ...]:
    if len(weights) != steps or min(weights) < 0 or max(weights) == 0:
        raise ValueError(f"step_weights must hold {steps} weights from 0, not all 0, were {tuple(weights)}")
    return tuple(weights)


def _checked_tasks(data: TaskData) -> int:
    """Return the number of tasks, the same in all parts; each part must hold examples of each task."""
    names = ("support_x", "support_y", "query_x", "query_y")
    counts = {name: count_of(part, name) for name, part in zip(names, data, strict=True)}
    if len(set(counts.values())) != 1:
        raise ValueError(f"every part must hold the same number of tasks, held {counts}")
    for x, y in (("support_x", "support_y"), ("query_x", "query_y")):
        pair = (data[names.index(x)], data[names.index(y)])
        count_of(take(pair, 0), f"each task of {x} and {y}")
    return counts["support_x"]
