"""Watch training runs and break them: what the fault tests do to processes and disks."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import ray

from cryptoml.errors import DataError
from cryptoml.training.checkpoint import read_tensors

__all__ = ["batches_in", "epochs_in", "kill", "once", "processes", "wait_for"]


def wait_for(condition: Callable[[], object], seconds: float = 180.0) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It never did.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{condition} did not hold within {seconds:.0f} s")
        time.sleep(0.02)


def processes(title: str) -> list[psutil.Process]:
    """Return the worker processes of the connected cluster, not of others on this machine, that do a task of that name."""
    found = []
    for process in _workers():
        with suppress(psutil.Error):  # ended meanwhile
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{title}"):
                found.append(process)
    return found


def _workers() -> list[psutil.Process]:
    """Return the children of the cluster's raylets."""
    sockets = [node["RayletSocketName"] for node in ray.nodes() if node["Alive"]]
    children: list[psutil.Process] = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and any(socket in " ".join(process.info["cmdline"] or []) for socket in sockets):
            with suppress(psutil.Error):
                children += process.children()
    return children


def kill(title: str) -> None:
    """Kill the processes of a task as the kernel does when memory runs out."""
    for process in processes(title):
        os.kill(process.pid, signal.SIGKILL)


def epochs_in(path: Path) -> list[float]:
    """Return the seconds of each epoch that a checkpoint holds; they differ in every run. Empty where there is none."""
    try:
        return list(read_tensors(path)[1]["progress"]["history"].get("seconds", []))
    except DataError:
        return []


def batches_in(path: Path) -> int:
    """Return how many batches of an epoch not yet finished a checkpoint holds; 0 where there is none."""
    try:
        return int(read_tensors(path)[1]["progress"]["batch"])
    except DataError:
        return 0


def once(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do something in the background as soon as a condition holds."""

    def run() -> None:
        wait_for(condition)
        action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
