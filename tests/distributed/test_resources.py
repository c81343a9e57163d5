"""What fits on which nodes, and what is refused before anything starts."""

import pytest
from pydantic import ValidationError

from cryptoml.distributed.resources import Capacity, slots_for
from cryptoml.errors import ConfigError
from cryptoml.training.worker_config import WorkerConfig

LAPTOP = Capacity(((2.0, 0.0),))
TWO_NODES = Capacity(((1.0, 0.0), (1.0, 0.0)))
ONE_GPU = Capacity(((8.0, 1.0),))
GPU_NODES = Capacity(((8.0, 2.0), (8.0, 2.0), (16.0, 0.0)))


def test_nodes_are_read_from_what_ray_tells() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"memory": 1e9}},
    ]
    assert Capacity.of(nodes).nodes == ((4.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("capacity", "cpus", "gpus", "expected"),
    [
        (LAPTOP, 1.0, 0.0, 2),
        (LAPTOP, 0.5, 0.0, 4),
        (LAPTOP, 0.6666, 0.0, 3),
        (LAPTOP, 3.0, 0.0, 0),
        (LAPTOP, 1.0, 1.0, 0),
        (TWO_NODES, 2.0, 0.0, 0),
        (TWO_NODES, 0.6, 0.0, 2),
        (ONE_GPU, 1.0, 0.25, 4),
        (ONE_GPU, 4.0, 0.25, 2),
        (ONE_GPU, 1.0, 0.6, 1),
        (GPU_NODES, 1.0, 0.6, 4),
        (GPU_NODES, 1.0, 1.0, 4),
        (GPU_NODES, 1.0, 2.0, 2),
        (GPU_NODES, 1.0, 4.0, 0),
        (Capacity(()), 1.0, 0.0, 0),
    ],
)
def test_workers_fit_on_single_nodes_and_single_gpus(capacity: Capacity, cpus: float, gpus: float, expected: int) -> None:
    assert capacity.workers(cpus, gpus) == expected


class TestSlots:
    def test_are_as_many_as_the_cluster_holds_and_the_user_allows(self) -> None:
        assert slots_for(WorkerConfig(), 5, LAPTOP) == 2
        assert slots_for(WorkerConfig(cpus=0.5), 5, LAPTOP) == 4
        assert slots_for(WorkerConfig(max_concurrent=1), 5, LAPTOP) == 1
        assert slots_for(WorkerConfig(), 3, GPU_NODES) == 3
        assert slots_for(WorkerConfig(num_workers=2, gpus=1), 9, GPU_NODES) == 2
        assert slots_for(WorkerConfig(gpus=0.25), 9, ONE_GPU) == 4

    @pytest.mark.parametrize(
        ("config", "capacity", "words"),
        [
            ({"num_workers": 3}, LAPTOP, "num_workers must be at most 2, .*with 1 CPUs each, was 3"),
            ({"num_workers": 2, "gpus": 1}, ONE_GPU, "num_workers must be at most 1, .*1 CPUs and 1 GPUs each, was 2"),
            ({"cpus": 4}, LAPTOP, "cpus must be at most 2, all of the largest node, was 4"),
            ({"cpus": 2}, TWO_NODES, "cpus must be at most 1"),
            ({"gpus": 0.5}, LAPTOP, "gpus must be at most 0, .*was 0.5"),
            ({"gpus": 4}, GPU_NODES, "gpus must be at most 2"),
            ({}, Capacity(()), "cpus must be at most 0, .*cluster_can_grow"),
        ],
    )
    def test_name_the_field_that_asks_for_more_than_the_cluster_can_ever_hold(
        self, config: dict, capacity: Capacity, words: str
    ) -> None:
        with pytest.raises(ConfigError, match=words):
            slots_for(WorkerConfig(**config), 3, capacity)

    def test_wait_for_an_autoscaler_where_there_is_one(self) -> None:
        assert slots_for(WorkerConfig(num_workers=8, gpus=1, cluster_can_grow=True), 3, LAPTOP) == 3
        assert slots_for(WorkerConfig(cluster_can_grow=True, max_concurrent=2), 3, Capacity(())) == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_workers": 2, "gpus": 0.5}, "gpus must be at least 1 where num_workers is 2: .*cannot share a GPU, was 0.5"),
        ({"gpus": 1.5}, "gpus must be a fraction of one GPU or a whole number, was 1.5"),
        ({"num_workers": 0}, "num_workers"),
        ({"cpus": 0}, "cpus"),
        ({"wheels": 4}, "wheels"),
    ],
)
def test_impossible_workers_are_named(config: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        WorkerConfig(**config)


def test_threads_are_whole_cpus() -> None:
    assert [WorkerConfig(cpus=cpus).threads for cpus in (0.5, 1, 2.5, 4)] == [1, 1, 2, 4]
