"""Faults during load on a real Serve: no answer is wrong, no accepted bar is lost, and with the client's retries none fails."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.serve.config import HTTPOptions

from cryptoml.live.client import ServiceClient
from cryptoml.live.predictor import Predictor
from cryptoml.models.registry import Registry
from serve.app import AppArgs, build
from serve.door import node_environment
from tests.serve.test_run import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLIENTS = 3


@dataclass
class Served:
    """A running service on a registry, and what each of its versions forecasts of the kept bars."""

    address: str
    registry: Path
    versions: list[str]
    expected: dict[str, dict[str, float]]
    bars: int


@dataclass
class Load:
    """What clients saw meanwhile."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def served(today: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("faults"), free_port()
    registry = Registry(folder / "registry")
    changes = [{}, {"weights": (0.1, 0.9)}, {"weights": (0.9, 0.1)}]
    bundles = [replace(today.bundle, ensemble=replace(today.bundle.ensemble, **change)) for change in changes]
    versions = [registry.add(bundle) for bundle in bundles]
    registry.promote(versions[0])
    expected = {
        version: {one.symbol: one.direction["UP"] for one in Predictor(bundle).predict(today.frames)}
        for version, bundle in zip(versions, bundles, strict=True)
    }
    short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Ray's sockets want a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        for name, value in node_environment().items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=1 << 30,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=short,
        )
        try:
            serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
            args = AppArgs(registry=str(folder / "registry"), state=str(folder / "state"))
            serve.run(build(args), name="cryptoml")
            with ServiceClient(f"http://127.0.0.1:{port}", timeout_s=60) as client:
                for symbol, frame in today.frames.items():
                    client.put_candles(symbol, frame)
                bars = client.candle_status("BTCUSDT").bars
            yield Served(f"http://127.0.0.1:{port}", folder / "registry", versions, expected, bars)
            serve.shutdown()
        finally:
            ray.shutdown()
            shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(autouse=True)
def replica_context() -> None:
    """Replace the folder's fixture: here replicas are real."""


@contextmanager
def load(served: Served) -> Iterator[Load]:
    """Ask for all symbols from several threads for as long as the block takes, and compare every answer."""
    seen, stop = Load(), threading.Event()

    def ask() -> None:
        with ServiceClient(served.address, timeout_s=60, attempts=12) as client:
            while not stop.is_set():
                try:
                    answer = client.predict([], adaptation="none")
                except Exception as error:
                    seen.failed.append(repr(error))
                    continue
                seen.answers += 1
                seen.versions.add(answer.model.version)
                told = {one.symbol: one.direction.get("UP", float("nan")) for one in answer.predictions}
                right = served.expected[answer.model.version]
                if any(not abs(told[symbol] - right[symbol]) < 1e-6 for symbol in right):
                    seen.wrong.append(f"{answer.model.version}: {told}")

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: seen.answers >= 5)
        yield seen
        more = seen.answers + 10
        wait_for(lambda: seen.answers >= more)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(true: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def kill(deployment: str) -> None:
    """Kill one replica of a deployment as a crash would."""
    names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if f"#{deployment}#" in one["name"]]
    ray.kill(ray.get_actor(names[0], namespace="serve"), no_restart=True)


def assert_unharmed(seen: Load) -> None:
    assert not seen.wrong, seen.wrong[:3]
    assert not seen.failed, f"{len(seen.failed)} of {seen.answers} failed: {seen.failed[:3]}"


@pytest.mark.parametrize("deployment", ["Member0", "Adapter", "Ingress", "Features"])
def test_a_replica_is_killed(served: Served, deployment: str) -> None:
    with load(served) as seen:
        kill(deployment)
    assert_unharmed(seen)
    with ServiceClient(served.address, timeout_s=60, attempts=12) as client:
        assert client.candle_status("BTCUSDT").bars == served.bars


def test_adaptations_survive_the_adapter(served: Served) -> None:
    with ServiceClient(served.address, timeout_s=60, attempts=12) as client:
        learned = client.adapt(["BTCUSDT"], last_bars=50)
        before = client.predict([]).predictions
        kill("Adapter")
        assert client.predict([]).predictions == before
        assert [one.id for one in client.adaptations().adaptations] == [learned.id]
        client.remove_adaptation(learned.id)


def test_another_version_is_promoted_and_taken_back(served: Served) -> None:
    first, second, _ = served.versions
    with ServiceClient(served.address, timeout_s=60, attempts=12) as client, load(served) as seen:
        assert client.promote(second).version == second
        wait_for(lambda: second in seen.versions)
        assert client.rollback().version == first
    assert_unharmed(seen)
    assert seen.versions == {first, second}


def test_a_damaged_version_is_refused(served: Served) -> None:
    first, _, third = served.versions
    weights = served.registry / "versions" / third / "members" / "0.safetensors"
    weights.write_bytes(os.urandom(weights.stat().st_size))
    with load(served) as seen:
        answer = httpx.post(f"{served.address}/v1/models/{third}/promote", timeout=60)
        assert answer.status_code == 409
    assert_unharmed(seen)
    assert seen.versions == {first}
