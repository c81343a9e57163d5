"""Image, launcher and manifests name the same versions, jobs and deployments as the project does."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import tyro
import yaml

from jobs.run_pipeline import PipelineArguments

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
YAML_FILES = sorted(CLUSTER.rglob("*.yaml"))
JOBS = {"jobs.ingest_data", "jobs.run_pipeline"}


def constraint(package: str) -> str:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))


def project_version() -> str:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def ray_documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in documents(path) if document["apiVersion"].startswith("ray.io")]


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    inner = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    return document["spec"][inner] if inner else document["spec"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def kind(document: dict[str, Any]) -> str:
    return document["kind"]


def test_constraints_pin_the_tested_ray() -> None:
    assert constraint("ray") == ray.__version__


@pytest.mark.parametrize("path", [*YAML_FILES, CLUSTER / "Dockerfile", CLUSTER / "README.md"], ids=lambda path: path.name)
def test_image_tags_name_both_versions(path: Path) -> None:
    tags = set(re.findall(r"cryptoml:([\w.\-]+)", path.read_text()))
    assert tags
    prefix = f"{project_version()}-ray{constraint('ray')}"
    assert tags <= {f"{prefix}-cpu", f"{prefix}-cu130"}


def test_every_kind_is_there_once() -> None:
    assert sorted(document["kind"] for document in ray_documents()) == ["RayCluster", "RayJob", "RayService"]


@pytest.mark.parametrize("document", ray_documents(), ids=kind)
def test_manifest_basics(document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    assert document["apiVersion"] == "ray.io/v1"
    assert spec["rayVersion"] == constraint("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("document", ray_documents(), ids=kind)
def test_pods_run_without_root_and_gpu_pods_use_the_gpu_image(document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers(spec):
        wants_gpu = "nvidia.com/gpu" in container["resources"]["requests"]
        assert container["image"].endswith("-cu130" if wants_gpu else "-cpu")


@pytest.mark.parametrize("document", ray_documents(), ids=kind)
def test_start_parameters_are_text(document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for value in group["rayStartParams"].values():
            assert isinstance(value, str)
        if resources := group["rayStartParams"].get("resources"):
            assert json.loads(shlex.split(resources)[0].replace("\\", "")) == {"driver": 4}
            assert "nodeSelector" not in group["template"]["spec"]


def test_entry_points_are_jobs_that_exist() -> None:
    named = {job for path in CLUSTER.rglob("*") if path.is_file() for job in re.findall(r"\bjobs\.\w+", path.read_text())}
    assert named
    assert named <= JOBS


def test_job_is_started_with_flags_that_it_knows() -> None:
    (job,) = [document for document in ray_documents() if document["kind"] == "RayJob"]
    python, *flags = shlex.split(job["spec"]["entrypoint"])
    assert [python, *flags[:2]] == ["python", "-m", "jobs.run_pipeline"]
    arguments = tyro.cli(PipelineArguments, args=flags[2:])
    assert arguments.preset == "production"
    (service,) = [document for document in ray_documents() if document["kind"] == "RayService"]
    application = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert application["args"] == {"bundle": f"{arguments.out}/bundle"}


def test_dockerfile_is_pinned_and_without_root() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER ray"]
    installs = re.findall(r"pip install[^\n]*(?:\\\n[^\n]*)*", "\n".join(lines))
    assert installs
    assert all("-c constraints.txt" in install for install in installs)
    assert any(line.startswith("ARG DEVICE=") for line in lines)


def test_dashboard_shows_metrics_that_ray_exports() -> None:
    dashboard = json.loads((CLUSTER / "grafana" / "serving.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = set(re.findall(r"ray_serve_\w+", " ".join(expressions)))
    panels = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    exported = {name for path in panels.glob("serve*.py") for name in re.findall(r"ray_serve_\w+", path.read_text())}
    assert shown
    assert shown <= exported
