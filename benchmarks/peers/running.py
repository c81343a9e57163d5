"""What the peers share: the shape of the speed test, a timed step, and the best weights of a run. Needs torch and lightning."""

import copy
import time
from collections.abc import Callable

import pytorch_lightning
import torch
from torch import Tensor, nn

__all__ = ["BATCH", "HEADS", "HIDDEN", "HORIZONS", "INPUTS", "PAST", "best_of", "pinball_of", "step_seconds"]

BATCH, PAST, INPUTS, HORIZONS, HIDDEN, HEADS = 64, 60, 50, 5, 160, 4
QUANTILES = (0.1, 0.5, 0.9)


def pinball_of(forecast: Tensor, target: Tensor) -> Tensor:
    """Mean pinball loss of `[batch, horizon, quantile]` for a target `[batch, horizon]`."""
    levels, error = torch.tensor(QUANTILES), target[..., None] - forecast
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def step_seconds(model: nn.Module, forecast: Callable[[], Tensor], steps: int) -> float:
    """Fastest training step (forward, pinball loss, backward, Adam) of `steps`, in seconds on one thread."""
    torch.set_num_threads(1)
    optimizer, target, seconds = torch.optim.Adam(model.parameters(), 1e-3), torch.randn(BATCH, HORIZONS), []
    for _ in range(steps):
        began = time.perf_counter()
        optimizer.zero_grad()
        pinball_of(forecast(), target).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def best_of(base: type, metric: str) -> object:
    """Return a Lightning callback, derived from `base`, that ends a fit with the weights of its best validation."""

    class KeepBest(base):  # type: ignore[misc]
        best, weights = float("inf"), None

        def on_validation_end(self, trainer: pytorch_lightning.Trainer, module: nn.Module) -> None:
            value = float(trainer.callback_metrics.get(metric, self.best))
            if value < self.best:
                self.best, self.weights = value, copy.deepcopy(module.state_dict())

        def on_train_end(self, trainer: pytorch_lightning.Trainer, module: nn.Module) -> None:
            if self.weights is not None:
                module.load_state_dict(self.weights)

    return KeepBest()
