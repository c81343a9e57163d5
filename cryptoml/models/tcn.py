"""Dilated causal convolutions (Bai, Kolter and Koltun 2018, arXiv:1803.01271)."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.encoder import Encoder
from cryptoml.models.layers import MaskedLinear

__all__ = ["TemporalConvolutionEncoder", "dilations"]


def dilations(lookback: int, kernel_size: int) -> list[int]:
    """Powers of two whose stack of convolutions sees at most `lookback` bars; one layer of dilation 1 at least."""
    chosen, seen = [1], kernel_size
    while seen + (kernel_size - 1) * 2 * chosen[-1] <= lookback:
        chosen.append(2 * chosen[-1])
        seen += (kernel_size - 1) * chosen[-1]
    return chosen


class CausalBlock(nn.Module):
    """One dilated convolution over the past, gated and added to its input."""

    def __init__(self, hidden_size: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = (kernel_size - 1) * dilation
        self.convolution = nn.Conv1d(hidden_size, 2 * hidden_size, kernel_size, dilation=dilation)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "row time hidden"]) -> Float[Tensor, "row time hidden"]:
        past = functional.pad(self.norm(x).transpose(1, 2), (self.padding, 0))
        return x + self.dropout(functional.glu(self.convolution(past), dim=1)).transpose(1, 2)


class TemporalConvolutionEncoder(Encoder):
    """Gated residual stack of causal convolutions whose dilation doubles.

    Args:
        input_size: number of scalar features.
        hidden_size: width of all states.
        lookback: upper limit of the bars that an output sees, at least `kernel_size`.
        kernel_size: taps of each convolution.
        static_size: width of the static covariates, or None without them.
        dropout: fraction dropped after each block.
    """

    memory: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        lookback: int,
        kernel_size: int = 3,
        static_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        steps = dilations(lookback, min(kernel_size, lookback))
        self.memory = 1 + (min(kernel_size, lookback) - 1) * sum(steps)
        self.embedding = MaskedLinear(input_size, hidden_size)
        self.static = None if static_size is None else nn.Linear(static_size, hidden_size, bias=False)
        self.blocks = nn.Sequential(*(CausalBlock(hidden_size, min(kernel_size, lookback), step, dropout) for step in steps))
        self.norm = nn.LayerNorm(hidden_size)

    def embed(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        embedded = self.embedding(x, mask)
        return embedded if self.static is None or static is None else embedded + self.static(static)[:, None]

    def temporal(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "row query hidden"]:
        if last_only:
            return self.norm(self.blocks(embedded[:, -self.memory :])[:, -1:])
        return self.norm(self.blocks(embedded))
