"""Examples as adaptation sees them: a tensor, or a tuple or dict of tensors, that share their first axis."""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

__all__ = [
    "Examples",
    "LossFunction",
    "call_with",
    "count_of",
    "largest_slope",
    "leaves",
    "map_tensors",
    "rebuild",
    "structure_of",
    "take",
    "trained_parameters",
]

Examples: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
LossFunction: TypeAlias = Callable[[Any, Any], Tensor]
"""(prediction, labels) -> scalar mean loss."""


def map_tensors(function: Callable[[Tensor], Tensor], examples: Any) -> Any:
    """Apply a function to every tensor of some examples."""
    if isinstance(examples, Tensor):
        return function(examples)
    if isinstance(examples, dict):
        return {name: map_tensors(function, part) for name, part in examples.items()}
    return tuple(map_tensors(function, part) for part in examples)


def leaves(examples: Any) -> list[Tensor]:
    """List every tensor of some examples, in a fixed order."""
    if isinstance(examples, Tensor):
        return [examples]
    parts = examples.values() if isinstance(examples, dict) else examples
    return [leaf for part in parts for leaf in leaves(part)]


def structure_of(examples: Any) -> Any:
    """Describe nesting as a JSON document: None for a tensor, a list for a tuple, an object for a dict."""
    if isinstance(examples, Tensor):
        return None
    if isinstance(examples, dict):
        return {name: structure_of(part) for name, part in examples.items()}
    return [structure_of(part) for part in examples]


def rebuild(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """Undo `leaves`: nest tensors as `structure_of` described."""
    if structure is None:
        return next(tensors)
    if isinstance(structure, dict):
        return {name: rebuild(part, tensors) for name, part in structure.items()}
    return tuple(rebuild(part, tensors) for part in structure)


def take(examples: Any, index: slice | int | Tensor) -> Any:
    """Select along the first axis of every tensor."""
    return map_tensors(lambda values: values[index], examples)


def count_of(examples: Any, name: str) -> int:
    """Length of the first axis.

    Raises:
        ValueError: It is 0 or differs between the tensors.
    """
    shapes = [list(values.shape) for values in leaves(examples)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        had = ", ".join(map(str, shapes)) or "no tensor"
        raise ValueError(f"{name} must hold at least one example along one common first axis, had {had}")
    return lengths.pop()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training may change, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def largest_slope(model: nn.Module) -> Float[Tensor, ""]:
    """Largest gradient of any parameter in size: NaN where one is, 0 where there is none."""
    slopes = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return nn.utils.get_total_norm(slopes, math.inf)


def call_with(model: nn.Module, parameters: dict[str, Tensor], x: Examples) -> Any:
    """Call a model with some of its parameters replaced; a tuple is a list of arguments, a dict one of keywords."""
    if isinstance(x, dict):
        return functional_call(model, parameters, (), x)
    return functional_call(model, parameters, x if isinstance(x, tuple) else (x,))
