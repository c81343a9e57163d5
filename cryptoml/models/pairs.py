"""Scores of all pairs of nodes and their sparse normalisation, in memory that grows with pairs but not with their width.

Shape legend: target = the node that attends (row), source = the node attended to (column).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

__all__ = ["LEAKY_SLOPE", "pair_scores", "sparsemax"]

LEAKY_SLOPE = 0.2
"""Of the leaky ReLU in every score (Velickovic et al. 2018, section 2.1)."""

_IN_CACHE, _ON_DEVICE = 1 << 19, 1 << 26
"""Numbers of one block of pairs: as many as a processor's cache holds, or as keep an accelerator busy."""


def pair_scores(
    source: Float[Tensor, "batch node head width"],
    target: Float[Tensor, "batch node head width"],
    vector: Float[Tensor, "head width"],
) -> Float[Tensor, "batch head node node2"]:
    """Score every pair as GATv2 does, `vector . leaky_relu(target + source)` (Brody et al. 2022, eq. 7).

    Pairs are taken block by block, and once more for the gradient, so that `batch * node * node * head * width` numbers are
    never held at once; a compiler fuses the same formula instead.
    """
    sources, targets = (rearrange(part, "batch node head width -> head batch node width") for part in (source, target))
    if torch.compiler.is_compiling():
        pairs = targets[:, :, :, None] + sources[:, :, None]
        scores = (functional.leaky_relu(pairs, LEAKY_SLOPE) * vector[:, None, None, None]).sum(dim=-1)
    else:
        batches = _fitting(sources[:, :1], source.shape[1])
        parts = zip(sources.split(batches, dim=1), targets.split(batches, dim=1), strict=True)
        scores = torch.cat([_PairScores.apply(*part, vector.to(source.dtype)) for part in parts], dim=1)
    return rearrange(scores, "head batch node node2 -> batch head node node2")


class _PairScores(torch.autograd.Function):
    """Scores `[head batch target source]` of `[head batch node width]`; differentiable repeatedly, and under torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(sources: Tensor, targets: Tensor, vector: Tensor) -> Tensor:
        weights = vector[:, None, None, :, None]
        blocks = [functional.leaky_relu(pairs, LEAKY_SLOPE) @ weights for pairs in _blocks(sources, targets)]
        return torch.cat(blocks, dim=2).squeeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sources, targets, vector = ctx.saved_tensors
        by_source, by_target = torch.zeros_like(sources), []
        for pairs, slope in zip(_blocks(sources, targets), slopes.split(_fitting(sources), dim=2), strict=True):
            bent = torch.ops.aten.leaky_relu_backward(slope[..., None].expand_as(pairs), pairs, LEAKY_SLOPE, False)
            by_source = by_source + bent.sum(dim=2)
            by_target.append(bent.sum(dim=3))
        joined, weights = torch.cat(by_target, dim=2), vector[:, None, None]
        # The activation of a pair is its slope times the pair, a sum of target and source, so both sums serve the vector too.
        by_vector = (by_source * sources + joined * targets).sum(dim=(1, 2))
        return by_source * weights, joined * weights, by_vector


def _fitting(part: Tensor, times: int = 1) -> int:
    """How many tensors of `times` the size of `part` make one block, one at least."""
    return max(1, (_IN_CACHE if part.device.type == "cpu" else _ON_DEVICE) // max(1, times * part.numel()))


def _blocks(
    sources: Float[Tensor, "head batch node width"], targets: Float[Tensor, "head batch node width"]
) -> Iterator[Float[Tensor, "head batch row node width"]]:
    """Sums of some targets with all sources, block after block."""
    for rows in targets.split(_fitting(sources), dim=2):
        yield rows[:, :, :, None] + sources[:, :, None]


def sparsemax(scores: Float[Tensor, "*lead item"], mask: Bool[Tensor, "*lead item"]) -> Float[Tensor, "*lead item"]:
    """Project scores onto the simplex (Martins and Astudillo 2016, alg. 1): exact zeros, the rest sums to 1.

    Masked items weigh exactly 0; a row without any allowed item is all 0; a NaN makes its row NaN. Computed in float32 at
    least. The gradient needs no more than which items have weight, so the sorted scores are not kept.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    highest = scores.detach().masked_fill(~mask, -math.inf).argmax(dim=-1, keepdim=True)
    top = scores.gather(-1, highest)  # with a gradient, which takes up the rounding that keeps slopes of a row from summing to 0
    shifted = torch.where(mask, scores - top, -2.0)  # the support never reaches more than 1 below the top
    support = ~(shifted <= _threshold(shifted.detach())) & mask
    total = shifted.masked_fill(~support, 0.0).sum(dim=-1, keepdim=True)
    threshold = (total - 1.0) / support.sum(dim=-1, keepdim=True).clamp(min=1)
    return (shifted - threshold).masked_fill(~support, 0.0).relu()


def _threshold(scores: Float[Tensor, "*lead item"]) -> Float[Tensor, "*lead 1"]:
    """What is to be taken off all scores so that the positive ones sum to 1; NaN where a score is."""
    ordered = scores.sort(dim=-1, descending=True).values
    cumulated = ordered.cumsum(dim=-1) - 1.0
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    support = (rank * ordered > cumulated).sum(dim=-1, keepdim=True)
    return cumulated.gather(-1, (support - 1).clamp(min=0)) / support.to(scores.dtype)
