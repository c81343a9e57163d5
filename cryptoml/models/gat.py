"""Graph attention (Velickovic et al. 2018; scoring of Brody et al. 2022 by option) and a learned graph over assets.

Shape legend: node = asset, target = the node that attends (row), source = the node attended to (column).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.layers import GatedSkip
from cryptoml.models.selection import masked_softmax

__all__ = ["GraphAttentionLayer", "GraphAttentionNetwork", "sparsemax"]

_LEAKY_SLOPE = 0.2


def sparsemax(scores: Float[Tensor, "*lead item"], mask: Bool[Tensor, "*lead item"]) -> Float[Tensor, "*lead item"]:
    """Project scores onto the simplex (Martins and Astudillo 2016, alg. 1): exact zeros, the rest sums to 1.

    Masked items weigh exactly 0; a row without any allowed item is all 0. Computed in float32 at least.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    top = scores.masked_fill(~mask, -math.inf).amax(dim=-1, keepdim=True)
    shifted = torch.where(mask, scores - top, -2.0)  # the support never reaches more than 1 below the top
    ordered = shifted.sort(dim=-1, descending=True).values
    cumulated = ordered.cumsum(dim=-1) - 1.0
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    support = (rank * ordered > cumulated).sum(dim=-1, keepdim=True)
    last = (support - 1).clamp(min=0)  # a NaN score has no support; it stays NaN instead of indexing out of range
    threshold = cumulated.gather(-1, last) / support.to(scores.dtype)
    return (shifted - threshold).clamp(min=0.0) * mask.to(scores.dtype)


class GraphAttentionLayer(nn.Module):
    """Multi-head graph attention over a dense mask or an edge list.

    Args:
        in_features: width of the input.
        out_features: width of the output, after concatenation of the heads.
        num_heads: number of heads.
        concat: concatenate the heads (`out_features / num_heads` wide each), else average heads of full width.
        dropout: fraction of input features dropped.
        attention_dropout: fraction of attention weights dropped.
        dynamic: score as GATv2 (Brody et al. 2022, eq. 7), where each target can rank sources in its own order; else
            as GAT (Velickovic et al. 2018, eq. 3).

    Raises:
        ValueError: `out_features` is no multiple of `num_heads` while heads are concatenated.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_heads: int,
        concat: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        *,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        if concat and out_features % num_heads:
            raise ValueError(f"out_features must be a multiple of num_heads, was {out_features} with {num_heads} heads")
        self.in_features, self.num_heads, self.concat = in_features, num_heads, concat
        self.head_size = out_features // num_heads if concat else out_features
        width = num_heads * self.head_size
        self.source = nn.Linear(in_features, width, bias=False)
        self.target = nn.Linear(in_features, width, bias=False) if dynamic else None
        self.score_source = nn.Parameter(torch.empty(num_heads, self.head_size))
        self.score_target = None if dynamic else nn.Parameter(torch.empty(num_heads, self.head_size))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.dropout, self.attention_dropout = nn.Dropout(dropout), nn.Dropout(attention_dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights after Glorot, as the paper's own code does."""
        for weight in (self.source.weight, self.score_source):
            nn.init.xavier_uniform_(weight)
        if self.target is not None:
            nn.init.xavier_uniform_(self.target.weight)
        if self.score_target is not None:
            nn.init.xavier_uniform_(self.score_target)

    def forward(
        self, x: Float[Tensor, "batch node feature"], mask: Tensor | None = None, edge_index: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch node out"], Tensor]:
        """Let every node gather from the nodes that it may attend to.

        Args:
            x: node features.
            mask: boolean `[node, node]` or `[batch, node, node]`, row target, column source; None allows all pairs.
            edge_index: `[2, edge]`, source row then target row, instead of a mask; cost is linear in edges.

        Returns:
            Node outputs (without activation) and attention: `[batch, head, node, node]` for a mask, `[batch, head, edge]`
            for edges. Weights of a target sum to 1; a target without sources gathers nothing.

        Raises:
            ValueError: shapes that do not fit, or both a mask and edges.
        """
        self._check(x, mask, edge_index)
        if edge_index is not None:
            return self._forward_edges(x, edge_index)
        nodes = x.shape[1]
        allowed = torch.ones(1, nodes, nodes, dtype=torch.bool, device=x.device) if mask is None else mask
        source, target = self.project(x)
        attention = masked_softmax(*self._aligned(self.scores(source, target), allowed))
        return self.gather(attention, source), attention

    def project(self, x: Float[Tensor, "batch node feature"]) -> tuple[Tensor, Tensor]:
        """Return source and target projections `[batch, node, head, width]`."""
        dropped = self.dropout(x)
        source = rearrange(self.source(dropped), "batch node (head width) -> batch node head width", head=self.num_heads)
        if self.target is None:
            return source, source
        target = rearrange(self.target(dropped), "batch node (head width) -> batch node head width", head=self.num_heads)
        return source, target

    def scores(
        self, source: Float[Tensor, "batch node head width"], target: Float[Tensor, "batch node head width"]
    ) -> Float[Tensor, "batch head node node2"]:
        """Score every pair, row target, column source."""
        if self.score_target is None:
            pairs = rearrange(source, "b i h w -> b h i 1 w") + rearrange(target, "b j h w -> b h 1 j w")
            return torch.einsum("bhijw,hw->bhij", functional.leaky_relu(pairs.transpose(2, 3), _LEAKY_SLOPE), self.score_source)
        sent = torch.einsum("bnhw,hw->bhn", source, self.score_source)
        received = torch.einsum("bnhw,hw->bhn", target, self.score_target)
        return functional.leaky_relu(received[..., :, None] + sent[..., None, :], _LEAKY_SLOPE)

    def gather(
        self, attention: Float[Tensor, "batch head node node2"], source: Float[Tensor, "batch node head width"]
    ) -> Float[Tensor, "batch node out"]:
        """Sum the sources by attention and merge the heads."""
        return self._merge(torch.einsum("bhij,bjhw->bihw", self.attention_dropout(attention), source))

    def _forward_edges(self, x: Tensor, edge_index: Int[Tensor, "2 edge"]) -> tuple[Tensor, Tensor]:
        source, target = self.project(x)
        senders, receivers = edge_index[0], edge_index[1]
        scores = self._edge_scores(source[:, senders], target[:, receivers])
        index = receivers[None, :, None].expand_as(scores)
        shape = (x.shape[0], x.shape[1], self.num_heads)
        top = scores.new_full(shape, -math.inf).scatter_reduce(1, index, scores.detach(), "amax")
        powers = torch.exp(scores - top.gather(1, index))
        totals = powers.new_zeros(shape).scatter_add(1, index, powers)
        attention = powers / totals.gather(1, index)
        messages = self.attention_dropout(attention)[..., None] * source[:, senders]
        gathered = torch.zeros_like(source).index_add(1, receivers, messages)
        return self._merge(gathered), rearrange(attention, "batch edge head -> batch head edge")

    def _edge_scores(self, source: Tensor, target: Tensor) -> Float[Tensor, "batch edge head"]:
        if self.score_target is None:
            return (functional.leaky_relu(source + target, _LEAKY_SLOPE) * self.score_source).sum(dim=-1)
        return functional.leaky_relu((source * self.score_source + target * self.score_target).sum(dim=-1), _LEAKY_SLOPE)

    def _merge(self, heads: Float[Tensor, "batch node head width"]) -> Float[Tensor, "batch node out"]:
        merged = rearrange(heads, "batch node head width -> batch node (head width)") if self.concat else heads.mean(dim=2)
        return merged + self.bias

    @staticmethod
    def _aligned(scores: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        batched = allowed if allowed.ndim == 3 else allowed[None]
        return scores, batched[:, None].expand_as(scores)

    def _check(self, x: Tensor, mask: Tensor | None, edge_index: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape [batch node feature] with {self.in_features} features, was {list(x.shape)}")
        batch, nodes = x.shape[:2]
        if mask is not None and edge_index is not None:
            raise ValueError("mask and edge_index exclude each other, both were given")
        if mask is not None and tuple(mask.shape) not in {(nodes, nodes), (batch, nodes, nodes), (1, nodes, nodes)}:
            raise ValueError(f"mask must have shape [{nodes}, {nodes}] or [{batch}, {nodes}, {nodes}], was {list(mask.shape)}")
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"mask must be boolean, was {mask.dtype}")
        if edge_index is not None and (edge_index.ndim != 2 or edge_index.shape[0] != 2):
            raise ValueError(f"edge_index must have shape [2, edge], was {list(edge_index.shape)}")


class GraphAttentionNetwork(nn.Module):
    """Let assets attend to each other over a given graph, or over a sparse one learned from the data.

    Each asset has an embedding; pairs of embeddings add a learned score to that of the features, so a follower can find
    its leader whatever their features are. A gated skip connection lets the network ignore a useless graph.

    Args:
        num_assets: number of assets.
        input_features: width of the input.
        hidden_features: width of the output, a multiple of `num_attention_heads`.
        num_attention_heads: number of heads.
        dropout: fraction dropped before the gate and of attention weights.
        dynamic: GATv2 scoring; its cost per pair is `hidden_features`, that of GAT is 1.
    """

    def __init__(
        self,
        num_assets: int,
        input_features: int,
        hidden_features: int,
        num_attention_heads: int = 4,
        *,
        dropout: float = 0.0,
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        self.num_assets, self.input_features = num_assets, input_features
        self.input = nn.Identity() if input_features == hidden_features else nn.Linear(input_features, hidden_features)
        self.asset = nn.Parameter(torch.randn(num_assets, hidden_features) * 0.5)
        self.leader = nn.Linear(hidden_features, hidden_features, bias=False)
        self.follower = nn.Linear(hidden_features, hidden_features, bias=False)
        self.layer = GraphAttentionLayer(
            hidden_features, hidden_features, num_attention_heads, attention_dropout=dropout, dynamic=dynamic
        )
        self.skip = GatedSkip(hidden_features, hidden_features, dropout)

    def forward(
        self,
        features: Float[Tensor, "batch asset feature"],
        adj_matrix: Tensor | None = None,
        present: Bool[Tensor, "batch asset"] | None = None,
    ) -> tuple[Float[Tensor, "batch asset hidden"], Float[Tensor, "batch asset asset2"]]:
        """Mix assets.

        Args:
            features: per asset.
            adj_matrix: `[asset, asset]` or batched, row attends to column where not 0; None learns a sparse graph.
            present: False for absent assets, which influence nothing and attend to nothing.

        Returns:
            Asset states, and the graph: attention averaged over heads, 0 on masked edges, rows of present assets sum to 1.

        Raises:
            ValueError: shapes that do not fit the network.
        """
        allowed = self._allowed(features, adj_matrix, present)
        nodes = self.input(features)
        source, target = self.layer.project(nodes + self.asset)
        scores = self.layer.scores(source, target) + self._pair_scores()
        normalise = sparsemax if adj_matrix is None else masked_softmax
        attention = normalise(scores, allowed[:, None].expand_as(scores))
        gathered = self.layer.gather(attention, source)
        return self.skip(gathered, nodes), attention.mean(dim=1)

    def edge_scores(self, features: Float[Tensor, "batch asset feature"]) -> Float[Tensor, "batch asset asset2"]:
        """Score in (0, 1) of each possible edge, row follower, column leader, before any sparsity."""
        self._allowed(features, None, None)
        source, target = self.layer.project(self.input(features) + self.asset)
        return torch.sigmoid((self.layer.scores(source, target) + self._pair_scores()).mean(dim=1))

    def _pair_scores(self) -> Float[Tensor, "head asset asset2"]:
        heads = self.layer.num_heads
        follower = rearrange(self.follower(self.asset), "asset (head width) -> head asset width", head=heads)
        leader = rearrange(self.leader(self.asset), "asset (head width) -> head width asset", head=heads)
        return follower @ leader

    def _allowed(self, features: Tensor, adj_matrix: Tensor | None, present: Tensor | None) -> Bool[Tensor, "batch asset asset2"]:
        assets, shape = self.num_assets, tuple(features.shape)
        if len(shape) != 3 or shape[1:] != (assets, self.input_features):
            raise ValueError(f"features must have shape [batch, {assets}, {self.input_features}], was {list(shape)}")
        allowed = torch.ones(shape[0], assets, assets, dtype=torch.bool, device=features.device)
        if adj_matrix is not None:
            if tuple(adj_matrix.shape) not in {(assets, assets), (shape[0], assets, assets)}:
                raise ValueError(
                    f"adj_matrix must have shape [{assets}, {assets}] or [{shape[0]}, {assets}, {assets}], "
                    f"was {list(adj_matrix.shape)}"
                )
            allowed = allowed & (adj_matrix != 0)
        if present is not None:
            if tuple(present.shape) != shape[:2]:
                raise ValueError(f"present must have shape {list(shape[:2])}, was {list(present.shape)}")
            allowed = allowed & present[:, None, :] & present[:, :, None]
        return allowed
