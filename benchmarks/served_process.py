"""A real Ray Serve on a private Ray of this machine, started as a user does: `serve run CONFIG`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve.door import node_environment
from serve.settings import MAX_ONGOING

__all__ = ["Service", "service"]

READY_SECONDS = 240.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        address: Where it answers.
        process: Number of the process that all others descend from.
    """

    address: str
    process: int

    def replicas(self, deployment: str) -> int:
        """Count the processes of a deployment's replicas."""
        name = f"ServeReplica:cryptoml:{deployment}".encode()
        return sum(name in _read(Path(f"/proc/{number}/cmdline")) for number in _family(self.process))

    def megabytes(self) -> dict[str, float]:
        """Return the resident memory of the replicas by deployment."""
        found: dict[str, float] = {}
        for number in _family(self.process):
            named = re.search(rb"ServeReplica:cryptoml:(\w+)", _read(Path(f"/proc/{number}/cmdline")))
            if named:
                name = named[1].decode()
                found[name] = found.get(name, 0.0) + _resident_kb(number) / 1024
        return found


@contextmanager
def service(
    folder: Path,
    arguments: Mapping[str, Any],
    deployments: Mapping[str, Mapping[str, Any]] | None = None,
    max_ongoing: int = MAX_ONGOING,
) -> Iterator[Service]:
    """Run the application for the length of a `with` block.

    Args:
        folder: For the config file and the service's state.
        arguments: Settings of the application, see `serve.settings.AppArgs`.
        deployments: Name -> settings that differ from the code's.
        max_ongoing: Requests in work, at the proxy and at the ingress replica.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    application = {
        "name": "cryptoml",
        "import_path": "serve.app:build",
        "route_prefix": "/",
        "args": {"state": str(folder / "state"), "limits": {"max_ongoing": max_ongoing}, **arguments},
        "deployments": [{"name": name, **settings} for name, settings in (deployments or {}).items()],
    }
    config = folder / "config.yaml"
    http, logging = {"host": "127.0.0.1", "port": port}, {"enable_access_log": False}  # as the config files have it
    config.write_text(yaml.safe_dump({"http_options": http, "logging_config": logging, "applications": [application]}))
    with _running(config, node_environment(max_ongoing)) as process:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(address, process, config.with_suffix(".log"))
        yield Service(address, process.pid)


@contextmanager
def _running(config: Path, more: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets want a short path
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(folder), "PYTHONPATH": os.getcwd(), **more}
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with config.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/healthz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"the service was not ready after {READY_SECONDS:.0f} s: {log.read_text()[-2000:]}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _family(root: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        text = _read(stat).decode(errors="replace")
        if text:
            parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    family, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family


def _resident_kb(number: int) -> int:
    lines = _read(Path(f"/proc/{number}/status")).decode(errors="replace").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
