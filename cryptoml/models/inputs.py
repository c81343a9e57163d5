"""What every network checks about its inputs before it computes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["at_least_one", "clean_inputs", "complete_inputs", "holds_nan", "known", "refuse_input"]


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
        ValueError: wrong rank or feature count, no bars, a mask that does not fit, or NaN that no mask covers.
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
        raise ValueError(f"mask must be boolean and broadcast to {list(shape)}, was {mask.dtype} of shape {list(mask.shape)}")
    try:
        full = mask.expand(shape)
    except RuntimeError:
        raise ValueError(f"mask must broadcast to {name} of shape {list(shape)}, was {list(mask.shape)}") from None
    kept = torch.where(full, values, torch.zeros((), dtype=values.dtype, device=values.device))
    if holds_nan(kept):
        raise ValueError(f"{name} of shape {list(shape)} holds NaN where mask of shape {list(mask.shape)} says present")
    return kept, full


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


def at_least_one(**sizes: int) -> None:
    """Raise ValueError for a size below 1, by the name it is passed under."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, was {size}")


def holds_nan(values: Tensor) -> bool:
    """Whether eager values hold NaN; not asked of values that are being compiled, traced or mapped."""
    return known(torch.isnan(values.coalesce().values() if values.is_sparse else values).any()) is True


def known(condition: Bool[Tensor, ""]) -> bool | None:
    """Truth of an eager condition; None where it is being compiled, traced or mapped, and may not decide anything."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(condition)
    except RuntimeError:  # of torch.func.vmap and of tracers, for which a tensor has no truth value
        return None
