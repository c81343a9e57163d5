"""One driver at a time works on a run, wherever in the cluster drivers are: files on S3 know no lock."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from cryptoml.data.run_folder import FolderInUseError

__all__ = ["claim"]

NAMESPACE = "cryptoml"
PATIENCE_SECONDS = 15.0
"""How long a claim is asked for: that of a driver that has just died falls within a few seconds."""
WITHOUT_END = -1


class _Claim:
    """An actor of its driver's: the cluster ends it with the driver, whatever ends that."""

    def stands(self) -> bool:
        """Answer once the claim is made."""
        return True


@contextmanager
def claim(address: str, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a run's folder against other drivers of the connected cluster for the length of a `with` block.

    Raises:
        FolderInUseError: Another driver holds it.
    """
    until = time.monotonic() + patience
    while (holder := _try(f"run-{hashlib.sha256(address.encode()).hexdigest()[:16]}")) is None:
        if time.monotonic() > until:
            raise FolderInUseError(f"out folder {address} is in use by another job of this cluster")
        time.sleep(1.0)
    try:
        yield
    finally:
        ray.kill(holder)


def _try(name: str) -> Any:
    """Return the actor of that name if it is this driver's, None where there is another."""
    try:
        holder = ray.remote(num_cpus=0, max_restarts=WITHOUT_END)(_Claim).options(name=name, namespace=NAMESPACE).remote()
    except ValueError:
        return None
    ray.get(holder.stands.remote())  # type: ignore[attr-defined]
    return holder
