"""The launcher files against the schema that Ray itself checks them by."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

LAUNCHER = Path(__file__).resolve().parents[2] / "cluster" / "launcher"
FILES = sorted(LAUNCHER.glob("*.yaml"))
CLOUD_FILES = [path for path in FILES if path.stem != "on_premise"]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def test_three_ways_exist() -> None:
    assert {path.stem for path in FILES} == {"aws", "gcp", "on_premise"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_matches_ray_schema(path: Path) -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(load(path))] == []


def test_schema_refuses_the_obsolete_layout() -> None:
    with pytest.raises(jsonschema.ValidationError, match="head_node"):
        jsonschema.validate(load(FILES[0]) | {"head_node": {}, "worker_nodes": {}}, SCHEMA)


@pytest.mark.parametrize("path", CLOUD_FILES, ids=lambda path: path.stem)
def test_head_takes_no_work_and_drivers_avoid_spot(path: Path) -> None:
    config = load(path)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    markets = {name: node["labels"]["ray.io/market-type"] for name, node in types.items()}
    assert {markets[name] for name, node in types.items() if "driver" in node["resources"]} == {"on-demand"}
    spot = {name for name, market in markets.items() if market == "spot"}
    assert spot == {name for name, node in types.items() if "spot" in json.dumps(node["node_config"]).lower()}
    assert any(node["resources"].get("GPU") for node in types.values())


@pytest.mark.parametrize("path", CLOUD_FILES, ids=lambda path: path.stem)
def test_scaling_limits(path: Path) -> None:
    config = load(path)
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert all(node["min_workers"] == 0 for node in workers)
    assert sum(node["max_workers"] for node in workers) == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("path", CLOUD_FILES, ids=lambda path: path.stem)
def test_nodes_reach_storage_by_an_identity_of_the_cloud(path: Path) -> None:
    wanted = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[path.stem]
    config = load(path)
    assert all(wanted in node["node_config"] for node in config["available_node_types"].values())
    assert "AWS_SECRET" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_asks_for_the_token(path: Path) -> None:
    config = load(path)
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        settings, _, start = " ".join(commands[-1].split()).rpartition("; ")
        assert "export RAY_AUTH_MODE=token" in settings
        assert "RAY_grpc_client_keepalive_time_ms=10000" in settings, "a host that loses power is noticed"
        assert start.startswith("ray start ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dashboard_binds_to_loopback(path: Path) -> None:
    start = load(path)["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-cpus=0" in start
