"""What the training loop costs beside the model: time spent waiting for chunks, and against a loop written by hand.

python -m benchmarks.training_loop

One thread; 20 assets x 4,000 bars x 150 features in a memory-mapped file, chunks of 256 bars, 64 bars of lookback, hidden
width 32. The loop by hand has its batches gathered beforehand and does forward, loss, backward, clipping and AdamW; it and
the trainer take turns, and the fastest epoch of each counts.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from benchmarks.bars import Bar, report
from cryptoml.data.windows import chunk_spans
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.forecaster import Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.chunks import Batch, ChunkLoader
from cryptoml.training.config import TrainingConfig
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_losses
from cryptoml.training.trainer import fit

__all__ = ["LoopArguments", "main"]

ASSETS, BARS, FEATURES, LOOKBACK, CHUNK_BARS, BATCH = 20, 4_000, 150, 64, 256, 2
ARCHITECTURES = ("linear", "tcn", "tft")
MOST_WAITING = 0.05
MOST_OVERHEAD = 1.15


@dataclass(frozen=True)
class LoopArguments:
    """Time epochs of three architectures.

    Exit code: 0 every bar is met, 1 one is missed.
    """

    rounds: int = 3
    """Epochs of each, of which the fastest counts."""


def _targets(random: np.random.Generator, config: TargetConfig) -> Targets:
    grid = (ASSETS, BARS)
    return Targets(
        sigma=np.full(grid, 0.01, np.float32),
        log_return=0.01 * random.standard_normal((*grid, len(config.horizons)), dtype=np.float32),
        direction=random.integers(0, 3, grid, dtype=np.int8),
        threshold=np.full(grid, 0.01, np.float32),
        volatility=np.full(grid, 0.02, np.float32),
        regime=random.integers(0, 4, grid, dtype=np.int8),
        position_size=random.random(grid, dtype=np.float32),
        label_bars=config.primary_horizon,
    )


def _loaders(folder: Path) -> tuple[ChunkLoader, ChunkLoader]:
    random, config = np.random.default_rng(0), TargetConfig()
    values = random.standard_normal((ASSETS, BARS, FEATURES), dtype=np.float32)
    values[random.random(values.shape) < 0.05] = np.nan
    np.save(folder / "features.npy", values)
    features, targets = np.load(folder / "features.npy", mmap_mode="r"), _targets(random, config)

    def loader(stop: int, shuffle: bool) -> ChunkLoader:
        spans = chunk_spans(BARS, CHUNK_BARS, LOOKBACK, stop=stop)
        return ChunkLoader(
            features, targets, spans, batch_size=BATCH, target_config=config, shuffle=shuffle, random_phase=shuffle
        )

    return loader(BARS, True), loader(CHUNK_BARS, False)


def _model(architecture: str) -> Forecaster:
    torch.manual_seed(0)
    return build_forecaster(
        ForecasterConfig.model_validate(
            {"architecture": architecture, "num_features": FEATURES, "num_assets": ASSETS, "lookback": LOOKBACK}
        )
    )


def _by_hand(model: Forecaster, batches: list[Batch]) -> float:
    """Seconds of one epoch without any trainer."""
    weighting = UncertaintyWeightedLoss(TASKS)
    parameters = [*model.parameters(), *weighting.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    model.train()
    began = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        losses = multi_task_losses(model.dense(batch.features, batch.mask), batch.targets, batch.origin_mask)
        weighting(losses, label_masks(batch.targets, batch.origin_mask)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return time.perf_counter() - began


def _measured(architecture: str, train: ChunkLoader, validation: ChunkLoader, rounds: int) -> list[Bar]:
    config, by_hand, trained, waited = TrainingConfig(max_epochs=1), [], [], []
    for epoch in range(rounds):
        by_hand.append(_by_hand(_model(architecture), list(train.iterate(0))))
        result = fit(_model(architecture), train, validation, config.updated(seed=epoch), progress=False)
        trained.append(result.seconds)
        waited.append(result.loading_seconds / result.seconds)
    return [
        Bar(f"{architecture}: share of an epoch that waits for chunks", min(waited), most=MOST_WAITING),
        Bar(
            f"{architecture}: trainer's epoch over that of a loop by hand",
            min(trained) / min(by_hand),
            most=MOST_OVERHEAD,
            note=f"{min(trained):.2f} s with validation of one chunk",
        ),
    ]


def main(arguments: LoopArguments) -> int:
    """Measure every architecture and return the exit code."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loaders = _loaders(Path(folder))
        bars = [bar for name in ARCHITECTURES for bar in _measured(name, *loaders, arguments.rounds)]
    return report("Training loop, one thread", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(LoopArguments, prog="python -m benchmarks.training_loop")))
