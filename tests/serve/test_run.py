"""The application on a real local cluster, as `make serve` starts it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from ray.serve.schema import ServeApplicationSchema

from cryptoml.errors import BundleError, ConfigError
from serve.app import AppArgs
from serve.deployments import Adapter, Features, Ingress, member_deployment
from serve.model_source import newest_bundle
from serve.run import RunArgs, main

REPOSITORY = Path(__file__).resolve().parents[2]
STARTUP_SECONDS = 120


def test_newest_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle below"):
        newest_bundle(tmp_path)
    for age, name in ((200, "old"), (100, "new"), (300, "older")):
        folder = tmp_path / name / "bundle"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    assert newest_bundle(tmp_path) == tmp_path / "new" / "bundle"


def application(name: str) -> dict[str, Any]:
    if name in ("local", "production"):
        return yaml.safe_load((REPOSITORY / "serve" / "config" / f"{name}.yaml").read_text())["applications"][0]
    service = yaml.safe_load((REPOSITORY / "cluster" / "kuberay" / "rayservice.yaml").read_text())
    return yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]


@pytest.mark.parametrize("name", ["local", "production", "kuberay"])
def test_configs_name_what_exists(name: str) -> None:
    config = ServeApplicationSchema.model_validate(application(name))
    assert config.import_path == "serve.app:build"
    assert AppArgs.model_validate(config.args)
    known = {Ingress.name, Features.name, Adapter.name, *(member_deployment(number).name for number in range(2))}
    assert {one.name for one in config.deployments} <= known


def test_others_are_let_in_with_keys_only(trained: Any) -> None:
    with pytest.raises(ConfigError, match="keys must be given"):
        main(RunArgs(bundle=trained.path, host="0.0.0.0"))


@pytest.mark.slow
def test_without_a_bundle_it_says_so_in_one_line(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serve.run", "--runs", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("no bundle below")
    assert "Traceback" not in run.stderr


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def own_command(bundle: Path, folder: str, port: int) -> list[str]:
    """Return what `make serve` runs."""
    return [sys.executable, "-m", "serve.run", "--bundle", str(bundle), "--port", str(port), "--state", f"{folder}/state"]


def serves_command(bundle: Path, folder: str, port: int) -> list[str]:
    """Return Serve's own command on the local config with this machine's places."""
    config = yaml.safe_load((REPOSITORY / "serve" / "config" / "local.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] = {"bundle": str(bundle), "state": f"{folder}/state"}
    path = Path(folder) / "local.yaml"
    path.write_text(yaml.safe_dump(config))
    return [str(Path(sys.executable).with_name("serve")), "run", str(path)]


@pytest.fixture(params=[own_command, serves_command])
def address(trained: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    port, folder = free_port(), tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets want a short path
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        request.param(trained.path, folder, port),
        env=environment | {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM if request.param is own_command else signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(address: str) -> httpx.Response:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{address}/readyz", timeout=5)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200:
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"not ready after {STARTUP_SECONDS} s")


@pytest.mark.slow
def test_real_service_answers_as_offline(address: str, trained: Any, columns: Callable[..., Any]) -> None:
    stop = 2300
    assert wait_until_ready(address).json()["symbols"] == list(trained.panel.symbols)
    history = {symbol: columns(frame) for symbol, frame in trained.frames(stop).items()}
    body = {"history": history, "as_of": trained.panel.timestamps[stop].isoformat()}
    answer = httpx.post(f"{address}/v1/predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    served = [list(one["direction"].values()) for one in answer.json()["predictions"]]
    np.testing.assert_allclose(served, trained.offline.probabilities[:, stop - 1], atol=1e-6)
    body["as_of"] = "2024-02-01T00:00:00Z"
    refused = httpx.post(f"{address}/v1/signals", json=body, timeout=60)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert "after 2024-02-01" in refused.json()["detail"]
    assert httpx.get(f"{address}/openapi.json", timeout=30).status_code == 200
    page, module = (httpx.get(f"{address}{path}", timeout=30) for path in ("/", "/app/main.js"))
    assert 'src="app/main.js"' in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert module.headers["content-type"].startswith("text/javascript")
