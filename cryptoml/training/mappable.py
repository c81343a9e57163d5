"""Any model in a form that torch.func can map over tasks or samples and differentiate twice.

Five kinds of layers stand in the way: recurrent kernels cannot be mapped, fused attention has no second derivative, that of
layer and batch normalisation with learned scales is wrong once mapped and that of weight normalisation always (torch 2.13),
and batch normalisation in training mode writes its running statistics.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from cryptoml.training.recurrence import CELLS, STEPS, run_layers

__all__ = [
    "GradientOf",
    "PlainOperations",
    "differentiable_gradient",
    "differentiable_recurrence",
    "mappable",
    "tracks_statistics",
]

Weights: TypeAlias = dict[str, Tensor]
GradientOf: TypeAlias = Callable[[Callable[[Weights], Tensor]], Callable[[Weights], Weights]]
"""From a loss of weights to its gradient, as `torch.func.grad` does."""


def differentiable_gradient(loss: Callable[[Weights], Tensor]) -> Callable[[Weights], Weights]:
    """Do what `torch.func.grad` does, by plain autograd: nothing that autograd knows is refused, and nothing can be mapped."""

    def gradient(weights: Weights) -> Weights:
        with torch.enable_grad():
            slopes = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=True, materialize_grads=True)
        return dict(zip(weights, slopes, strict=True))

    return gradient


@contextmanager
def differentiable_recurrence(model: nn.Module) -> Iterator[None]:
    """Run the recurrent layers of a model, if any, by kernels that have a gradient outside training mode too."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield


def tracks_statistics(model: nn.Module) -> bool:
    """Whether a model would write running statistics if it were called as it is."""
    return bool(_tracking(model))


def _tracking(model: nn.Module) -> list[_NormBase]:
    normalising = (module for module in model.modules() if isinstance(module, _NormBase))
    return [module for module in normalising if module.training and module.track_running_stats]


@contextmanager
def mappable(model: nn.Module) -> Iterator[None]:
    """Run a model by operations that torch.func can transform; values change by rounding at most.

    Normalisation by batch statistics stays what it is, but leaves the running ones alone. What torch.func cannot transform
    for other reasons, such as packed sequences, raises RuntimeError as ever.
    """
    tracking, fast_path = _tracking(model), torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        stack.callback(_track, tracking, True)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="There is a performance drop")  # of rare operations, mapped by a loop
        torch.backends.mha.set_fastpath_enabled(False)
        _track(tracking, False)
        stack.enter_context(PlainOperations())
        yield


def _track(layers: list[_NormBase], flag: bool) -> None:
    for layer in layers:
        layer.track_running_stats = flag


class PlainOperations(TorchFunctionMode):
    """While it is entered, recurrent layers of unpacked sequences and normalisations are composed of plain operations."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        step, plain = STEPS.get(func), _PLAIN.get(func)
        if step is not None and isinstance(args[3], bool):  # packed sequences have their weights there
            return run_layers(step, *args)
        return (plain or func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _normalised(input, tuple(range(-len(normalized_shape), 0)), eps, (), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    running = () if training or running_mean is None or running_var is None else (running_mean, running_var)
    return _by_channel(input, (0, *range(2, input.ndim)), eps, running, weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    running = () if use_input_stats or running_mean is None or running_var is None else (running_mean, running_var)
    return _by_channel(input, tuple(range(2, input.ndim)), eps, running, weight, bias)


def _by_channel(
    input: Tensor, axes: tuple[int, ...], eps: float, running: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Normalise with statistics, scale and shift per channel, the second axis."""
    shape = (1, -1, *[1] * (input.ndim - 2))
    scale, shift = (None if part is None else part.view(shape) for part in (weight, bias))
    return _normalised(input, axes, eps, tuple(part.view(shape) for part in running), scale, shift)


def _normalised(
    input: Tensor, axes: tuple[int, ...], eps: float, running: tuple[Tensor, ...], scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """Subtract the mean over some axes and divide by the deviation, or those of `running`; in float32 at least."""
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    mean, variance = running or (values.mean(axes, keepdim=True), values.var(axes, correction=0, keepdim=True))
    values = (values - mean) * torch.rsqrt(variance + eps)
    values = values if scale is None else values * scale
    return (values if shift is None else values + shift).to(input.dtype)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    kept = v.ndim if dim == -1 else dim % v.ndim  # -1 stands for the norm of the whole
    axes = tuple(axis for axis in range(v.ndim) if axis != kept)
    return v * (g / v.square().sum(axes, keepdim=dim != -1).sqrt())


_PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    torch._weight_norm: _weight_norm,
    **CELLS,
}
