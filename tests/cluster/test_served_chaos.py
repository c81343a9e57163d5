"""A node is killed while bots ask: two real hosts serve, a third asks; no answer is wrong and no accepted bar is lost."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryptoml.models.registry import Registry
from tests.cluster.hosts import REPOSITORY, Host, Network, missing, network
from tests.cluster.ray_hosts import HEALTH, TOKEN, wait_until
from tests.serve.conftest import today, trained

__all__ = ["today", "trained"]

LACKS = missing()
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.skipif(LACKS is not None, reason=str(LACKS)),
]
AFTER = 25
"""Compared answers after the loss."""
MORE_BARS = 6
"""Bars accepted after the loss."""
SECONDS = 240.0
ENVIRONMENT = HEALTH | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "PYTHONPATH": str(REPOSITORY),
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture
def shared(today: Any) -> Iterator[Path]:
    """A folder that all hosts mount, with a registry, candles and the config; `/tmp` is each host's own."""
    folder = Path(tempfile.mkdtemp(prefix="cryptoml-", dir="/var/tmp"))
    registry = Registry(folder / "registry")
    registry.promote(registry.add(today.bundle))
    shutil.copytree(today.path, folder / "bundle")
    (folder / "frames").mkdir()
    for symbol, frame in today.frames.items():
        frame.to_parquet(folder / "frames" / f"{symbol}.parquet")
    (folder / "serve.yaml").write_text(yaml.safe_dump(config(folder)))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def config(folder: Path) -> dict[str, Any]:
    """Return the production config with one replica of everything on each of two hosts."""
    found = yaml.safe_load((REPOSITORY / "serve" / "config" / "production.yaml").read_text())
    (application,) = found["applications"]
    application["args"] |= {"registry": str(folder / "registry"), "state": str(folder / "state"), "keys": None}
    for one in application["deployments"]:
        del one["autoscaling_config"]
        one |= {"num_replicas": 2, "max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.1}}
    return found


def start_nodes(net: Network) -> None:
    head, worker = net.hosts["head"], net.hosts["worker"]
    common = ["--num-cpus=4", "--object-store-memory=200000000", "--block"]
    own = ["--head", "--port=6379", f"--dashboard-host={head.address}", f"--node-ip-address={head.address}"]
    head.spawn(["ray", "start", *own, *common], ENVIRONMENT, "/tmp/head.log")
    wait_until(lambda: "Ray runtime started" in log(head, "head"), SECONDS, "the head's start")
    join = [f"--address={head.address}:6379", f"--node-ip-address={worker.address}"]
    worker.spawn(["ray", "start", *join, *common], ENVIRONMENT, "/tmp/worker.log")
    wait_until(lambda: "Ray runtime started" in log(worker, "worker"), SECONDS, "the worker's start")


def log(host: Host, name: str) -> str:
    path = host.path(f"/tmp/{name}.log")
    return path.read_text(errors="replace") if path.exists() else ""


def deploy(head: Host, folder: Path) -> None:
    """Deploy as a user does, and wait until every replica is there."""
    dashboard = ["-a", f"http://{head.address}:8265"]
    told = head.run([tool("serve"), "deploy", str(folder / "serve.yaml"), *dashboard], ENVIRONMENT, SECONDS)
    assert told.returncode == 0, told.stderr

    def running() -> bool:
        found = head.run([tool("serve"), "status", *dashboard], ENVIRONMENT)
        with suppress(TypeError, KeyError):
            return yaml.safe_load(found.stdout)["applications"]["cryptoml"]["status"] == "RUNNING"
        return False

    wait_until(running, SECONDS, "the deployment")


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def count(folder: Path, name: str) -> int:
    """Return how many `answers` or `bars` the bot has seen so far."""
    with suppress(OSError, ValueError):
        return int((folder / name).read_text())
    return 0


def test_a_node_is_killed_under_load(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with network("head", "worker", "bot") as net:
        start_nodes(net)
        deploy(net.hosts["head"], shared)
        urls = [f"http://{net.hosts[name].address}:8000" for name in ("worker", "head")]
        asking = net.hosts["bot"].spawn(
            [sys.executable, "-m", "tests.cluster.bot", str(shared), *urls], ENVIRONMENT, "/tmp/bot.log"
        )
        wait_until(lambda: count(shared, "answers") >= 10, SECONDS, "ten answers")
        assert net.hosts["worker"].processes("ray::ServeReplica"), "no replica runs on the host that is to be killed"
        net.hosts["worker"].lose_power()
        killed, told, put = time.monotonic(), count(shared, "answers"), count(shared, "bars")
        wait_until(lambda: count(shared, "answers") > told, SECONDS, "an answer after the loss")
        silent = time.monotonic() - killed
        wait_until(lambda: count(shared, "answers") >= told + AFTER, SECONDS, "answers after the loss")
        wait_until(lambda: count(shared, "bars") >= put + MORE_BARS, SECONDS, "bars accepted after the loss")
        (shared / "stop").touch()
        assert asking.wait(timeout=120) == 0, log(net.hosts["bot"], "bot")[-3000:]
    seen = json.loads((shared / "seen.json").read_text())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{seen['answers']} forecasts compared, {seen['signals']} signals, {len(seen['failed'])} requests failed "
        )
        sys.stdout.write(
            f"after retries, {silent:.1f} s until the next answer, bars {seen['acknowledged']} kept {seen['kept']}\n"
        )
    assert seen["wrong"] == []
    assert seen["failed"] == []
    assert seen["kept"] == seen["acknowledged"]
