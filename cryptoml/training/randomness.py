"""Random states of a run: seeding, seeds that are independent of each other, and states that checkpoints keep."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["derived_seed", "random_state", "restore_random_state", "seeded"]


def derived_seed(*parts: int) -> int:
    """Mix whole numbers into one 32-bit seed; other numbers, or another order of them, give an independent one.

    Source: NumPy's `SeedSequence` (O'Neill 2015).
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed python, NumPy, torch and its devices; on leaving, the caller's states are as they were."""
    kept = random_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_random_state(kept)


def random_state() -> dict[str, Tensor]:
    """States of python's, NumPy's and torch's generators and, where CUDA has been used, of each device's."""
    state = {"cpu": torch.get_rng_state()} | _python_state() | _numpy_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= {f"cuda{index}": values for index, values in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Undo `random_state`; devices that are not here are skipped."""
    torch.set_rng_state(state["cpu"])
    words, gauss = state["python"].tolist(), state["python_gauss"].item()
    random.setstate((words[0], tuple(words[1:]), None if np.isnan(gauss) else gauss))
    keys, gauss = state["numpy"].numpy(), state["numpy_gauss"].item()
    np.random.set_state(("MT19937", keys[2:].astype(np.uint32), int(keys[0]), int(keys[1]), gauss))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda{index}"], index)


def _python_state() -> dict[str, Tensor]:
    version, words, gauss = random.getstate()
    pending = float("nan") if gauss is None else gauss
    return {"python": torch.tensor([version, *words]), "python_gauss": torch.tensor([pending], dtype=torch.float64)}


def _numpy_state() -> dict[str, Tensor]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.array([position, has_gauss, *keys], dtype=np.int64))
    return {"numpy": words, "numpy_gauss": torch.tensor([gauss], dtype=torch.float64)}
