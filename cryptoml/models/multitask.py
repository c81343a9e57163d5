"""The four task heads over a shared representation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.inputs import at_least_one

__all__ = ["DIRECTIONS", "REGIMES", "MultiTaskLearningHead"]

DIRECTIONS = ("DOWN", "SIDEWAYS", "UP")
REGIMES = ("BULL", "BEAR", "RANGING", "HIGH_VOL")

_SMALLEST_VOLATILITY = 1e-6


class MultiTaskLearningHead(nn.Module):
    """Direction, volatility, regime and position size from one shared vector, over any leading axes.

    Args:
        shared_size: width of the shared representation.
        hidden_size: width of each task's inner layer.
        dropout: fraction dropped before each output.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, shared_size: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        at_least_one(shared_size=shared_size, hidden_size=hidden_size)
        self.shared_size = shared_size

        def task(output_size: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(shared_size, hidden_size), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_size, output_size)
            )

        self.price_direction = task(len(DIRECTIONS))
        self.volatility = task(1)
        self.market_regime = task(len(REGIMES))
        self.position_size = task(1)

    def forward(self, shared: Float[Tensor, "*lead shared"]) -> dict[str, Tensor]:
        """Compute all tasks.

        Returns:
            `price_direction` logits `[*lead, 3]`, `volatility` `[*lead, 1]` above 0, `market_regime` logits `[*lead, 4]`,
            `position_size` `[*lead, 1]` in [0, 1].

        Raises:
            ValueError: the last axis is not `shared_size` wide.
        """
        if shared.shape[-1] != self.shared_size:
            raise ValueError(f"shared must end in an axis of {self.shared_size}, had shape {list(shared.shape)}")
        return {
            "price_direction": self.price_direction(shared),
            "volatility": functional.softplus(self.volatility(shared)) + _SMALLEST_VOLATILITY,
            "market_regime": self.market_regime(shared),
            "position_size": torch.sigmoid(self.position_size(shared)),
        }
