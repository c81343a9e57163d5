"""Gated building blocks of the Temporal Fusion Transformer (Lim et al. 2021, section 4.1) and the quantile head.

Shape legend: row = batch x asset, time = bars, all layers act on the last axis and keep the leading ones.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GatedLinearUnit", "GatedResidualNetwork", "GatedSkip", "MaskedLinear", "QuantileHead"]


class GatedLinearUnit(nn.Module):
    """Dropout, then `sigmoid(W4 x + b4) * (W5 x + b5)` (Lim et al. 2021, eq. 5)."""

    def __init__(self, input_size: int, output_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(input_size, 2 * output_size)

    def forward(self, x: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead output"]:
        return functional.glu(self.linear(self.dropout(x)))


class GatedSkip(nn.Module):
    """`LayerNorm(skip + GLU(x))`: a block that the gate can close (Lim et al. 2021, eq. 17)."""

    def __init__(self, input_size: int, output_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = GatedLinearUnit(input_size, output_size, dropout)
        self.norm = nn.LayerNorm(output_size)

    def forward(self, x: Float[Tensor, "*lead input"], skip: Float[Tensor, "*lead output"]) -> Float[Tensor, "*lead output"]:
        return self.norm(skip + self.gate(x))


class GatedResidualNetwork(nn.Module):
    """Gated residual network with an optional context vector (Lim et al. 2021, eq. 2 to 4).

    Args:
        input_size: width of the input.
        hidden_size: width of the inner layer.
        output_size: width of the output; the skip connection is linear where it differs from `input_size`.
        context_size: width of the context, or None without one.
        dropout: fraction dropped before the gate.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, *, context_size: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, hidden_size)
        self.context = None if context_size is None else nn.Linear(context_size, hidden_size, bias=False)
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.skip = nn.Identity() if input_size == output_size else nn.Linear(input_size, output_size)
        self.output = GatedSkip(hidden_size, output_size, dropout)

    def forward(self, x: Float[Tensor, "*lead input"], context: Tensor | None = None) -> Float[Tensor, "*lead output"]:
        """Transform `x`; `context` broadcasts over the leading axes and is left out where None."""
        inner = self.input(x)
        if self.context is not None and context is not None:
            inner = inner + self.context(context)
        return self.output(self.inner(functional.elu(inner)), self.skip(x))


class MaskedLinear(nn.Module):
    """Linear embedding of features and of which of them are present, time-local.

    Missing features are expected as 0; the presence flags give each feature its own learned value when it is missing.
    """

    def __init__(self, num_features: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * num_features, hidden_size)

    def forward(self, x: Float[Tensor, "*lead feature"], mask: Tensor) -> Float[Tensor, "*lead hidden"]:
        return self.linear(torch.cat([x, mask.to(x.dtype)], dim=-1))


class QuantileHead(nn.Module):
    """Quantiles that cannot cross: the middle one plus or minus cumulated softplus gaps.

    Args:
        hidden_size: width of the input.
        num_horizons: number of forecast horizons.
        quantiles: levels in (0, 1), strictly increasing.
        name: what to call the levels in errors.

    Raises:
        ValueError: levels outside (0, 1) or not increasing.
    """

    def __init__(self, hidden_size: int, num_horizons: int, quantiles: Sequence[float], *, name: str = "quantiles") -> None:
        super().__init__()
        levels = tuple(quantiles)
        if not levels or list(levels) != sorted(set(levels)) or not 0.0 < levels[0] <= levels[-1] < 1.0:
            raise ValueError(f"{name} must increase strictly within (0, 1), was {list(levels)}")
        self.num_horizons = num_horizons
        self.middle = min(range(len(levels)), key=lambda index: abs(levels[index] - 0.5))
        self.linear = nn.Linear(hidden_size, num_horizons * len(levels))

    def forward(self, hidden: Float[Tensor, "*lead hidden"]) -> Float[Tensor, "*lead horizon quantile"]:
        raw = rearrange(self.linear(hidden), "... (horizon quantile) -> ... horizon quantile", horizon=self.num_horizons)
        median, gaps = raw[..., self.middle : self.middle + 1], functional.softplus(raw)
        below = gaps[..., : self.middle].flip(-1).cumsum(-1).flip(-1)
        above = gaps[..., self.middle + 1 :].cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)
