"""What the production preset costs on an accelerator: a training step of each member in bfloat16, and an adaptation by MAML.

python -m benchmarks.accelerator

A step is one batch of chunks through the dense forward, the losses, backward and AdamW. Its floating-point operations are
counted in the matrix products and convolutions of forward and backward alone; their rate over the device's peak is the model
FLOP utilisation. Adaptation takes 10 windows of history to the preset's first member.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bars import Bar, report
from cryptoml.config import ExperimentConfig, preset
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_losses
from cryptoml.training.maml import MetaLearningMAML
from cryptoml.training.member import MemberConfig
from cryptoml.training.tasks import forecast_loss

__all__ = ["AcceleratorArguments", "adaptation_seconds", "main", "operations", "step_seconds"]

PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40": 181.0, "L4": 121.0, "V100": 125.0}
"""Dense bfloat16 TFLOP/s (float16 for V100) that the makers state, by a part of the device's name."""
SHOTS = 10


@dataclass(frozen=True)
class AcceleratorArguments:
    """Time training steps and an adaptation of the production preset.

    Exit code: 0, also where there is no accelerator.
    """

    device: str = "cuda"
    """Where to run; on a processor only for a look."""
    features: int = 310
    """Features per asset and bar."""
    batch_size: int = 4
    """Chunks of a step."""
    steps: int = 20
    """Steps of which the median counts, after three to warm up."""
    peak_tflops: float | None = None
    """Peak of the device; by its name if None."""
    quick: bool = False
    """The debug preset with few features, one step each."""


Batch = tuple[Tensor, dict[str, Tensor], Tensor]
"""Features `[batch asset time feature]`, labels, and the origins that carry loss `[batch asset time]`."""


def forecaster(experiment: ExperimentConfig, member: MemberConfig, features: int) -> Forecaster:
    """Build a member for the preset's own market."""
    shape = member.model_dump(exclude={"name", "learning_rate", "seed", "feature_groups"})
    assets = experiment.market.num_assets
    return build_forecaster(ForecasterConfig(**shape, num_features=features, num_assets=assets, lookback=experiment.lookback))


def random_batch(model: Forecaster, batch: int, bars: int, device: str) -> Batch:
    """Draw a batch on a device."""
    config = model.config
    grid = (batch, config.num_assets, bars)
    labels = {name: torch.randint(0, 3, grid, device=device) for name in ("direction", "regime")}
    labels |= {name: torch.rand(grid, device=device) for name in ("volatility", "position_size")}
    labels["returns"] = torch.randn(*grid, len(config.horizons), device=device)
    return torch.randn(*grid, config.num_features, device=device), labels, torch.ones(grid, dtype=torch.bool, device=device)


def _loss(model: Forecaster, weighting: UncertaintyWeightedLoss, batch: Batch) -> Tensor:
    features, labels, origins = batch
    device = features.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, torch.bfloat16):
        forecast = model.dense(features)
    losses = multi_task_losses(forecast, labels, origins, model.config.quantiles)
    return weighting(losses, label_masks(labels, origins))


def operations(build: Callable[[], Forecaster], batch_size: int, bars: int) -> int:
    """Count the floating-point operations of a step, forward and backward, without computing it."""
    model, weighting = build().to("meta"), UncertaintyWeightedLoss(TASKS).to("meta")
    with FlopCounterMode(display=False) as counter:
        _loss(model, weighting, random_batch(model, batch_size, bars, "meta")).backward()
    return counter.get_total_flops()


def step_seconds(model: Forecaster, batch: Batch, steps: int) -> float:
    """Median seconds of a training step."""
    weighting = UncertaintyWeightedLoss(TASKS).to(batch[0].device)
    optimizer = torch.optim.AdamW([*model.parameters(), *weighting.parameters()], 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        _loss(model.train(), weighting, batch).backward()
        optimizer.step()

    return _median(step, steps, batch[0].device)


def adaptation_seconds(model: Forecaster, bars: int, steps: int, device: str) -> float:
    """Median seconds of an adaptation by five gradient steps on ten windows, judged on its held-back ones."""
    features, labels, origins = random_batch(model, SHOTS, bars, device)
    ends = {name: values[:, :, -1] for name, values in labels.items()}
    learner, loss = MetaLearningMAML(model.eval(), 0.001), forecast_loss(model.config.quantiles)
    return _median(lambda: learner.adapt(features, (ends, origins[:, :, -1]), loss), steps, features.device)


def _median(run: Callable[[], object], steps: int, device: torch.device) -> float:
    seconds = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def _peak(arguments: AcceleratorArguments) -> float | None:
    if arguments.peak_tflops is not None or not arguments.device.startswith("cuda"):
        return arguments.peak_tflops
    name = torch.cuda.get_device_name(arguments.device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _measured(experiment: ExperimentConfig, member: MemberConfig, arguments: AcceleratorArguments) -> list[Bar]:
    """Measure one member's training step."""
    features, bars = arguments.features, experiment.training.chunk_bars + experiment.lookback - 1
    count = operations(lambda: forecaster(experiment, member, features), arguments.batch_size, bars)
    model = forecaster(experiment, member, features).to(arguments.device)
    batch = random_batch(model, arguments.batch_size, bars, arguments.device)
    seconds = step_seconds(model, batch, arguments.steps)
    rate, peak = count / seconds / 1e12, _peak(arguments)
    origins = arguments.batch_size * model.config.num_assets * experiment.training.chunk_bars
    found = [
        Bar(f"{member.name}: milliseconds of a step", 1e3 * seconds, note=f"{count / 1e12:.3g} TFLOP"),
        Bar(f"{member.name}: forecast origins per second", origins / seconds),
        Bar(f"{member.name}: TFLOP/s", rate),
    ]
    return found if peak is None else [*found, Bar(f"{member.name}: model FLOP utilisation", rate / peak, note=f"of {peak:g}")]


def main(arguments: AcceleratorArguments) -> int:
    """Run the benchmark and return the exit code."""
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stdout.write("skipped: no CUDA device\n")
        return 0
    experiment = preset("debug" if arguments.quick else "production")
    if arguments.quick:
        arguments = AcceleratorArguments(arguments.device, features=5, batch_size=1, steps=1, quick=True)
    torch.manual_seed(0)
    distinct = {(member.architecture, member.hidden_size): member for member in experiment.members}
    bars = [bar for member in distinct.values() for bar in _measured(experiment, member, arguments)]
    first = forecaster(experiment, experiment.members[0], arguments.features).to(arguments.device)
    seconds = adaptation_seconds(first, experiment.lookback, arguments.steps, arguments.device)
    bars.append(Bar(f"{experiment.members[0].name}: seconds of an adaptation", seconds, note=f"{SHOTS} windows, 5 steps"))
    name = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else arguments.device
    return report(f"Production preset on {name}", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(AcceleratorArguments, prog="python -m benchmarks.accelerator")))
