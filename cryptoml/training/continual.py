"""Continual learning without forgetting: elastic weight consolidation and experience replay."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap

from cryptoml.errors import DataError
from cryptoml.training.checkpoint import read_tensors, weights_of, write_tensors
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
from cryptoml.training.mappable import differentiable_recurrence, mappable
from cryptoml.training.reservoir import Reservoir

__all__ = ["Anchor", "ContinualLearner"]

SAMPLES_AT_ONCE = 64


class Anchor(NamedTuple):
    """What one past regime asks to keep: the weights that served it, and how much each one mattered."""

    weights: dict[str, Tensor]
    fisher: dict[str, Tensor]


class ContinualLearner:
    """Learn new regimes while old ones are held by EWC (Kirkpatrick et al. 2017) and by replay.

    Args:
        model: The network; it is trained in place.
        device: Where to train; where the model is by default.
        memory_size: Past examples kept for replay, by reservoir sampling; 0 switches replay off.
        importance_weight: The paper's lambda; 0 switches EWC off.
        seed: Seed of the reservoir.

    Raises:
        ValueError: A negative size or weight, or a model without trainable parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        memory_size: int = 1000,
        importance_weight: float = 0.5,
        *,
        seed: int = 0,
    ) -> None:
        if not 0 <= importance_weight < math.inf:
            raise ValueError(f"importance_weight must be at least 0 and finite, was {importance_weight}")
        if not trained_parameters(model):
            raise ValueError("model must have trainable parameters, had none")
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model = model.to(self.device)
        self.importance_weight = importance_weight
        self.memory = Reservoir(memory_size, seed)
        self.anchors: list[Anchor] = []

    def compute_fisher_information(
        self, loader: Iterable[tuple[Examples, Any]], loss_fn: LossFunction, *, remember: bool = False
    ) -> dict[str, Tensor]:
        """Close a regime: anchor the present weights by the diagonal of the empirical Fisher information.

        The diagonal is the mean over samples of the squared gradient of each sample's own loss, in eval mode; squaring the
        mean gradient of a batch would let samples cancel.

        Args:
            loader: Batches (x, y) of the regime; each a tensor, or a tuple or dict of tensors: arguments of the model.
            loss_fn: (prediction, labels) -> scalar mean loss; called on one sample at a time, a negative log-likelihood.
            remember: Also offer the samples to the replay memory; for regimes not learned by `continual_train_step`.

        Raises:
            DataError: The loader is empty, or a gradient is not finite.
            ValueError: The loader yields something else than pairs.
        """
        weights: dict[str, Tensor] = {name: value.detach() for name, value in trained_parameters(self.model).items()}
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        samples = 0
        with self._evaluation():
            for batch in loader:
                x, y = self._here(_pair(batch))
                samples += count_of((x, y), "x and y")
                for name, squares in _squared_gradients(self.model, weights, x, y, loss_fn).items():
                    total[name] += squares
                if remember:
                    self.memory.add(x, y)
        if samples == 0:
            raise DataError("loader must hold at least one sample to estimate Fisher information, held none")
        fisher = {name: value / samples for name, value in total.items()}
        broken = [name for name, value in fisher.items() if not value.isfinite().all()]
        if broken:
            raise DataError(f"Fisher information must be finite, was not for {broken[0]}")
        self.anchors.append(Anchor({name: value.clone() for name, value in weights.items()}, fisher))
        return fisher

    def penalty(self) -> Float[Tensor, ""]:
        """Sum over past regimes of lambda / 2 * F (theta - theta*)^2: eq. 3 of the paper; 0 before the first."""
        total, trained = torch.zeros((), device=self.device), trained_parameters(self.model)
        for anchor in self.anchors:
            for name in trained.keys() & anchor.fisher.keys():  # what was frozen then or is frozen now cannot be held
                total = total + (anchor.fisher[name] * (trained[name] - anchor.weights[name]).square()).sum()
        return 0.5 * self.importance_weight * total

    def continual_train_step(self, x: Examples, y: Any, optimizer: torch.optim.Optimizer, loss_fn: LossFunction) -> float:
        """Take one step on new examples, as many replayed ones, and the penalty; returns the loss that was descended.

        The new examples enter the memory afterwards.

        Raises:
            DataError: The loss or its gradient is not finite; weights and running statistics are unchanged.
            ValueError: There is no example, or x and y disagree about their number.
        """
        x, y = self._here(x), self._here(y)
        count = count_of((x, y), "x and y")
        self.model.train()
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        loss = loss_fn(call_with(self.model, {}, x), y)
        replayed = self.memory.sample(count)
        if replayed is not None:
            old_x, old_y = self._here(replayed[0]), self._here(replayed[1])
            loss = 0.5 * (loss + loss_fn(call_with(self.model, {}, old_x), old_y))
        loss = loss + self.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value, slope = loss.item(), largest_slope(self.model).item()
        if not math.isfinite(value + slope):
            self.model.load_state_dict(buffers, strict=False)
            optimizer.zero_grad(set_to_none=True)
            what = "gradient" if math.isfinite(value) else "loss"
            raise DataError(f"continual training {what} must be finite, was not on a batch of {count} examples")
        optimizer.step()
        self.memory.add(x, y)
        return value

    def save(self, path: str | Path) -> Path:
        """Write model weights, anchors and memory to one file, atomically.

        Raises:
            DataError: The file cannot be written.
        """
        kept, document = self.memory.state()
        tensors = {f"model/{name}": value for name, value in weights_of(self.model).items()}
        tensors |= {f"memory/{name}": value for name, value in kept.items()}
        for index, anchor in enumerate(self.anchors):
            for part, named in anchor._asdict().items():
                tensors |= {f"anchor/{index}/{part}/{name}": value for name, value in named.items()}
        document = {"memory": document, "anchors": len(self.anchors), "importance_weight": self.importance_weight}
        return write_tensors(path, tensors, document)

    def load(self, path: str | Path) -> None:
        """Undo `save`.

        Raises:
            DataError: The file is damaged or belongs to another model.
        """
        tensors, document = read_tensors(path)
        try:
            self.model.load_state_dict(_part(tensors, "model/"))
        except RuntimeError as error:
            raise DataError(f"state {path} belongs to another model: {error}") from error
        self.importance_weight = document["importance_weight"]
        self.memory.restore(_part(tensors, "memory/"), document["memory"])
        self.anchors = [
            Anchor(*(self._here(_part(tensors, f"anchor/{index}/{part}/")) for part in Anchor._fields))
            for index in range(document["anchors"])
        ]

    def _here(self, examples: Any) -> Any:
        return map_tensors(lambda values: values.to(self.device), examples)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Eval mode, with recurrent kernels that have a gradient there."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with differentiable_recurrence(self.model):
                yield
        finally:
            for module, training in modes:
                module.training = training


def _pair(batch: Any) -> tuple[Examples, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        held = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
        raise ValueError(f"loader must yield pairs (x, y), yielded a {type(batch).__name__}{held}")
    return batch[0], batch[1]


def _squared_gradients(
    model: nn.Module, weights: dict[str, Tensor], x: Examples, y: Any, loss_fn: LossFunction
) -> dict[str, Tensor]:
    """Sum over samples of each sample's squared gradient."""

    def sample_loss(parameters: dict[str, Tensor], one_x: Any, one_y: Any) -> Tensor:
        batch_x, batch_y = (map_tensors(lambda values: values.unsqueeze(0), part) for part in (one_x, one_y))
        return loss_fn(call_with(model, parameters, batch_x), batch_y)

    try:
        with mappable(model):
            slopes = vmap(grad(sample_loss), in_dims=(None, 0, 0), chunk_size=SAMPLES_AT_ONCE)(weights, x, y)
        return {name: slope.square().sum(dim=0) for name, slope in slopes.items()}
    except RuntimeError:  # no batching rule for something in the model; a real fault shows again below
        pass
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for index in range(count_of(x, "x")):
        with torch.enable_grad():
            loss = sample_loss(leaves, take(x, index), take(y, index))
        for name, slope in zip(total, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True), strict=True):
            total[name] += slope.square()
    return total


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
