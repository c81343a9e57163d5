"""A Ray cluster over hosts: a head that runs drivers and nothing else, workers that come back by themselves, S3 and Redis."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.hosts import REPOSITORY, Host, Network, network

__all__ = ["Cluster", "Job", "cluster_of_hosts", "wait_until"]

WORKERS = ("one", "two")
BUCKET = "market"
TOKEN = "0123456789abcdef" * 4
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
    "RAY_agent_register_timeout_ms": "28000",  # a busy machine starts a node's agent slowly, and a node without it ends
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
ASK = "import sys,urllib.request as r;q=r.Request(sys.argv[1],headers={'Authorization':'Bearer '+sys.argv[2]});"
ASK += "print(r.urlopen(q,timeout=20).read().decode())"


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It never did.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)


@dataclass
class Job:
    """A submitted job; its log lies on the head."""

    name: str
    cluster: "Cluster"
    process: subprocess.Popen[bytes]
    started: float

    @property
    def log(self) -> str:
        return self.cluster.head.path(f"/tmp/{self.name}.log").read_text(errors="replace")

    @property
    def driver_log(self) -> str:
        """What the job itself has written so far; the log above comes in batches of up to 15 seconds."""
        return self.cluster.driver_log(self.name)

    def last(self, seconds: float) -> None:
        """Let so many seconds pass, or fewer where the job ends."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)

    def wait(self, seconds: float = 420) -> float:
        """Wait for the end; return the seconds that the job took, as the one who submitted it saw them.

        Raises:
            AssertionError: The job failed; the message is the end of its log.
        """
        code = self.process.wait(timeout=seconds)
        assert code == 0, f"job {self.name} ended with {code}:\n{self.log[-6000:]}"
        return time.monotonic() - self.started


@dataclass
class Cluster:
    """The cluster; see the module."""

    net: Network
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        return self.net.hosts["head"]

    @property
    def store(self) -> Host:
        return self.net.hosts["store"]

    @property
    def workers(self) -> list[Host]:
        return [self.net.hosts[name] for name in WORKERS]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:8265"

    def s3(self, folder: str) -> str:
        """Return the address of a folder on the S3 server."""
        return f"s3://k:s@{BUCKET}/{folder}?endpoint_override=http://{self.store.address}:5000&region=us-east-1"

    def start(self) -> None:
        """Bring everything up, and wait until all nodes are there."""
        self.environment |= HEALTH | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_REDIS_ADDRESS": f"{self.store.address}:6379",
            "RAY_external_storage_namespace": "cryptoml",
        }
        redis = ["redis-server", "--bind", self.store.address, "--protected-mode", "no", "--save", "", "--dir", "/tmp"]
        self.store.spawn(redis, {}, "/tmp/redis.log")
        server = ["python", "-m", "tests.cluster.s3_server", self.store.address, "5000", BUCKET, "/tmp"]
        self.store.spawn(server, {}, "/tmp/s3.log")
        wait_until(self.store.path("/tmp/ready-s3").exists, 240, "the S3 server's start")
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)
        self.wait_for_nodes(1 + len(self.workers))

    def start_head(self) -> None:
        """Start the head, again where it ends because a busy machine starts slowly, and wait until its dashboard answers."""
        options = ["--head", "--port=6379", "--num-cpus=0", '--resources={"driver": 4}', "--object-store-memory=200000000"]
        options += [f"--dashboard-host={self.head.address}", f"--node-ip-address={self.head.address}", "--block"]
        loop = f"while true; do {shlex.join(['ray', 'start', *options])}; sleep 1; done"
        self.head.spawn(["bash", "-c", loop], self.environment, "/tmp/head.log")
        wait_until(lambda: self.alive_nodes() > 0, 180, "the head's start")

    def start_worker(self, host: Host, cpus: int = 2) -> None:
        """Start a worker that comes back whenever it ends, as a supervised one does."""
        join = f"ray start --address={self.head.address}:6379 --num-cpus={cpus} --object-store-memory=200000000"
        loop = f"while true; do {join} --node-ip-address={host.address} --block; sleep 1; done"
        host.spawn(["bash", "-c", loop], self.environment, "/tmp/worker.log")

    def reboot(self, host: Host) -> None:
        """Bring a dead worker host back with an empty disk."""
        host.heal()
        host.start()
        self.start_worker(host)

    def wait_for_nodes(self, count: int, seconds: float = 240) -> None:
        """Wait until so many nodes are alive."""
        wait_until(lambda: self.alive_nodes() == count, seconds, f"{count} nodes being alive")

    def alive_nodes(self) -> int:
        """Return how many nodes the head knows to be alive; -1 where it does not answer."""
        found = self._ask("/api/v0/nodes")
        if not found or not found.get("data"):
            return -1
        return sum(row["state"] == "ALIVE" for row in found["data"]["result"]["result"])

    def _ask(self, path: str) -> Any:
        """Return what the dashboard answers; None where it does not. A bare Python asks, which starts within a moment."""
        command = [sys.executable, "-S", "-c", ASK, f"{self.dashboard}{path}", TOKEN]
        found = self.head.run(command, {})
        return json.loads(found.stdout) if found.returncode == 0 else None

    def submit(self, name: str, module: str, *arguments: str) -> Job:
        """Submit a job as a user does, with the code and nothing else, and follow it."""
        command = ["ray", "job", "submit", f"--address={self.dashboard}", "--working-dir", str(REPOSITORY)]
        command += ["--entrypoint-resources", '{"driver": 1}', "--submission-id", name, "--metadata-json", '{"job": "chaos"}']
        command += ["--", "python", "-m", f"jobs.{module}", *arguments]
        process = self.head.spawn(command, self.environment, f"/tmp/{name}.log")
        return Job(name, self, process, time.monotonic())

    def driver_log(self, name: str) -> str:
        """Return what a job itself has written."""
        found = self.head.path("/tmp/ray").glob(f"session_2*/logs/job-driver-{name}.log")
        return "".join(path.read_text(errors="replace") for path in found)

    def status(self, name: str) -> str:
        """Return the status of a job as the cluster knows it."""
        return str(self._ask(f"/api/jobs/{name}")["status"])

    def fail_s3(self, failing: bool) -> None:
        """Let the S3 server answer 503 to everything, or answer again."""
        flag = self.store.path("/tmp/fail")
        flag.touch() if failing else flag.unlink()

    def damaged(self) -> list[str]:
        """Return the keys of all objects so far that could be read before they were whole."""
        path = self.store.path("/tmp/damaged")
        return path.read_text().splitlines() if path.exists() else []

    def fetch(self, folder: str, to: Path) -> Path:
        """Copy a folder of the S3 server to this machine."""
        code = "import sys;from pyarrow import fs;from cryptoml.data.storage import open_storage as o;s=o(sys.argv[1]);"
        code += "fs.copy_files(s.base,'/tmp/fetched',source_filesystem=s.filesystem)"
        self.store.run(["rm", "-rf", "/tmp/fetched"], {})
        self.store.run(["mkdir", "-p", "/tmp/fetched"], {})
        done = self.store.run(["python", "-c", code, self.s3(folder)], {})
        assert done.returncode == 0, done.stderr
        to.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", f"{self.store.path('/tmp/fetched')}/.", str(to)], check=True)
        return to

    def objects(self, folder: str) -> list[str]:
        """Return the keys below a folder of the S3 server."""
        code = "import sys;from cryptoml.data.storage import open_storage as o;"
        code += "print('\\n'.join(o(sys.argv[1]).list_files(recursive=True)))"
        return self.store.run(["python", "-c", code, self.s3(folder)], {}).stdout.split()


@contextmanager
def cluster_of_hosts(disks: Mapping[str, str] | None = None, extra: Sequence[str] = ()) -> Iterator[Cluster]:
    """Give a running cluster of a head and two workers for the length of a `with` block."""
    with network("head", *WORKERS, "store", *extra, disks=disks) as net:
        cluster = Cluster(net)
        cluster.start()
        yield cluster
