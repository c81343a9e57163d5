"""The config files as Serve's own commands use them, on a real cluster with a dashboard: build, deploy, TLS, scaling, metrics."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.local import LocalCluster, free_port
from cryptoml.live.client import RefusedError, ServiceClient
from cryptoml.live.predictor import Predictor
from cryptoml.models.registry import Registry
from serve.keys import Role, create_key
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]
DASHBOARD = REPOSITORY / "cluster" / "grafana" / "serving.json"
START_SECONDS = 180.0
SCALED_SECONDS = 90.0
SCRAPE_SECONDS = 60.0
QUICK = {"upscale_delay_s": 1, "downscale_delay_s": 2, "downscale_to_zero_delay_s": 2, "metrics_interval_s": 0.5}


@dataclass(frozen=True)
class Deployed:
    """The production config on a cluster of this machine."""

    address: str
    cluster: LocalCluster
    certificate: Path
    keys: dict[str, str]

    def client(self, role: str = "write") -> ServiceClient:
        return ServiceClient(self.address, self.keys[role], timeout_s=60, attempts=12)

    def status(self) -> dict[str, Any]:
        found = run("serve", ["status", "-a", self.cluster.dashboard], self.cluster.environment)
        assert found.returncode == 0, found.stderr
        return yaml.safe_load(found.stdout)["applications"]["cryptoml"]

    def replicas(self, deployment: str) -> int:
        return sum(self.status()["deployments"][deployment]["replica_states"].values())


def run(command: str, arguments: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one of Ray's commands as a user does."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program = str(Path(sys.executable).with_name(command))
    return subprocess.run(
        [program, *arguments],
        env=own | dict(environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def wait_for(true: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a key and a certificate of this host, valid for an hour."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
    made = made.not_valid_after(now + timedelta(hours=1)).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), False
    )
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    paths = folder / "tls.key", folder / "tls.crt"
    form = serialization.PrivateFormat.PKCS8
    paths[0].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    paths[1].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return paths


def production(folder: Path, port: int) -> Path:
    """Write the production config for this machine: its own addresses, TLS, impatient autoscaling, nothing else changed."""
    config = yaml.safe_load((REPOSITORY / "serve" / "config" / "production.yaml").read_text())
    key, certificate = self_signed(folder)
    config["proxy_location"] = "HeadOnly"  # all nodes of this machine would want the same port
    config["http_options"] |= {"host": "127.0.0.1", "port": port, "ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
    (application,) = config["applications"]
    places = {name: str(folder / name) for name in ("registry", "state")} | {"keys": str(folder / "keys.json")}
    application["args"] |= places
    for one in application["deployments"]:
        one["autoscaling_config"] |= QUICK
        one["ray_actor_options"].pop("num_gpus", None)
    path = folder / "production.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(autouse=True)
def replica_context() -> None:
    """Replace the folder's fixture: here replicas are real."""


@pytest.fixture(scope="module")
def deployed(today: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder, port = tmp_path_factory.mktemp("deployed"), free_port()
    registry = Registry(folder / "registry")
    registry.promote(registry.add(today.bundle))
    keys = {role.value: create_key(folder / "keys.json", role.value, role) for role in Role}
    config = production(folder, port)
    short = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))  # Ray's sockets want a short path
    cluster = LocalCluster(short, free_port(), free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("SSL_CERT_FILE", str(folder / "tls.crt"))
        cluster.start(workers=1, cpus=8)
        try:
            told = run("serve", ["deploy", str(config), "-a", cluster.dashboard], cluster.environment)
            assert told.returncode == 0, told.stderr
            found = Deployed(f"https://localhost:{port}", cluster, folder / "tls.crt", keys)
            wait_for(lambda: found.status()["status"] == "RUNNING", START_SECONDS, "the deployment")
            with found.client() as client:
                for symbol, frame in today.frames.items():
                    client.put_candles(symbol, frame)
            yield found
        finally:
            cluster.stop()
            shutil.rmtree(short, ignore_errors=True)


def test_build_writes_a_config_of_every_member(trained: Any, tmp_path: Path) -> None:
    environment = {"CRYPTOML_BUNDLE": str(trained.path), "PYTHONPATH": str(REPOSITORY)}
    told = run("serve", ["build", "serve.app:application", "-o", str(tmp_path / "built.yaml")], environment)
    assert told.returncode == 0, told.stderr
    (application,) = yaml.safe_load((tmp_path / "built.yaml").read_text())["applications"]
    names = [one["name"] for one in application["deployments"]]
    assert sorted(names) == ["Adapter", "Features", "Ingress", "Member0", "Member1"]


def test_served_over_tls_as_offline(deployed: Deployed, today: Any) -> None:
    with deployed.client("read") as client:
        told = {one.symbol: one.direction["UP"] for one in client.predict([]).predictions}
        with pytest.raises(RefusedError, match="role write"):
            client.adapt(["BTCUSDT"])
    expected = {one.symbol: one.direction["UP"] for one in Predictor(today.bundle).predict(today.frames)}
    assert told == pytest.approx(expected, abs=1e-6)
    answer = httpx.get(f"{deployed.address}/healthz", verify=ssl.create_default_context(cafile=deployed.certificate))
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    with pytest.raises(httpx.TransportError):
        httpx.get(deployed.address.replace("https", "http") + "/healthz", timeout=10)


def test_the_adapter_has_replicas_only_while_somebody_adapts(deployed: Deployed) -> None:
    wait_for(lambda: deployed.replicas("Adapter") == 0, SCALED_SECONDS, "no replica before")
    with deployed.client() as client:
        made = client.adapt(["BTCUSDT"], last_bars=50)
        assert deployed.replicas("Adapter") >= 1
        assert client.predict(["BTCUSDT"]).predictions[0].refusal is None
        client.remove_adaptation(made.id)
    wait_for(lambda: deployed.replicas("Adapter") == 0, SCALED_SECONDS, "no replica after")


def scrape(folder: Path) -> set[str]:
    """Return the names of all metrics that the cluster's nodes give to Prometheus."""
    (listed,) = folder.glob("ray/session_2*/prom_metrics_service_discovery.json")
    targets = [target for group in json.loads(listed.read_text()) for target in group["targets"]]
    texts = [httpx.get(f"http://{target}/metrics", timeout=10).text for target in targets]
    return {match for text in texts for match in re.findall(r"^(ray_\w+)", text, re.MULTILINE)}


def test_every_metric_of_the_dashboard_is_there(deployed: Deployed) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    wanted = {name for panel in panels for one in panel["targets"] for name in re.findall(r"\bray_\w+", one["expr"])}
    with deployed.client() as client:
        made = client.adapt(["BTCUSDT", "ETHUSDT"], last_bars=50)
        client.signals([])
        with pytest.raises(RefusedError):
            client.signals(["NOPEUSDT"])
        client.remove_adaptation(made.id)
    wait_for(lambda: wanted <= scrape(deployed.cluster.folder), SCRAPE_SECONDS, f"{wanted - scrape(deployed.cluster.folder)}")
    assert len(wanted) > 12
