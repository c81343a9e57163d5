"""Interpretable multi-head attention within a causal band (Lim et al. 2021, section 4.4)."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["InterpretableAttention", "causal_band"]


def causal_band(num_queries: int, num_keys: int, lookback: int, device: torch.device | None = None) -> Bool[Tensor, "query key"]:
    """True where a query may look: its own bar and the `lookback - 1` bars before it; queries are the last bars."""
    query = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None]
    return (key <= query) & (key > query - lookback)


class InterpretableAttention(nn.Module):
    """Heads with their own queries and keys that share one value, averaged (Lim et al. 2021, eq. 13 to 16).

    Args:
        hidden_size: width of input and output, a multiple of `num_heads`.
        num_heads: number of heads.
        lookback: bars that a query can see, its own included.
        dropout: fraction of attention weights dropped in training.
    """

    def __init__(self, hidden_size: int, num_heads: int, lookback: int, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, was {hidden_size} with {num_heads} heads")
        self.num_heads, self.lookback = num_heads, lookback
        head_size = hidden_size // num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        # A key bias shifts all scores of a query alike, which softmax ignores.
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, head_size)
        self.output = nn.Linear(head_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "row time hidden"], *, last_only: bool = False
    ) -> tuple[Float[Tensor, "row query hidden"], Float[Tensor, "row query time"]]:
        """Attend from every bar, or from the last one only, to its past.

        Returns:
            The attended values, and the weights averaged over heads: 0 outside the band, rows sum to 1.
        """
        queried = x[:, -1:] if last_only else x
        query = self._heads(self.query(queried)) / math.sqrt(x.shape[-1] // self.num_heads)
        scores = query @ self._heads(self.key(x)).transpose(-1, -2)
        band = causal_band(queried.shape[1], x.shape[1], self.lookback, x.device)
        weights = torch.softmax(scores.masked_fill(~band, -math.inf), dim=-1).mean(dim=1)
        return self.output(self.dropout(weights) @ self.value(x)), weights

    def _heads(self, x: Float[Tensor, "row time hidden"]) -> Float[Tensor, "row head time width"]:
        return rearrange(x, "row time (head width) -> row head time width", head=self.num_heads)
