"""Interpretable multi-head attention that looks a fixed number of bars back (Lim et al. 2021, section 4.4)."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["InterpretableAttention"]

_ORIGINS = 32
"""Origins whose bars to come attend in one block: small, since each block reads `lookback` bars besides its own."""


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
        self.scale = 1.0 / math.sqrt(head_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        # A key bias shifts all scores of a query alike, which softmax ignores.
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, head_size)
        self.output = nn.Linear(head_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "row time hidden"]) -> Float[Tensor, "row time hidden"]:
        """Attend from every bar to its past; time and memory grow with `time * lookback`."""
        block = min(self.lookback, x.shape[1])
        before = block if x.shape[1] > block else 0
        query = _blocks(self._heads(self.query(x)) * self.scale, block, 0)
        key, value = (_blocks(part, block, before) for part in (self._heads(self.key(x)), self.value(x)[:, None]))
        scores = query @ key.transpose(-1, -2)
        band = self._band(scores.shape[2], block, before, x.device)
        weights = torch.softmax(scores.masked_fill(~band, -math.inf), dim=-1).mean(dim=1)
        attended = rearrange(self.dropout(weights) @ value[:, 0], "row block query width -> row (block query) width")
        return self.output(attended[:, : x.shape[1]])

    def last(self, x: Float[Tensor, "row time hidden"]) -> tuple[Float[Tensor, "row 1 hidden"], Float[Tensor, "row 1 time"]]:
        """Attend from the last bar alone; also return its weights averaged over heads, 0 outside the lookback, summing to 1."""
        past = x[:, -self.lookback :]
        scores = self._heads(self.query(x[:, -1:])) * self.scale @ self._heads(self.key(past)).transpose(-1, -2)
        weights = torch.softmax(scores, dim=-1).mean(dim=1)
        attended = self.output(self.dropout(weights) @ self.value(past))
        return attended, functional.pad(_shares(weights), (x.shape[1] - past.shape[1], 0))

    def forecast_last(
        self, past: Float[Tensor, "row time hidden"], future: Float[Tensor, "row horizon hidden"]
    ) -> tuple[Float[Tensor, "row horizon hidden"], Float[Tensor, "row horizon time"]]:
        """Attend from the bars to come to the past and to earlier bars to come; also return the weights.

        The weights are averaged over heads and shared out over the past alone, so that they sum to 1; 0 outside the lookback.
        """
        seen = past[:, -self.lookback :]
        key, value = self._heads(self.key(seen))[:, :, None], self.value(seen)[:, None]
        attended, weights = self._forecast(key, value, future[:, None, None], None)
        return attended[:, 0, 0], functional.pad(_shares(weights[:, 0, 0]), (past.shape[1] - seen.shape[1], 0))

    def forecast_all(
        self, past: Float[Tensor, "row time hidden"], future: Float[Tensor, "row origin horizon hidden"]
    ) -> Float[Tensor, "row origin horizon hidden"]:
        """Attend as `forecast_last` from each of the last `origin` bars' own bars to come."""
        time, origins = past.shape[1], future.shape[1]
        block, before, first = min(_ORIGINS, origins), min(self.lookback, time) - 1, time - origins
        key, value = (_blocks(part, block, before, first) for part in (self._heads(self.key(past)), self.value(past)[:, None]))
        padded = functional.pad(future, (0, 0, 0, 0, 0, -origins % block))
        queries = rearrange(padded, "row (block query) horizon hidden -> row block query horizon hidden", query=block)
        band = self._band(queries.shape[1], block, before, past.device, first)
        attended, _ = self._forecast(key, value[:, 0], queries, band)
        return rearrange(attended, "row block query horizon hidden -> row (block query) horizon hidden")[:, :origins]

    def _forecast(
        self,
        key: Float[Tensor, "row head block item width"],
        value: Float[Tensor, "row block item width"],
        future: Float[Tensor, "row block query horizon hidden"],
        band: Bool[Tensor, "block query item"] | None,
    ) -> tuple[Float[Tensor, "row block query horizon hidden"], Float[Tensor, "row block query horizon item"]]:
        """Attend to past items where `band` allows, and to own and earlier horizons; return also the weights of the past."""
        items, horizons = key.shape[3], future.shape[3]
        query, own_key = (
            rearrange(part, "row block query horizon (head width) -> row head block query horizon width", head=self.num_heads)
            for part in (self.query(future) * self.scale, self.key(future))
        )
        scores = torch.einsum("rhbqnw,rhbiw->rhbqni", query, key)
        if band is not None:
            scores.masked_fill_(~band[:, :, None], -math.inf)
        later = torch.ones(horizons, horizons, dtype=torch.bool, device=future.device).triu(1)
        own_scores = (query @ own_key.transpose(-1, -2)).masked_fill(later, -math.inf)
        weights = torch.softmax(torch.cat([scores, own_scores], dim=-1), dim=-1).mean(dim=1)
        past, own = self.dropout(weights).split([items, horizons], dim=-1)
        attended = torch.einsum("rbqni,rbiw->rbqnw", past, value) + own @ self.value(future)
        return self.output(attended), weights[..., :items]

    def _heads(self, x: Float[Tensor, "row time hidden"]) -> Float[Tensor, "row head time width"]:
        return rearrange(x, "row time (head width) -> row head time width", head=self.num_heads)

    def _band(
        self, blocks: int, block: int, before: int, device: torch.device, first: int = 0
    ) -> Bool[Tensor, "block query key"]:
        """Where queries of each block from bar `first` on may look among its own keys and the `before` keys that precede them."""
        query, key = torch.arange(block, device=device)[:, None], torch.arange(-before, block, device=device)
        band = (key <= query) & (key > query - self.lookback)
        exists = first + torch.arange(blocks, device=device)[:, None] * block + key >= 0
        return band & exists[:, None]


def _shares(weights: Float[Tensor, "*lead item"]) -> Float[Tensor, "*lead item"]:
    """Divide by the sum over the last axis, in float32 at least, so that rounded weights sum to 1 again."""
    precise = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return precise / precise.sum(dim=-1, keepdim=True)


def _blocks(
    x: Float[Tensor, "row head time width"], block: int, before: int, first: int = 0
) -> Float[Tensor, "row head block item width"]:
    """Cut time from bar `first` on into blocks, each with the `before` bars that precede it; zeros beyond both ends."""
    after = -(x.shape[2] - first) % block
    padded = functional.pad(x[:, :, max(first - before, 0) :], (0, 0, max(before - first, 0), after))
    return padded.unfold(2, block + before, block).transpose(-1, -2)
