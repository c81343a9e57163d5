"""A Ray cluster on this machine, much like a real one: a head for drivers alone, two workers, a token, dashboard on loopback.

python -m cluster.local start
python -m cluster.submit run_pipeline --data synthetic --out /tmp/first --preset debug
python -m cluster.local stop
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

__all__ = ["FOLDER", "LocalCluster", "free_port", "main"]

FOLDER = Path(tempfile.gettempdir()) / f"cryptoml-{os.getuid()}" / "cluster"
START_SECONDS = 90.0
STARTS = 3  # of a node: Ray gives one up that a busy machine starts slowly
STOP_SECONDS = 5.0
OBJECT_STORE_BYTES = 1 << 28
DRIVERS = 4


@dataclass
class LocalCluster:
    """Nodes of one user on this machine, kept in a folder so that any shell finds them again.

    Attributes:
        folder: Token, logs, sessions, and the file that this is read from.
        port: Of the control service, on loopback.
        dashboard_port: Of dashboard and job submission, on loopback.
        processes: Of the nodes; each leads a group of its own.
        children: Those of them that this process has started.
    """

    folder: Path
    port: int = 6379
    dashboard_port: int = 8265
    processes: list[int] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def at(cls, folder: Path) -> "LocalCluster | None":
        """Return the cluster that was started in a folder, or None where none runs."""
        if not (folder / "nodes.json").exists():
            return None
        found = cls(folder, **json.loads((folder / "nodes.json").read_text()))
        return found if found._living() else None

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which nodes, jobs and clients know the cluster and its token."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    def start(self, workers: int = 2, cpus: int = 1) -> None:
        """Bring up the head and the workers, and wait until all are there.

        Raises:
            RuntimeError: A node ended or did not come up in time; the message names its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "token", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))
        head = ["--head", f"--port={self.port}", "--num-cpus=0", f'--resources={{"driver": {DRIVERS}}}']
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}", f"--temp-dir={self.folder}/ray"]
        self._bring_up("head", head, 1)
        for number in range(workers):  # one by one: two that start at once on one machine are taken for one another
            self._bring_up(f"worker-{number}", [f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}"], 2 + number)

    def _bring_up(self, name: str, options: Sequence[str], count: int) -> None:
        """Start a node and wait until so many are alive; start it again where it ends instead."""
        for _ in range(STARTS):
            child = self._start_node(name, options)
            until = time.monotonic() + START_SECONDS
            while child.poll() is None and time.monotonic() < until:
                if self.alive_nodes() >= count:
                    return
                time.sleep(0.3)
            _signal_group(child.pid, signal.SIGKILL)
            child.wait()
            self.processes.remove(child.pid)
            self.children.remove(child)
        self.stop()
        raise RuntimeError(f"a node did not come up; its log is {self.folder}/{name}.log")

    def _start_node(self, name: str, options: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a node whose agent listens on a port of its own, as nodes of one machine must, ready to serve as in the image."""
        from serve.door import node_environment  # Ray and Serve, which stopping and asking do without

        common = ["--node-ip-address=127.0.0.1", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | self.environment
        del environment["RAY_ADDRESS"], environment["RAY_API_SERVER_ADDRESS"]
        environment |= node_environment()
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, *common, *options], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.children.append(process)
        self.processes.append(process.pid)
        state = {"port": self.port, "dashboard_port": self.dashboard_port, "processes": self.processes}
        (self.folder / "nodes.json").write_text(json.dumps(state))
        return process

    def alive_nodes(self) -> int:
        """Return how many nodes the dashboard knows to be alive; 0 where it does not answer."""
        token = (self.folder / "token").read_text()
        request = urllib.request.Request(f"{self.dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                rows = json.load(answer)["data"]["result"]["result"]
        except (OSError, KeyError, TypeError, ValueError):
            return 0
        return sum(row["state"] == "ALIVE" for row in rows)

    def _living(self) -> list[int]:
        ended = {child.pid for child in self.children if child.poll() is not None}
        return [process for process in self.processes if process not in ended and Path(f"/proc/{process}").exists()]

    def stop(self) -> None:
        """End the nodes of this cluster and no other process of Ray."""
        for process in self.processes:
            _signal_group(process, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        while self._living() and time.monotonic() < until:
            time.sleep(0.1)
        for process in self.processes:
            _signal_group(process, signal.SIGKILL)
        for child in self.children:
            child.wait()
        (self.folder / "nodes.json").unlink(missing_ok=True)
        self.processes.clear()


def main(arguments: Sequence[str]) -> int:
    """Start, stop, or name the variables for a shell; return the exit code."""
    found = LocalCluster.at(FOLDER)
    if list(arguments) == ["stop"]:
        if found is not None:
            found.stop()
        return 0
    if list(arguments) not in (["start"], ["environment"]):
        return _end("usage: python -m cluster.local start | environment | stop", 2)
    if arguments[0] == "start" and found is None:
        found = LocalCluster(FOLDER)
        try:
            found.start()
        except RuntimeError as error:
            return _end(f"error: {error}", 2)
    if found is None:
        return _end("error: no local cluster runs; `make cluster` starts one", 2)
    return _end("".join(f"export {name}={value}\n" for name, value in found.environment.items()), 0, sys.stdout)


def _end(text: str, code: int, stream: TextIO = sys.stderr) -> int:
    stream.write(f"{text.rstrip()}\n")
    return code


def free_port() -> int:
    """Return a port of this machine's loopback that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _signal_group(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
