"""What a cluster holds: how many workers of some size run at once, and which requests it can never meet."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray

from cryptoml.errors import ConfigError
from cryptoml.training.worker_config import WorkerConfig

__all__ = ["Capacity", "Slots", "cluster_capacity", "num_slots", "slots_for"]

GRAIN = 1e-4  # Ray counts resources in ten thousandths
WORTHWHILE = 0.9  # of the time without sharing; a smaller gain is not worth more processes
SMALLEST_SHARE = 0.5  # of a CPU; with more processes per core their start-up and memory outweigh an even end


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

    def best_share(self, costs: Sequence[float], gpus: float = 0.0) -> float:
        """Return the CPUs of each task, 1 or less, with which one-thread tasks all end soonest.

        Three equal tasks on two cores end after 1.5 times the length of one when they share the cores, after 2 when the
        third waits; with one much longer than the others, it is the longest that should have a core of its own.

        Args:
            costs: What each task computes, in any unit.
            gpus: GPUs of each task.
        """
        parts = {_floor(cpus / count) for cpus, _ in self.nodes for count in range(1, int(cpus / SMALLEST_SHARE) + 1)}
        shares = [1.0, *(part for part in parts if SMALLEST_SHARE - GRAIN <= part < 1.0)]
        cores = sum(cpus for cpus, _ in self.nodes)
        ends = {share: _makespan(costs, self.workers(share, gpus), cores) for share in shares}
        best = min(shares, key=lambda share: (round(ends[share], 6), -share))
        return best if ends[best] < WORTHWHILE * ends[1.0] else 1.0


@dataclass(frozen=True)
class Slots:
    """How tasks are laid on a cluster.

    Attributes:
        count: Tasks that run at once.
        cpus: CPUs of each worker of a task.
    """

    count: int
    cpus: float


def cluster_capacity() -> Capacity:
    """Return what the nodes of the connected cluster hold."""
    return Capacity.of(ray.nodes())


def num_slots(cpus: float, gpus: float = 0.0, num_workers: int = 1) -> int:
    """Return how many tasks of `num_workers` such workers the connected cluster runs at once; 0 where it cannot run one."""
    return cluster_capacity().workers(cpus, gpus) // num_workers


def slots_for(
    config: WorkerConfig, num_tasks: int, capacity: Capacity | None = None, *, costs: Sequence[float] | None = None
) -> Slots:
    """Lay tasks on the cluster, as many at once as it holds and `max_concurrent` allows.

    Args:
        config: What each task asks for.
        num_tasks: Tasks to run in all.
        capacity: Of the cluster; that of the connected one where None.
        costs: What each task computes, in any unit; alike where None.

    Raises:
        ConfigError: The cluster can never run one task, unless it can grow; the message names the field that asks too much.
    """
    capacity = capacity or cluster_capacity()
    cpus = config.cpus
    if cpus is None:
        cpus = capacity.best_share(costs or [1.0] * num_tasks, config.gpus) if config.num_workers == 1 else 1.0
    limit = config.max_concurrent or num_tasks
    if config.cluster_can_grow:
        return Slots(max(1, min(limit, num_tasks)), cpus)
    held = capacity.workers(cpus, config.gpus)
    if held < config.num_workers:
        raise ConfigError(_refusal(config, cpus, held, capacity))
    return Slots(max(1, min(held // config.num_workers, limit, num_tasks)), cpus)


def _refusal(config: WorkerConfig, cpus: float, held: int, capacity: Capacity) -> str:
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


def _makespan(costs: Sequence[float], slots: int, cores: float) -> float:
    """Return when all tasks have ended that start longest first, `slots` at once, and share the cores evenly."""
    if not slots:
        return float("inf")
    waiting, running, now = sorted(costs), list[float](), 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(waiting.pop())
        speed, least = min(1.0, cores / len(running)), min(running)
        now += least / speed
        running = [left - least for left in running if left > least]
    return now


def _times(total: float, part: float) -> int:
    return int(total / part + GRAIN)


def _gpu_times(total: float, part: float) -> int:
    if not part:
        return sys.maxsize
    return int(total) * _times(1.0, part) if part < 1 else _times(total, part)


def _floor(value: float) -> float:
    return int(value / GRAIN + 1e-6) * GRAIN
