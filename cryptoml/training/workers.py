"""Data-parallel workers: each takes its part of every batch, and sums meet across all of them.

Values travel over torch.distributed's default process group, which whoever starts the processes opens (Ray Train,
torchrun). One worker alone needs no group, and nothing here touches one then.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from cryptoml.errors import ConfigError, CryptomlError

__all__ = ["Workers"]

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """One of `world_size` workers that train the same model together.

    Raises:
        ConfigError: `rank` is not below `world_size`, or the process group is missing or of another size.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank must be at least 0 and below world_size {self.world_size}, was {self.rank}")
        if self.world_size > 1:
            size = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 0
            if size != self.world_size:
                raise ConfigError(
                    f"world_size {self.world_size} needs a torch.distributed process group of that many workers, found {size}"
                )

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over the workers; all get the same bits."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace each gradient by the sum over the workers; returns the sum of their losses.

        Everything travels in one message. A parameter without a gradient on any worker keeps none.
        """
        if self.world_size == 1:
            return loss
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        used = loss.new_tensor([one.grad is not None for one in parameters])
        flat = self.sum(torch.cat([*(one.flatten() for one in gradients), used, loss.reshape(1)]))
        parts = flat.split([*(one.numel() for one in gradients), len(used), 1])
        for parameter, part, count in zip(parameters, parts, parts[-2].tolist(), strict=False):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if count else None
        return parts[-1][0]

    def share_state(self, module: nn.Module) -> None:
        """Give every worker the first one's parameters and buffers."""
        if self.world_size > 1:
            for values in [*module.parameters(), *module.buffers()]:
                distributed.broadcast(values.data, src=0)

    def gather(self, value: Any) -> list[Any]:
        """Collect one small value of each worker, in the order of ranks, on all of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def by_first(self, work: Callable[[], T]) -> T:
        """Let the first worker alone do something, such as writing a file; all get its result, or raise its error."""
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except CryptomlError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]
