"""Elastic weight consolidation on permuted digits (Kirkpatrick et al. 2017, section 2.2, on scikit-learn's digits).

python -m benchmarks.ewc_digits

Five tasks in sequence, each with its own order of pixels; a 64-100-100-10 network; accuracy over all tasks at the end.
"""

import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.bars import Bar, report
from cryptoml.training.continual import ContinualLearner

__all__ = ["DigitsArguments", "Task", "main", "permuted_tasks", "run"]

TESTED, BATCH, IMPORTANCE = 500, 32, 100.0


class Settings(NamedTuple):
    """What one way of learning does: examples kept for replay, weight of the penalty, all tasks at once."""

    memory_size: int = 0
    importance_weight: float = 0.0
    joint: bool = False


METHODS = {
    "naive": Settings(),
    "ewc": Settings(importance_weight=IMPORTANCE),
    "ewc + replay": Settings(500, IMPORTANCE),
    "joint": Settings(joint=True),
}


@dataclass(frozen=True)
class DigitsArguments:
    """Learn five permutations of the digits one after the other, naively, with EWC, with replay too, and all at once.

    Exit code: 0 every bar is met or scikit-learn is absent, 1 one is missed.
    """

    seeds: int = 3
    """Runs to average."""
    permutations: int = 5
    """Tasks in sequence."""
    epochs: int = 10
    """Passes over each task."""
    quick: bool = False
    """One short run of two tasks, without the bars."""


class Task(NamedTuple):
    """Digits `[example, 64]` in [0, 1] with one order of pixels, and their classes."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def permuted_tasks(count: int, seed: int) -> list[Task]:
    """Split the digits once and permute their pixels for each task."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(seed)
    order = random.permutation(len(digits.target))
    x = torch.from_numpy(digits.data[order] / 16.0).float()
    y = torch.from_numpy(digits.target[order]).long()
    pixels = [torch.from_numpy(random.permutation(x.shape[1])) for _ in range(count)]
    return [Task(x[TESTED:, p], y[TESTED:], x[:TESTED, p], y[:TESTED]) for p in pixels]


def run(tasks: list[Task], settings: Settings, epochs: int, seed: int) -> list[float]:
    """Learn the tasks; returns the accuracy on each at the end."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    learner = ContinualLearner(network, memory_size=settings.memory_size, importance_weight=settings.importance_weight, seed=seed)
    stages = [_all_at_once(tasks)] if settings.joint else tasks
    for stage in stages:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for x, y in _batches(stage, epochs):
            learner.continual_train_step(x, y, optimizer, cross_entropy)
        if settings.importance_weight:
            learner.compute_fisher_information([(stage.x, stage.y)], cross_entropy)
    with torch.no_grad():
        return [(network(task.test_x).argmax(-1) == task.test_y).float().mean().item() for task in tasks]


def _all_at_once(tasks: list[Task]) -> Task:
    return Task(*(torch.cat(parts) for parts in zip(*tasks, strict=True)))


def _batches(task: Task, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(epochs):
        for index in torch.randperm(len(task.x)).split(BATCH):
            yield task.x[index], task.y[index]


def main(arguments: DigitsArguments) -> int:
    """Run the benchmark and return the exit code."""
    if importlib.util.find_spec("sklearn") is None:
        sys.stdout.write("skipped: scikit-learn is not installed; pip install 'cryptoml[bench]'\n")
        return 0
    quick, began = arguments.quick, time.perf_counter()
    seeds, count, epochs = (1, 2, 1) if quick else (arguments.seeds, arguments.permutations, arguments.epochs)
    draws = [permuted_tasks(count, seed) for seed in range(seeds)]
    means = {
        name: float(np.mean([run(tasks, settings, epochs, seed) for seed, tasks in enumerate(draws)]))
        for name, settings in METHODS.items()
    }
    note = f"mean over {count} tasks and {seeds} seeds"
    bars = [Bar(f"accuracy, {name}", mean, note=note) for name, mean in means.items()]
    bars.append(Bar("ewc above naive", means["ewc"] - means["naive"], least=None if quick else 0.15))
    bars.append(Bar("replay above ewc alone", means["ewc + replay"] - means["ewc"], least=None if quick else 1e-6))
    bars.append(Bar("joint above the best", means["joint"] - means["ewc + replay"], note="the ceiling"))
    return report(f"EWC on permuted digits, {time.perf_counter() - began:.0f} s", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(DigitsArguments)))
