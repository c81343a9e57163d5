"""What every network checks about its inputs before it computes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["clean_inputs", "complete_inputs", "holds_nan", "refuse_input"]


def clean_inputs(
    values: Float[Tensor, "*lead feature"],
    mask: Tensor | None,
    *,
    num_features: int,
    axes: str,
    name: str = "features",
) -> tuple[Float[Tensor, "*lead feature"], Bool[Tensor, "*lead feature"]]:
    """Return `values` with missing entries set to 0, and the full boolean mask (True = present).

    Args:
        values: inputs; entries where `mask` is False may hold anything, NaN included.
        mask: boolean, broadcastable to `values`; None means that everything is present.
        num_features: expected size of the last axis.
        axes: expected axis names, used to check the rank and to word errors.
        name: what to call `values` in errors.

    Raises:
        ValueError: wrong rank or feature count, no bars, a mask that does not fit, or NaN without a mask.
    """
    shape = tuple(values.shape)
    if len(shape) != len(axes.split()) or shape[-1] != num_features:
        raise ValueError(f"{name} must have shape [{axes}] with {num_features} features, was {list(shape)}")
    if 0 in shape[1:]:
        raise ValueError(f"{name} must hold at least one bar, had shape {list(shape)}")
    if mask is None:
        if holds_nan(values):
            raise ValueError(f"{name} of shape {list(shape)} holds NaN: pass mask, a boolean of that shape, False where missing")
        return values, torch.ones_like(values, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, was {mask.dtype}")
    try:
        full = mask.expand(shape)
    except RuntimeError:
        raise ValueError(f"mask must broadcast to {name} of shape {list(shape)}, was {list(mask.shape)}") from None
    return torch.where(full, values, torch.zeros((), dtype=values.dtype, device=values.device)), full


def complete_inputs(values: Tensor | None, *shapes: tuple[int, ...], name: str) -> Tensor:
    """Return `values` if they have one of `shapes` and no gaps.

    Raises:
        ValueError: no values, another shape, or NaN.
    """
    if values is None or tuple(values.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must have shape {expected}, was {None if values is None else list(values.shape)}")
    if holds_nan(values):
        raise ValueError(f"{name} of shape {list(values.shape)} holds NaN, but must be complete")
    return values


def refuse_input(values: Tensor | None, *, name: str, setting: str) -> None:
    """Raise ValueError for values that the model has no part for, for want of `setting`."""
    if values is not None:
        raise ValueError(f"{name} must be None for a model without {setting}, had shape {list(values.shape)}")


def holds_nan(values: Tensor) -> bool:
    """Whether eager values hold NaN; not asked of values that are being compiled or mapped."""
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(torch.isnan(values).any())
    except RuntimeError:  # under torch.func.vmap a tensor has no truth value
        return False
