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

from jobs.build_features import FeaturesArguments
from jobs.ingest_data import IngestConfig
from jobs.run_pipeline import PipelineArguments
from jobs.train_ensemble import TrainArguments
from jobs.tune_models import TuneArguments
from jobs.update_models import UpdateArguments
from serve.settings import AppArgs

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
YAML_FILES = sorted(CLUSTER.rglob("*.yaml"))
JOBS = {
    "jobs.ingest_data": IngestConfig,
    "jobs.build_features": FeaturesArguments,
    "jobs.tune_models": TuneArguments,
    "jobs.train_ensemble": TrainArguments,
    "jobs.evaluate_ensemble": PipelineArguments,
    "jobs.update_models": UpdateArguments,
    "jobs.run_pipeline": PipelineArguments,
}


def constraint(package: str) -> str:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{package}=="))


def project_version() -> str:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def all_documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in documents(path)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in all_documents() if document["kind"] == kind]


def clusters() -> list[dict[str, Any]]:
    """Return the specs of all Ray clusters."""
    return [one["spec"] for one in of_kind("RayCluster")] + [one["spec"]["rayClusterConfig"] for one in of_kind("RayService")]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_constraints_pin_the_tested_ray() -> None:
    assert constraint("ray") == ray.__version__


@pytest.mark.parametrize("path", [*YAML_FILES, CLUSTER / "Dockerfile", CLUSTER / "README.md"], ids=lambda path: path.name)
def test_image_tags_name_both_versions(path: Path) -> None:
    tags = set(re.findall(r"cryptoml:(\d[\w.\-]+)", path.read_text()))
    assert tags or "image: registry" not in path.read_text()
    prefix = f"{project_version()}-ray{constraint('ray')}"
    assert tags <= {f"{prefix}-cpu", f"{prefix}-cu130"}


def test_every_kind_is_there() -> None:
    kinds = {document["kind"] for document in all_documents()}
    assert {"RayCluster", "RayJob", "RayService", "CronJob", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"} <= kinds


@pytest.mark.parametrize("spec", clusters())
def test_cluster_basics(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == constraint("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("spec", clusters())
def test_gpu_pods_use_the_gpu_image(spec: dict[str, Any]) -> None:
    for container in containers(spec):
        wants_gpu = "nvidia.com/gpu" in container["resources"]["requests"]
        assert container["image"].endswith("-cu130" if wants_gpu else "-cpu")


@pytest.mark.parametrize("spec", clusters())
def test_start_parameters_are_text(spec: dict[str, Any]) -> None:
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for value in group["rayStartParams"].values():
            assert isinstance(value, str)
        if resources := group["rayStartParams"].get("resources"):
            assert json.loads(shlex.split(resources)[0].replace("\\", "")) == {"driver": 4}


def test_entry_points_are_jobs_that_exist() -> None:
    named = {job for path in CLUSTER.rglob("*") if path.is_file() for job in re.findall(r"\bjobs\.\w+", path.read_text())}
    assert named
    assert named <= set(JOBS)


def submitted() -> list[list[str]]:
    """Return the command lines of all jobs that manifests submit."""
    (update,) = of_kind("CronJob")
    command = update["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
    return [shlex.split(job["spec"]["entrypoint"]) for job in of_kind("RayJob")] + [command[command.index("--") + 1 :]]


@pytest.mark.parametrize("command", submitted(), ids=lambda command: command[2])
def test_jobs_are_started_with_flags_that_they_know(command: list[str]) -> None:
    assert command[:2] == ["python", "-m"]
    tyro.cli(JOBS[command[2]], args=command[3:])


def test_commands_of_the_readme_exist() -> None:
    whole = (CLUSTER / "README.md").read_text()
    text = re.sub(r"\s+", " ", whole)
    submissions = re.findall(r'make submit JOB=(\w+) ARGS="([^"]*)"', text)
    assert {"ingest_data", "run_pipeline", "update_models"} <= {job for job, _ in submissions}
    for job, flags in submissions:
        tyro.cli(JOBS[f"jobs.{job}"], args=shlex.split(flags))
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"(?:`|\n {3,})make ([a-z-]+)", whole)} <= {*targets}
    files = re.findall(r"(?:cluster|serve)/[\w/]+\.yaml", text)
    assert files
    assert all((REPOSITORY / file).exists() for file in files)


def test_every_stage_is_a_job_over_one_run_folder() -> None:
    stages = {job["metadata"]["labels"]["stage"]: job["spec"] for job in of_kind("RayJob")}
    assert list(stages) == ["featurise", "sweep", "train", "evaluate", "adopt"]
    folders = {
        flag
        for name in ("sweep", "train", "evaluate")
        for spec in [stages[name]]
        for flag in re.findall(r"--out (\S+)", spec["entrypoint"])
    }
    assert len(folders) == 1
    for spec in stages.values():
        assert json.loads(spec["entrypointResources"]) == {"driver": 1}, "drivers stay off spot nodes"


def test_inline_serve_config_is_the_one_of_production() -> None:
    (service,) = of_kind("RayService")
    inline = yaml.safe_load(service["spec"]["serveConfigV2"])
    given = yaml.safe_load((REPOSITORY / "serve" / "config" / "production.yaml").read_text())
    arguments = inline["applications"][0]["args"]
    for name in ("registry", "state"):
        assert arguments[name].startswith("s3://"), "no volume is shared"
        given["applications"][0]["args"][name] = arguments[name]
    assert inline == given
    AppArgs.model_validate(arguments)
    registries = {flag for command in submitted() for flag in re.findall(r"--registry[= ](\S+)", " ".join(command))}
    assert registries == {arguments["registry"]}, "what jobs promote is what serves"
    for spec in (service["spec"]["rayClusterConfig"],):
        mounted = {mount["mountPath"] for container in containers(spec) for mount in container["volumeMounts"]}
        assert str(Path(arguments["keys"]).parent) in mounted


def test_dockerfile_is_pinned_and_without_root() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER ray"]
    installs = re.findall(r"pip install[^\n]*(?:\\\n[^\n]*)*", "\n".join(lines))
    assert installs
    assert all("-c constraints.txt" in install for install in installs)
    assert any(line.startswith("ARG DEVICE=") for line in lines)


def test_build_context_is_what_the_dockerfile_copies() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_dashboard_shows_metrics_that_ray_exports() -> None:
    dashboard = json.loads((CLUSTER / "grafana" / "serving.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = set(re.findall(r"ray_serve_\w+", " ".join(expressions)))
    panels = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    exported = {name for path in panels.glob("serve*.py") for name in re.findall(r"ray_serve_\w+", path.read_text())}
    assert shown
    assert shown <= exported
