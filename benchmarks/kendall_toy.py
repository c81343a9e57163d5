"""Learned task noise on the toy problem of Kendall et al. 2018: do the learned sigmas match those of the data?

python -m benchmarks.kendall_toy

y1 = 2 x + 8 with noise of sigma 10, y2 = 3 x + 3 with noise of sigma 1.
"""

from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from benchmarks.bars import Bar, report
from cryptoml.training.losses import UncertaintyWeightedLoss

__all__ = ["KendallArguments", "learned_sigmas", "main", "toy_data"]

LINES = {"y1": (2.0, 8.0, 10.0), "y2": (3.0, 3.0, 1.0)}
"""Slope, intercept and sigma of each task."""


@dataclass(frozen=True)
class KendallArguments:
    """Fit two noisy lines with learned task weights; the learned sigmas must lie within 15% of 10 and 1.

    Exit code: 0 every bar is met, 1 one is missed.
    """

    steps: int = 5000
    """Gradient steps."""
    examples: int = 2000
    """Examples drawn."""
    seed: int = 0
    """Seed of data and weights."""
    quick: bool = False
    """A few steps, without the bars."""


def toy_data(examples: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw x `[example, 1]` from a standard normal and both tasks' labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 1, generator=generator)
    return x, {
        task: slope * x + intercept + sigma * torch.randn(examples, 1, generator=generator)
        for task, (slope, intercept, sigma) in LINES.items()
    }


def learned_sigmas(steps: int, examples: int, seed: int) -> dict[str, float]:
    """Train a shared hidden layer with one output per task; returns the learned noise of each."""
    torch.manual_seed(seed)
    x, labels = toy_data(examples, seed)
    network = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))
    weighted = UncertaintyWeightedLoss(tuple(LINES))
    optimizer = torch.optim.Adam([*network.parameters(), *weighted.parameters()], lr=0.02)
    for _ in range(steps):
        predicted = dict(zip(LINES, network(x).split(1, dim=1), strict=True))
        loss = weighted({task: (predicted[task] - labels[task]).square() for task in LINES})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weighted.sigmas


def main(arguments: KendallArguments) -> int:
    """Run the benchmark and return the exit code."""
    sigmas = learned_sigmas(5 if arguments.quick else arguments.steps, arguments.examples, arguments.seed)
    bars = []
    for task, (_, _, true) in LINES.items():
        limits = (None, None) if arguments.quick else (0.85 * true, 1.15 * true)
        bars.append(Bar(f"sigma of {task}", sigmas[task], *limits, note=f"true {true:g}"))
    return report("Learned task noise (Kendall et al. 2018)", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(KendallArguments)))
