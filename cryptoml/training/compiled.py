"""Gradients of small losses without the cost of Python: traced to one flat graph per shape and compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["CompiledGradient"]


class CompiledGradient:
    """Loss and gradients by compiled graphs, one per key and shape of the data.

    Tracing runs the function once and keeps what it did: Python branches and numbers are frozen into the graph, so all that
    may change between calls must be in the parameters, the data or the key.
    """

    def __init__(self) -> None:
        self.graphs: dict[Any, Callable[[list[Tensor], list[Tensor]], list[Tensor]]] = {}

    def __call__(
        self,
        key: Any,
        function: Callable[[dict[str, Tensor], Any], Float[Tensor, ""]],
        parameters: Mapping[str, Tensor],
        data: Any,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Evaluate function(parameters, data) and its gradient in every parameter.

        Args:
            key: Hashable; calls with equal keys and shapes share a graph.
            function: To a scalar loss; may hold torch.func transforms.
            parameters: What to differentiate by.
            data: Any nesting of tensors.
        """
        flat, layout = tree_flatten(data)
        values = [value.detach() for value in parameters.values()]
        shapes = tuple((value.shape, value.dtype, value.device) for value in [*values, *flat])
        graph = self.graphs.get((key, layout, shapes))
        if graph is None:
            graph = self.graphs[key, layout, shapes] = _compiled(function, list(parameters), layout, values, flat)
        loss, *slopes = graph(values, flat)
        return loss, dict(zip(parameters, slopes, strict=True))


def _compiled(
    function: Callable[[dict[str, Tensor], Any], Tensor], names: list[str], layout: Any, values: list[Tensor], flat: list[Tensor]
) -> Callable[[list[Tensor], list[Tensor]], list[Tensor]]:
    def evaluate(values: list[Tensor], flat: list[Tensor]) -> list[Tensor]:
        leaves = [value.detach().requires_grad_() for value in values]
        loss = function(dict(zip(names, leaves, strict=True)), tree_unflatten(flat, layout))
        return [loss.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    traced = make_fx(evaluate)(values, flat)
    for node in traced.graph.nodes:
        if node.target is torch.ops.aten.view.default:  # the compiler may lay out what is viewed in another order than was traced
            node.target = torch.ops.aten.reshape.default
    traced.recompile()
    return torch.compile(traced)
