"""Jobs as processes of their own, to be watched, interrupted and killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.conftest import REPOSITORY

__all__ = ["interrupted", "start", "wait_for"]


def start(job: str, environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """Start a job in a process group of its own, as a terminal does; its output is kept."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """Undo what a shell does to commands in its background, these tests maybe: they ignore Ctrl-C, and so would the job."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180.0) -> None:
    """Wait until a condition holds while the job runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{condition} did not hold within {seconds:.0f} s"
        time.sleep(0.05)


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, which a terminal sends to the whole process group, and give it 30 seconds."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
