"""What a cluster holds: how many workers of some size run at once, and which requests it can never meet."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray

from cryptoml.errors import ConfigError
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["Capacity", "cluster_capacity", "slots_for"]

GRAIN = 1e-4  # Ray counts resources in ten thousandths


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of each node, in total, whether free or in use."""

    nodes: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, Any]]) -> Self:
        """Read what `ray.nodes()` tells; dead nodes have nothing."""
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        return cls(tuple((float(one.get("CPU", 0.0)), float(one.get("GPU", 0.0))) for one in resources))

    def workers(self, cpus: float, gpus: float = 0.0) -> int:
        """Return how many workers of that size run at once; none spans nodes, no fraction spans GPUs."""
        return sum(min(_times(node_cpus, cpus), _gpu_times(node_gpus, gpus)) for node_cpus, node_gpus in self.nodes)


def cluster_capacity() -> Capacity:
    """Return what the nodes of the connected cluster hold."""
    return Capacity.of(ray.nodes())


def slots_for(config: WorkerConfig, num_tasks: int, capacity: Capacity | None = None) -> int:
    """Return how many tasks run at once: as many as the cluster holds and `max_concurrent` allows.

    Args:
        config: What each task asks for.
        num_tasks: Tasks to run in all.
        capacity: Of the cluster; that of the connected one where None.

    Raises:
        ConfigError: The cluster can never run one task, unless it can grow; the message names the field that asks too much.
    """
    capacity = capacity or cluster_capacity()
    limit = config.max_concurrent or num_tasks
    if config.cluster_can_grow:
        return max(1, min(limit, num_tasks))
    held = capacity.workers(config.cpus, config.gpus)
    if held < config.num_workers:
        raise ConfigError(_refusal(config, held, capacity))
    return max(1, min(held // config.num_workers, limit, num_tasks))


def _refusal(config: WorkerConfig, held: int, capacity: Capacity) -> str:
    cpus = config.cpus
    largest_cpus = max((node_cpus for node_cpus, _ in capacity.nodes), default=0.0)
    largest_gpus = max((node_gpus for _, node_gpus in capacity.nodes), default=0.0)
    grow = "set cluster_can_grow where an autoscaler adds nodes"
    if cpus > largest_cpus + GRAIN:
        return f"cpus must be at most {largest_cpus:g}, all of the largest node, was {cpus:g}; {grow}"
    if config.gpus > largest_gpus + GRAIN:
        return f"gpus must be at most {largest_gpus:g}, all of the best node, was {config.gpus:g}; {grow}"
    gpus = f" and {config.gpus:g} GPUs" if config.gpus else ""
    return (
        f"num_workers must be at most {held}, which the cluster holds with {cpus:g} CPUs{gpus} each, "
        f"was {config.num_workers}; {grow}"
    )


def _times(total: float, part: float) -> int:
    return int(total / part + GRAIN)


def _gpu_times(total: float, part: float) -> int:
    if not part:
        return sys.maxsize
    return int(total) * _times(1.0, part) if part < 1 else _times(total, part)
