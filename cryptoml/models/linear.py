"""A linear baseline in the spirit of DLinear (Zeng et al. 2023, arXiv:2205.13504)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.encoder import Encoder
from cryptoml.models.layers import MaskedLinear

__all__ = ["DecomposedLinearEncoder"]


class DecomposedLinearEncoder(Encoder):
    """Linear in the features and in the past: one filter on a causal moving average, one on what remains.

    Both filters and the moving average compose to a single causal filter per channel, which is what is computed.

    Args:
        input_size: number of scalar features.
        hidden_size: number of linear mixtures of features, each with its own filters.
        lookback: bars that an output sees.
        trend_bars: length of the moving average, at most `lookback`.
        static_size: width of the static covariates, or None without them.
    """

    memory: int
    average: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, *, lookback: int, trend_bars: int = 25, static_size: int | None = None
    ) -> None:
        super().__init__()
        self.memory = lookback
        trend_bars = min(trend_bars, lookback, max(2, (lookback + 1) // 2))  # an average over one bar leaves no remainder
        self.embedding = MaskedLinear(input_size, hidden_size)
        self.static = None if static_size is None else nn.Linear(static_size, hidden_size, bias=False)
        self.remainder = nn.Parameter(torch.zeros(hidden_size, lookback))
        self.trend = nn.Parameter(torch.full((hidden_size, lookback - trend_bars + 1), 1.0 / lookback))
        self.register_buffer("average", torch.full((1, 1, trend_bars), 1.0 / trend_bars), persistent=False)
        with torch.no_grad():
            self.remainder[:, 0] = 1.0

    def embed(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        embedded = self.embedding(x, mask)
        return embedded if self.static is None or static is None else embedded + self.static(static)[:, None]

    def temporal(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "row query hidden"]:
        filters = self.filters().to(embedded.dtype)
        if last_only:
            past = embedded[:, -self.memory :]
            return torch.einsum("rth,ht->rh", past.flip(1), filters[:, : past.shape[1]])[:, None]
        past = functional.pad(embedded.transpose(1, 2), (self.memory - 1, 0))
        return functional.conv1d(past, filters.flip(-1)[:, None], groups=filters.shape[0]).transpose(1, 2)

    def filters(self) -> Float[Tensor, "hidden lag"]:
        """Weight of each lag, newest first: `remainder * (x - average(x)) + trend * average(x)` as one filter."""
        width = self.average.shape[-1]
        short = self.trend - self.remainder[:, : self.trend.shape[-1]]
        smoothed = functional.conv1d(short[:, None], self.average, padding=width - 1)[:, 0]
        return self.remainder + smoothed
