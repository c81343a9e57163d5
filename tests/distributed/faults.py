"""Watch training runs and break them: what the fault tests do to processes and disks."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cryptoml.errors import DataError
from cryptoml.training.checkpoint import read_tensors

__all__ = ["epochs_in", "kill", "once", "processes", "wait_for"]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
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
    """Return Ray's worker processes that do a task of that name."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(f"ray::{title}"):
            found.append(process)
    return found


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


def once(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do something in the background as soon as a condition holds."""

    def run() -> None:
        wait_for(condition)
        action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
