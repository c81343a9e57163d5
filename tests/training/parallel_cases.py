"""What two data-parallel processes do in `test_parallel.py`: each case returns plain values or arrays of one rank."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.data.splits import walk_forward
from cryptoml.data.windows import chunk_spans
from cryptoml.errors import CryptomlError
from cryptoml.features.targets import Targets, make_targets
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.config import FitResult, TrainingConfig
from cryptoml.training.feed import Feed
from cryptoml.training.learner import Learner
from cryptoml.training.member import FoldData, MemberConfig, MemberTask, fit_member
from cryptoml.training.objectives import objective_of
from cryptoml.training.trainer import fit
from cryptoml.training.workers import Workers
from tests.training.conftest import LOOKBACK, NUM_BARS, TARGETS, Closes

Case = Callable[[int, int, Path], Any]
BATCH = 4
"""Chunks of a whole batch; each of n workers takes BATCH / n of them."""
CONFIG = TrainingConfig(max_epochs=3, chunk_bars=32, learning_rate=3e-3, seed=5)


def market() -> tuple[np.ndarray, Targets]:
    """Two assets whose labels are spread unevenly over the bars."""
    random = np.random.default_rng(0)
    returns = 0.01 * random.standard_normal((2, NUM_BARS))
    close = 100 * np.exp(np.cumsum(returns, axis=1))
    features = random.standard_normal((2, NUM_BARS, 3)).astype(np.float32)
    features[:, :-1, 0] = 100 * returns[:, 1:]
    close[1, :90] = np.nan
    features[1, :90] = np.nan
    targets = make_targets(Closes(close), TARGETS)
    targets.regime[:, 30:150] = -1
    return features, targets


def loaders(rank: int, size: int, stop: int = 300, **options: Any) -> tuple[ChunkLoader, ChunkLoader]:
    """Loaders of one rank; with 300 bars the last training batch holds chunks for one rank alone."""
    features, targets = market()

    def make(start: int, stop: int, **options: Any) -> ChunkLoader:
        spans = chunk_spans(NUM_BARS, 32, LOOKBACK, start=start, stop=stop)
        return ChunkLoader(
            features, targets, spans, target_config=TARGETS, batch_size=BATCH // size, shard=(rank, size), **options
        )

    return make(0, stop, shuffle=True, seed=5, **options), make(300, 390, **options)


def forecaster(architecture: str = "tcn", dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A small forecaster with its own initial weights."""
    torch.manual_seed(seed)
    shape = {"num_features": 3, "num_assets": 2, "hidden_size": 8, "num_heads": 2, "lookback": LOOKBACK, "horizons": (1, 4)}
    return build_forecaster(ForecasterConfig(architecture=architecture, dropout=dropout, **shape))


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: values.detach().numpy().copy() for name, values in model.state_dict().items()}


def history(result: FitResult) -> dict[str, list[float]]:
    return {name: values for name, values in result.history.items() if name != "seconds"}


def gradients(architecture: str, accumulate: int = 1, seed: int = 0, **settings: Any) -> Case:
    """Gradients of every step of one epoch, without a change of the weights."""

    def run(rank: int, size: int, folder: Path) -> list[dict[str, np.ndarray]]:
        feeds = [Feed(loader, torch.device("cpu")) for loader in loaders(rank, size)]
        model = forecaster(architecture, seed=seed + rank)
        config = CONFIG.updated(grad_clip=1e9, learning_rate=1e-30, weight_decay=0.0, accumulate=accumulate, **settings)
        learner = Learner(model, objective_of(model, config), config, *feeds, None, Workers(rank, size))
        steps: list[dict[str, np.ndarray]] = []

        def keep(_: int) -> None:
            named = learner.batch_loss.named_parameters()
            steps.append({name: one.grad.numpy().copy() for name, one in named if one.grad is not None})

        learner.train_epoch(keep)
        return steps

    return run


def fitted(architecture: str, dropout: float = 0.0, **settings: Any) -> Case:
    """Weights and history of a whole fit."""

    def run(rank: int, size: int, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
        model = forecaster(architecture, dropout)
        result = fit(model, *loaders(rank, size), CONFIG.updated(**settings), rank=rank, world_size=size)
        return weights(model), history(result)

    return run


def wrapped(rank: int, size: int, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """A fit whose step someone wrapped for data parallelism besides."""
    model = forecaster()
    wrap = nn.parallel.DistributedDataParallel if size > 1 else None
    result = fit(model, *loaders(rank, size), CONFIG, rank=rank, world_size=size, prepare_model=wrap)
    return weights(model), history(result)


def kept_by_the_first(rank: int, size: int, folder: Path) -> list[str]:
    """A fit of which only the first rank knows where checkpoints go."""
    own = folder / "first" if rank == 0 else None
    config = CONFIG.updated(checkpoint_steps=1, keep_every=1, max_epochs=2)
    fit(forecaster(), *loaders(rank, size), config, rank=rank, world_size=size, checkpoint_dir=own)
    fit(forecaster(), *loaders(rank, size), config, rank=rank, world_size=size, resume=own)
    return sorted(path.name for path in own.iterdir()) if own else []


def member_task(size: int, dropout: float, **settings: Any) -> tuple[FoldData, MemberTask]:
    features, targets = market()
    fold = walk_forward(NUM_BARS, test_start=320, label_bars=4, embargo_bars=4, validation_bars=52)[0]
    data = FoldData(features, targets, fold, TARGETS, ("AUSDT", "BUSDT"))
    member = MemberConfig(name="tcn", architecture="tcn", hidden_size=8, num_heads=2, dropout=dropout)
    return data, member.task(data, CONFIG.updated(batch_size=BATCH // size, **settings), LOOKBACK)


def member(dropout: float = 0.0, **settings: Any) -> Case:
    def run(rank: int, size: int, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
        data, task = member_task(size, dropout, **settings)
        fitted = fit_member(data, task, rank=rank, world_size=size)
        return fitted.weights, {name: values for name, values in fitted.history.items() if name != "seconds"}

    return run


def resumed_member(rank: int, size: int, folder: Path) -> tuple[dict[str, np.ndarray], list[str], bool]:
    """A member with dropout that stops after two epochs and a half, and goes on; only the first rank has its folder."""
    data, task = member_task(size, 0.3, checkpoint_steps=1)
    own = folder / f"resumed-{rank}"
    seen: list[Any] = []

    class Stopping(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, portion: Any) -> Any:
            self.calls += 1
            if self.calls == 6:
                raise KeyboardInterrupt
            return self.inner(portion)

    with suppress(KeyboardInterrupt):
        fit_member(data, task, checkpoint_dir=own, prepare_model=Stopping, on_checkpoint=seen.append, rank=rank, world_size=size)
    files = sorted(path.name for path in own.iterdir()) if own.is_dir() else []
    result = fit_member(data, task, checkpoint_dir=own, rank=rank, world_size=size)
    return result.weights, files, bool(seen)


def error_of(call: Callable[[int, int, Path], Any]) -> Case:
    """The message of the error that a call must end with."""

    def run(rank: int, size: int, folder: Path) -> str:
        try:
            call(rank, size, folder)
        except CryptomlError as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    return run


def one_infinite_label(rank: int, size: int, folder: Path) -> None:
    train, validation = loaders(rank, size, symbols=("BTCUSDT", "ETHUSDT"))
    train.labels["volatility"][1, 200:205] = math.inf
    fit(forecaster(), train, validation, CONFIG, rank=rank, world_size=size)


def blocked_folder(rank: int, size: int, folder: Path) -> None:
    blocked = folder / "blocked"
    blocked.write_text("")
    fit(forecaster(), *loaders(rank, size), CONFIG, rank=rank, world_size=size, checkpoint_dir=blocked if rank == 0 else None)


def uneven_loaders(rank: int, size: int, folder: Path) -> None:
    train, validation = loaders(rank, size, stop=100 if rank else 300)
    fit(forecaster(), train, validation, CONFIG, rank=rank, world_size=size)


def pairs(rank: int, size: int, folder: Path) -> dict[str, np.ndarray]:
    """A plain module on batches of 8 examples, of which the first rank takes 5 and the second 3."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] * 2 + x[:, 1:2]
    order = torch.arange(32).view(4, 8)
    own = order if size == 1 else order[:, :5] if rank == 0 else order[:, 5:]
    loader = DataLoader(TensorDataset(x[own.flatten()], y[own.flatten()]), batch_size=own.shape[1])
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    fit(model, loader, loader, CONFIG, rank=rank, world_size=size)
    return weights(model)


CASES: dict[str, Case] = {
    **{f"gradients_{name}": gradients(name) for name in ("linear", "tcn", "tft", "patch")},
    "gradients_accumulated": gradients("tcn", accumulate=2),
    "gradients_fixed_weights": gradients("tcn", loss="sum", task_weights={"regime": 0.5}),
    **{f"fitted_{name}": fitted(name) for name in ("linear", "tcn", "tft", "patch")},
    "fitted_accumulated": fitted("tcn", accumulate=2),
    "fitted_early": fitted("tcn", max_epochs=40, patience=2, lr_patience=0, learning_rate=0.05),
    "fitted_wrapped": wrapped,
    "kept_by_the_first": kept_by_the_first,
    "fitted_dropout": fitted("tcn", dropout=0.3),
    "member": member(),
    "member_dropout": member(0.3),
    "resumed_member": resumed_member,
    "infinite": error_of(one_infinite_label),
    "blocked": error_of(blocked_folder),
    "uneven": error_of(uneven_loaders),
    "pairs": pairs,
}


def run_cases(rank: int, size: int, folder: Path, results: Any) -> None:
    """Run every case as one of `size` processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    results.put((rank, {name: case(rank, size, folder) for name, case in CASES.items()}))
    results.close()
    results.join_thread()
    distributed.barrier()
    os._exit(0)  # gloo's own end aborts now and then where the other rank is gone first
