"""Meta-learned sinusoids: section 5.1 of Finn et al. 2017 with K = 10, and the speed of a batched meta-gradient.

python -m benchmarks.maml_sinusoid

Amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5]; two hidden layers of 40 ReLU units, inner rate 0.01, Adam at 0.001
(falling to 0 at the end), meta-batches of 25 tasks with 10 support and 10 query points.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import mse_loss

from benchmarks.bars import Bar, report
from cryptoml.training.examples import call_with
from cryptoml.training.maml import MetaLearningMAML

__all__ = ["SinusoidArguments", "errors_by_step", "main", "speed_up", "train"]

META_BATCH, SHOTS, INNER_LR, META_LR = 25, 10, 0.01, 1e-3
STEP_WEIGHTS = (0.8, 0.0, 0.2)
SAMPLED_AT_ONCE = 500


@dataclass(frozen=True)
class SinusoidArguments:
    """Meta-train on sinusoids, then measure the error on new ones after 0, 1 and 5 gradient steps on 10 points each.

    Also times one meta-batch of 25 tasks against a Python loop over them. Exit code: 0 every bar is met, 1 one is missed.
    """

    seconds: float = 240.0
    """Time of meta-training, compiling included."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu counts this process's own time instead, for machines that others keep busy."""
    iterations: int = 150_000
    """Meta-batches at most."""
    tasks: int = 2000
    """New tasks to test on."""
    seed: int = 0
    """Seed of weights and tasks."""
    compiled: bool = True
    """Compile the meta-gradient."""
    learned_rates: bool = False
    """Learn the inner rates per layer too; the paper does not."""
    quick: bool = False
    """A second of training without compiling, and no bars."""


class Sinusoids(NamedTuple):
    """Points of some tasks, x and y `[... task point 1]`."""

    x: Tensor
    y: Tensor

    def split(self, shots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Support x and y, query x and y."""
        return self.x[..., :shots, :], self.y[..., :shots, :], self.x[..., shots:, :], self.y[..., shots:, :]


def draw(tasks: int, points: int, generator: torch.Generator) -> Sinusoids:
    """Draw tasks and their points."""
    amplitude = torch.rand(tasks, 1, 1, generator=generator) * 4.9 + 0.1
    phase = torch.rand(tasks, 1, 1, generator=generator) * math.pi
    x = torch.rand(tasks, points, 1, generator=generator) * 10 - 5
    return Sinusoids(x, amplitude * torch.sin(x - phase))


def network() -> nn.Module:
    """The paper's regressor."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def train(arguments: SinusoidArguments) -> tuple[MetaLearningMAML, int]:
    """Meta-train within the budget; returns the learner and how many meta-batches it saw."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    began = clock()
    torch.manual_seed(arguments.seed)
    learner = MetaLearningMAML(
        network(),
        INNER_LR,
        len(STEP_WEIGHTS),
        step_weights=STEP_WEIGHTS,
        learned_rates=arguments.learned_rates,
        compiled=arguments.compiled and not arguments.quick,
    )
    optimizer = torch.optim.Adam(learner.parameters(), META_LR, fused=True)
    generator = torch.Generator().manual_seed(arguments.seed)
    for iteration in range(arguments.iterations):
        spent = max((clock() - began) / arguments.seconds, iteration / arguments.iterations)
        if spent >= 1:
            return learner, iteration
        if iteration % SAMPLED_AT_ONCE == 0:
            pool = draw(SAMPLED_AT_ONCE * META_BATCH, 2 * SHOTS, generator)
            batches = Sinusoids(*(part.unflatten(0, (SAMPLED_AT_ONCE, META_BATCH)) for part in pool))
        optimizer.param_groups[0]["lr"] = META_LR * min(1.0, 2.0 * (1.0 - spent))
        batch = Sinusoids(*(part[iteration % SAMPLED_AT_ONCE] for part in batches))
        learner.outer_step(*batch.split(SHOTS), mse_loss, optimizer)
    return learner, arguments.iterations


def errors_by_step(model: nn.Module, tasks: int, steps: int, generator: torch.Generator) -> Float[Tensor, " step"]:
    """Mean squared error on 100 fresh points of new tasks after 0 to `steps` gradient steps on 10 points."""
    start = {name: value.detach() for name, value in model.named_parameters()}

    def task(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        weights, errors = start, [mse_loss(call_with(model, start, query_x), query_y)]
        for _ in range(steps):
            slopes = grad(lambda values: mse_loss(call_with(model, values, x), y))(weights)
            weights = {name: value - INNER_LR * slopes[name] for name, value in weights.items()}
            errors.append(mse_loss(call_with(model, weights, query_x), query_y))
        return torch.stack(errors)

    return vmap(task)(*draw(tasks, SHOTS + 100, generator).split(SHOTS)).mean(0).detach()


def speed_up(repeats: int) -> float:
    """How many times as fast a meta-batch is under vmap as task by task, same arithmetic, best of some repeats."""
    seconds = {}
    batch = draw(META_BATCH, 2 * SHOTS, torch.Generator().manual_seed(0)).split(SHOTS)
    for batching in ("vmap", "loop"):
        learner = MetaLearningMAML(network(), INNER_LR, 1)
        learner.batching = batching
        optimizer = torch.optim.Adam(learner.parameters(), META_LR)
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            learner.outer_step(*batch, mse_loss, optimizer)
            times.append(time.perf_counter() - began)
        seconds[batching] = min(times[1:])
    return seconds["loop"] / seconds["vmap"]


def main(arguments: SinusoidArguments) -> int:
    """Run the benchmark and return the exit code."""
    if arguments.quick:
        arguments = SinusoidArguments(seconds=1.0, tasks=20, quick=True)
    learner, iterations = train(arguments)
    errors = errors_by_step(learner.base_model, arguments.tasks, 10, torch.Generator().manual_seed(arguments.seed + 1)).tolist()
    limits = {1: 0.35, 5: 0.12}
    bars = [
        Bar(f"MSE after {step} steps", errors[step], most=None if arguments.quick else limits.get(step))
        for step in (0, 1, 2, 5, 10)
    ]
    least = None if arguments.quick else 5.0
    bars.append(Bar("speed of vmap over a loop", speed_up(3 if arguments.quick else 20), least=least, note="25 tasks"))
    return report(f"MAML on sinusoids, K = 10, {iterations} meta-batches in {arguments.seconds:g} s ({arguments.clock})", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(SinusoidArguments)))
