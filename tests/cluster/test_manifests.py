"""Every Kubernetes manifest against the schema of its kind.

`schemas/kubernetes.json` restates Kubernetes' OpenAPI schema (as of the Python client 37) of the kinds in use, without volumes of
other sorts; `schemas/kuberay.json` the custom resources of KubeRay 1.6 and the Prometheus operator, from their Go types.
"""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

KUBERAY = Path(__file__).resolve().parents[2] / "cluster" / "kuberay"
SCHEMAS = Path(__file__).parent / "schemas"
KINDS = {
    "ServiceAccount": "kubernetes.json#/$defs/V1ServiceAccount",
    "Secret": "kubernetes.json#/$defs/V1Secret",
    "Service": "kubernetes.json#/$defs/V1Service",
    "NetworkPolicy": "kubernetes.json#/$defs/V1NetworkPolicy",
    "PodDisruptionBudget": "kubernetes.json#/$defs/V1PodDisruptionBudget",
    "CronJob": "kubernetes.json#/$defs/V1CronJob",
    "StatefulSet": "kubernetes.json#/$defs/V1StatefulSet",
    **{kind: f"kuberay.json#/$defs/{kind}" for kind in ("RayCluster", "RayJob", "RayService", "PodMonitor")},
}
Document = dict[str, Any]


def documents() -> list[tuple[str, Document]]:
    return [(path.stem, one) for path in sorted(KUBERAY.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def label(entry: object) -> str:
    if not isinstance(entry, tuple):
        return str(entry)
    return f"{entry[0]}-{entry[1]['kind']}-{entry[1]['metadata']['name']}"


def faults(document: Document) -> list[str]:
    """Return what the schema of the document's kind says against it."""
    files = [(path.name, Resource.opaque(json.loads(path.read_text()))) for path in SCHEMAS.glob("*.json")]
    validator = jsonschema.Draft202012Validator({"$ref": KINDS[document["kind"]]}, registry=Registry().with_resources(files))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def pods(node: Any) -> list[Document]:
    """Return all pod specs in a document."""
    if isinstance(node, list):
        return [pod for one in node for pod in pods(one)]
    if not isinstance(node, dict):
        return []
    own = [node] if "containers" in node else []
    return own + [pod for one in node.values() for pod in pods(one)]


@pytest.mark.parametrize("entry", documents(), ids=label)
def test_matches_the_schema_of_its_kind(entry: tuple[str, Document]) -> None:
    assert faults(entry[1]) == []


@pytest.mark.parametrize("entry", [one for one in documents() if pods(one[1])], ids=label)
def test_schema_refuses_a_misspelt_field_of_any_pod(entry: tuple[str, Document]) -> None:
    for place in range(len(pods(entry[1]))):
        damaged = copy.deepcopy(entry[1])
        pods(damaged)[place]["containers"][0]["imagePullpolicy"] = "Always"
        assert any("imagePullpolicy" in fault for fault in faults(damaged))


def test_the_fallback_changes_the_upgrade_and_nothing_else() -> None:
    (service,) = [document for _, document in documents() if document["kind"] == "RayService"]
    patch = yaml.safe_load((KUBERAY / "patches" / "new_cluster.yaml").read_text())
    patched = merged(service, patch)
    assert faults(patched) == []
    assert service["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    assert patched["spec"].pop("upgradeStrategy") == {"type": "NewCluster"}
    assert patched["spec"] == {name: value for name, value in service["spec"].items() if name != "upgradeStrategy"}


def merged(document: Document, patch: Document) -> Document:
    """Return a document after a merge patch (RFC 7396)."""
    found = dict(document)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name, {}), value) if isinstance(value, dict) else value
    return found


def test_schema_refuses_a_misspelt_field_of_ray() -> None:
    (cluster,) = [document for _, document in documents() if document["kind"] == "RayCluster"]
    for change in ({"rayversion": "2.60.0"}, {"authOptions": {"mode": "on"}}, {"gcsFaultToleranceOptions": {}}):
        assert faults(cluster | {"spec": cluster["spec"] | change})


@pytest.mark.parametrize("entry", [one for one in documents() if pods(one[1])], ids=label)
def test_pods_have_no_privileges(entry: tuple[str, Document]) -> None:
    for pod in pods(entry[1]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("entry", [one for one in documents() if pods(one[1])], ids=label)
def test_pods_hold_no_keys(entry: tuple[str, Document]) -> None:
    for pod in pods(entry[1]):
        if not any("cryptoml" in container["image"] for container in pod["containers"]):
            continue
        assert pod["serviceAccountName"] == "cryptoml"
        names = {variable["name"] for container in pod["containers"] for variable in container.get("env", [])}
        assert not {name for name in names if name.startswith("AWS_")}


def test_policies_and_budgets_select_pods_that_exist() -> None:
    labels = [found for _, document in documents() for found in template_labels(document)]
    selectors = [
        document["spec"].get("podSelector") or document["spec"].get("selector")
        for _, document in documents()
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor")
    ]
    for selector in selectors:
        assert any(selector["matchLabels"].items() <= found.items() for found in labels), selector


def test_budgets_can_be_met_and_let_nodes_be_drained() -> None:
    """Of pods that an operator owns Kubernetes counts a whole `minAvailable` alone; a pod of two budgets is never evicted."""
    budgets = [document["spec"] for _, document in documents() if document["kind"] == "PodDisruptionBudget"]
    assert budgets
    for spec in budgets:
        assert "maxUnavailable" not in spec
        groups = [group for _, document in documents() for group in (ray_cluster(document) or {}).get("workerGroupSpecs", [])]
        chosen = [group for group in groups if selects(spec, group["template"]["metadata"]["labels"])]
        assert chosen
        assert all(spec["minAvailable"] < group["minReplicas"] for group in chosen), "every node could be drained"
    for labels in [found for _, document in documents() for found in template_labels(document)]:
        assert sum(selects(spec, labels) for spec in budgets) <= 1


def selects(spec: Document, labels: dict[str, str]) -> bool:
    return spec["selector"]["matchLabels"].items() <= labels.items()


def test_clusters_and_services_do_not_share_a_name() -> None:
    named = [document["metadata"]["name"] for _, document in documents() if document["kind"] in ("RayCluster", "RayService")]
    assert len({*named}) == len(named) == 2, "the operator would make two services NAME-head-svc"


def test_workers_fit_nodes_of_usual_sizes() -> None:
    """A node keeps a core and about an eighth of its memory for itself."""
    for _, document in documents():
        for group in (ray_cluster(document) or {}).get("workerGroupSpecs", []):
            (container,) = group["template"]["spec"]["containers"]
            cpus, memory = int(container["resources"]["requests"]["cpu"]), container["resources"]["requests"]["memory"]
            assert cpus + 1 in (8, 16)
            assert any(0.8 <= int(memory.removesuffix("Gi")) / size <= 0.88 for size in (32, 64, 128))


def template_labels(node: Any) -> list[dict[str, str]]:
    """Return the labels of all pod templates in a document."""
    if isinstance(node, list):
        return [found for one in node for found in template_labels(one)]
    if not isinstance(node, dict):
        return []
    own = [node["metadata"]["labels"]] if "containers" in node.get("spec", {}) and "metadata" in node else []
    return own + [found for one in node.values() for found in template_labels(one)]


def test_heads_outlive_their_pods_and_everything_named_exists() -> None:
    named = {(document["kind"], document["metadata"]["name"]) for _, document in documents()}
    clusters = [spec for _, document in documents() if (spec := ray_cluster(document)) is not None]
    assert len(clusters) == 2
    for spec in clusters:
        options = spec["gcsFaultToleranceOptions"]
        assert ("Service", options["redisAddress"].partition(":")[0]) in named
        assert ("Secret", options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]) in named
    for _, document in documents():
        if document["kind"] == "RayJob":
            assert ("RayCluster", document["spec"]["clusterSelector"]["ray.io/cluster"]) in named


def ray_cluster(document: Document) -> Document | None:
    """Return the cluster inside a document."""
    spec = document.get("spec", {})
    return {"RayCluster": spec, "RayService": spec.get("rayClusterConfig")}.get(document["kind"])


def test_gpu_pods_tolerate_the_taint_of_gpu_nodes_and_spot_pods_that_of_spot_nodes() -> None:
    for _, document in documents():
        for group in (ray_cluster(document) or {}).get("workerGroupSpecs", []):
            pod = group["template"]["spec"]
            tolerated = {one["key"] for one in pod.get("tolerations", [])}
            gpus = any("nvidia.com/gpu" in container["resources"]["requests"] for container in pod["containers"])
            spot = "cryptoml/market-type" in pod.get("nodeSelector", {})
            assert tolerated == {key for key, wanted in {"nvidia.com/gpu": gpus, "cryptoml/spot": spot}.items() if wanted}
            assert not (spot and group["rayStartParams"].get("resources")), "a driver on a spot node"
