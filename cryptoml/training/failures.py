"""What a run says when it cannot go on: which data broke it, and what to do where memory ran out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cryptoml.errors import DataError
from cryptoml.training.chunks import Batch
from cryptoml.training.config import TrainingConfig
from cryptoml.training.objectives import BatchLoss

__all__ = ["blamed", "memory_hints"]


@torch.no_grad()
def blamed(batch: Any, number: int, loader: Any, batch_loss: BatchLoss) -> str:
    """Name what in a batch the loss or gradient is not finite for.

    Chunks are named by bars, times and symbols; batches of other loaders by their number and the rows at fault.

    Args:
        batch: The batch.
        number: Its place in the pass, counted from 0.
        loader: Where it came from.
        batch_loss: Model and objective as they were when it broke.
    """
    if isinstance(batch, Batch) and hasattr(loader, "describe"):
        return loader.describe(batch, batch_loss.objective.broken(batch_loss.model, batch))
    rows = sorted({row for part in _tensors(batch) for row in _bad_rows(part)})
    return f"batch {number + 1}" + (
        f", rows {', '.join(map(str, rows[:5]))} of which hold values that are not finite" if rows else ""
    )


def _bad_rows(values: Tensor) -> list[int]:
    return (~values.isfinite()).reshape(len(values), -1).any(dim=1).nonzero().flatten().tolist() if values.ndim else []


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


@contextmanager
def memory_hints(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Turn a lack of memory into an error that says which settings to change.

    Raises:
        DataError: Memory ran out inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        lower = f"lower batch_size and raise accumulate as much for the same result (they were {config.batch_size} and "
        lower += f"{config.accumulate}), or lower chunk_bars ({config.chunk_bars}) or hidden_size"
        if device.type == "cuda" and config.autocast == "none":
            lower += ", or set autocast to bfloat16"
        raise DataError(f"a batch does not fit into the memory of {device}: {lower} [{str(error).splitlines()[0]}]") from error


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
