"""A fixed budget of past examples in which every example ever seen is equally likely to be."""

from typing import Any

import torch
from torch import Tensor

from cryptoml.training.examples import Examples, count_of, leaves, rebuild, structure_of

__all__ = ["Reservoir"]


class Reservoir:
    """Reservoir sampling, algorithm R (Vitter 1985).

    Args:
        capacity: Examples kept, on the CPU; 0 keeps none.
        seed: Seed of what is kept and drawn.

    Raises:
        ValueError: `capacity` is negative.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 0:
            raise ValueError(f"capacity must be at least 0, was {capacity}")
        self.capacity, self.seen = capacity, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.structure: Any = None
        self.tensors: list[Tensor] = []

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, x: Examples, y: Any) -> None:
        """Offer some examples; each replaces a random kept one with probability capacity / seen.

        Raises:
            ValueError: Their shapes or nesting differ from those before.
        """
        count, parts = count_of((x, y), "x and y"), leaves((x, y))
        if self.capacity == 0:
            return
        if not self.tensors:
            self.structure = structure_of((x, y))
            self.tensors = [part.new_zeros((self.capacity, *part.shape[1:]), device="cpu") for part in parts]
        shapes = [part.shape[1:] for part in parts]
        if structure_of((x, y)) != self.structure or shapes != [kept.shape[1:] for kept in self.tensors]:
            raise ValueError(f"x and y must have the shapes of the examples before, had {[list(shape) for shape in shapes]}")
        rows, slots = self._slots(count)
        for kept, part in zip(self.tensors, parts, strict=True):
            kept[slots] = part.detach()[rows].to(kept)

    def sample(self, count: int) -> tuple[Any, Any] | None:
        """Draw at most `count` different kept examples; None when nothing is kept."""
        if len(self) == 0:
            return None
        index = torch.randperm(len(self), generator=self.generator)[:count]
        x, y = rebuild(self.structure, iter([kept[index] for kept in self.tensors]))
        return x, y

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON document from which `restore` continues."""
        tensors = {f"kept/{index}": kept for index, kept in enumerate(self.tensors)}
        document = {"capacity": self.capacity, "seen": self.seen, "structure": self.structure}
        return tensors | {"generator": self.generator.get_state()}, document

    def restore(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Undo `state`."""
        self.capacity, self.seen, self.structure = document["capacity"], document["seen"], document["structure"]
        self.tensors = [tensors[f"kept/{index}"] for index in range(len(tensors) - 1)]
        self.generator.set_state(tensors["generator"])

    def _slots(self, count: int) -> tuple[list[int], list[int]]:
        """Rows of the offered examples that are kept, and where; a later row overwrites an earlier one."""
        ranks = torch.arange(self.seen + 1, self.seen + count + 1)
        draws = (torch.rand(count, generator=self.generator, dtype=torch.float64) * ranks).long().minimum(ranks - 1)
        places = torch.where(ranks <= self.capacity, ranks - 1, draws)
        self.seen += count
        owner = {slot: row for row, slot in enumerate(places.tolist()) if slot < self.capacity}
        return list(owner.values()), list(owner)
