"""A causal transformer over patches of bars, after PatchTST (Nie et al. 2023, arXiv:2211.14730), channels mixed per bar.

Patches are counted back from the bar that is forecast from. Bars a whole number of patches apart share their patches, so a
dense pass is one short sequence of patches per phase of the clock that ticks once per patch.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.encoder import Encoder
from cryptoml.models.layers import MaskedLinear

__all__ = ["PatchTransformerEncoder"]


class PatchBlock(nn.Module):
    """Pre-norm attention over the last `reach` patches with a learned bias per distance, then a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.projection = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.distance = nn.Parameter(torch.zeros(num_heads, reach))
        self.output = nn.Linear(hidden_size, hidden_size)
        self.wide, self.narrow = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "row patch hidden"]) -> Float[Tensor, "row patch hidden"]:
        projected = self.projection(self.attention_norm(x))
        query, key, value = rearrange(
            projected, "row patch (part head width) -> part row head patch width", part=3, head=self.num_heads
        )
        # Few patches make plain products as fast as a fused kernel, and those can be mapped and differentiated twice.
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        attended = torch.softmax(scores + self._bias(x.shape[1]), dim=-1).to(value.dtype) @ value
        x = x + self.dropout(self.output(rearrange(attended, "row head patch width -> row patch (head width)")))
        return x + self.dropout(self.narrow(functional.gelu(self.wide(self.norm(x)))))

    def _bias(self, patches: int) -> Float[Tensor, "1 head patch patch2"]:
        """Bias by distance back in time; minus infinity ahead and out of reach."""
        positions, reach = torch.arange(patches, device=self.distance.device), self.distance.shape[1]
        back = positions[:, None] - positions
        bias = self.distance[:, back.clamp(0, reach - 1)]
        return bias.masked_fill((back < 0) | (back >= reach), -math.inf)[None]


class PatchTransformerEncoder(Encoder):
    """Transformer over patches that end at the bar forecast from, and at every `patch_bars` bars before it.

    Args:
        input_size: number of scalar features.
        hidden_size: width of all states.
        num_heads: attention heads, a divisor of `hidden_size`.
        lookback: upper limit of the bars that an output sees.
        patch_bars: bars of a patch, at most `lookback / (num_layers + 1)`, so that every layer has a patch to look back to.
        num_layers: attention layers; together they reach over `lookback`.
        static_size: width of the static covariates, or None without them.
        dropout: fraction dropped after each part of a layer.
    """

    memory: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_heads: int,
        *,
        lookback: int,
        patch_bars: int = 8,
        num_layers: int = 2,
        static_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.patch_bars = max(1, min(patch_bars, lookback // (num_layers + 1)))
        reach = 1 + (lookback // self.patch_bars - 1) // num_layers
        self.memory = self.patch_bars * (1 + num_layers * (reach - 1))
        self.embedding = MaskedLinear(input_size, hidden_size)
        self.static = None if static_size is None else nn.Linear(static_size, hidden_size, bias=False)
        self.patch = nn.Conv1d(hidden_size, hidden_size, self.patch_bars)
        self.blocks = nn.Sequential(*(PatchBlock(hidden_size, num_heads, reach, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(hidden_size)

    def embed(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        embedded = self.embedding(x, mask)
        return embedded if self.static is None or static is None else embedded + self.static(static)[:, None]

    def temporal(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "row query hidden"]:
        patches = self.patch(functional.pad(embedded.transpose(1, 2), (self.patch_bars - 1, 0))).transpose(1, 2)
        if last_only:
            ending = patches[:, (patches.shape[1] - 1) % self.patch_bars :: self.patch_bars]
            return self.norm(self.blocks(ending)[:, -1:])
        time, bars = patches.shape[1], self.patch_bars
        padded = functional.pad(patches, (0, 0, 0, -time % bars))
        phases = rearrange(padded, "row (patch phase) hidden -> (row phase) patch hidden", phase=bars)
        mixed = rearrange(self.blocks(phases), "(row phase) patch hidden -> row (patch phase) hidden", phase=bars)
        return self.norm(mixed[:, :time])
