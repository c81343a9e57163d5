"""A node that cannot set a job's code up is named before work begins."""

from pathlib import Path

import pytest
import ray
from ray.exceptions import RuntimeEnvSetupError, WorkerCrashedError

from cryptoml.distributed import nodes
from cryptoml.errors import ConfigError

pytestmark = pytest.mark.slow


def test_able_nodes_pass(ray_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, get = list[object](), nodes.ray.get

    def noted(answer: ray.ObjectRef) -> object:
        answers.append(get(answer))
        return answers[-1]

    monkeypatch.setattr(nodes.ray, "get", noted)
    nodes.require_able_nodes()
    assert answers == [True]


def test_one_whose_disk_is_full_is_named(ray_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: object) -> None:
        raise RuntimeEnvSetupError("Traceback ...\nOSError: [Errno 28] No space left on device\n")

    monkeypatch.setattr(nodes.ray, "get", get)
    with pytest.raises(ConfigError, match=r"node \S+ cannot set up this job's code: .*No space left on device; free its disk"):
        nodes.require_able_nodes()


def test_one_that_dies_is_left_to_those_who_use_it(ray_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()

    def get(answer: object) -> None:
        asked.append(answer)
        raise WorkerCrashedError

    monkeypatch.setattr(nodes.ray, "get", get)
    nodes.require_able_nodes()
    assert len(asked) == 1
