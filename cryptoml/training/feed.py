"""Training batches with a position: a run can go on from any batch of any epoch, and knows how long it waited."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from cryptoml.training.randomness import random_state, restore_random_state

__all__ = ["Feed", "ahead", "length_of", "moved"]

T = TypeVar("T")
END: Any = object()


class Feed:
    """A loader as a run reads it.

    The order of a `ChunkLoader` depends on its seed and the epoch alone, so its batches before a position are skipped. Any
    other loader draws from the random states: its epoch is replayed from the states at its start.

    Args:
        loader: A `ChunkLoader`, or any iterable of batches such as a `DataLoader`.
        device: Where batches go.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.start: dict[str, Tensor] = {}
        self.waited = 0.0
        if getattr(loader, "persistent_workers", False):
            iter(loader)  # its first start draws a seed that later ones do not

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """Yield the epoch's batches from number `skip` on, moved to the device."""
        if skip == 0:
            self.start = self.state()
        batches = self._opened(epoch, skip)
        while True:
            started = time.perf_counter()
            batch = next(batches, END)
            self.waited += time.perf_counter() - started
            if batch is END:
                return
            yield batch

    def state(self) -> dict[str, Tensor]:
        """Random states that decide the order of an epoch that begins now: those that all share and the loader's own."""
        return random_state() | {name: generator.get_state() for name, generator in self._generators().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        restore_random_state(state)
        for name, generator in self._generators().items():
            if name in state:
                generator.set_state(state[name])

    def _generators(self) -> dict[str, torch.Generator]:
        parts = {"loader": self.loader, "sampler": getattr(self.loader, "sampler", None)}
        found = {name: getattr(part, "generator", None) for name, part in parts.items()}
        return {name: one for name, one in found.items() if isinstance(one, torch.Generator)}

    def _opened(self, epoch: int, skip: int) -> Iterator[Any]:
        for part in (self.loader, getattr(self.loader, "sampler", None)):
            getattr(part, "set_epoch", int)(epoch)
        if hasattr(self.loader, "iterate"):
            batches = (moved(batch, self.device) for batch in self.loader.iterate(epoch, skip))
            return ahead(batches) if self.device.type == "cuda" else batches
        if skip:
            return (moved(batch, self.device) for batch in self._replayed(skip))
        return (moved(batch, self.device) for batch in self.loader)

    def _replayed(self, skip: int) -> Iterator[Any]:
        now = random_state()
        self.restore(self.start)
        batches = iter(self.loader)
        next(islice(batches, skip - 1, skip), None)
        restore_random_state(now)
        return batches


def ahead(batches: Iterator[T]) -> Iterator[T]:
    """Prepare each item in a thread while the one before is worked on."""
    with ThreadPoolExecutor(1, "batches") as thread:
        waiting = thread.submit(next, batches, END)
        while (batch := waiting.result()) is not END:
            waiting = thread.submit(next, batches, END)
            yield batch


def moved(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch, whatever it is nested in, to a device."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(part, device) for part in batch))
    return type(batch)(moved(part, device) for part in batch) if isinstance(batch, list | tuple) else batch


def length_of(loader: Any) -> int | None:
    """Batches per epoch, or None where the loader cannot tell."""
    try:
        return len(loader)
    except TypeError:
        return None
