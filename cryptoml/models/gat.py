"""Graph attention (Velickovic et al. 2018; scoring of Brody et al. 2022 by option) and a learned graph over assets.

Shape legend: node = asset, target = the node that attends (row), source = the node attended to (column).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.inputs import at_least_one, holds_nan, known
from cryptoml.models.layers import GatedSkip
from cryptoml.models.pairs import LEAKY_SLOPE, pair_scores, sparsemax
from cryptoml.models.selection import masked_softmax

__all__ = ["GraphAttentionLayer", "GraphAttentionNetwork"]

_LARGE = 1 << 20


class GraphAttentionLayer(nn.Module):
    """Multi-head graph attention over a dense mask or an edge list.

    Complete as in the paper and its code, except for what surrounds a layer: the caller applies the activation (ELU
    between layers) and adds self-loops to the graph where a node should see itself.

    Args:
        in_features: width of the input.
        out_features: width of the output, after concatenation of the heads.
        num_heads: number of heads.
        concat: concatenate the heads (`out_features / num_heads` wide each), else average heads of full width.
        dropout: fraction dropped of input features and of the projected features that are gathered, as in the paper's code.
        attention_dropout: fraction of normalised attention weights dropped.
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
        at_least_one(in_features=in_features, out_features=out_features, num_heads=num_heads)
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
        """Draw all weights after Glorot and Bengio 2010, head by head, and set the bias to 0."""
        for projection in (self.source, self.target):
            if projection is not None:
                _glorot(projection.weight, self.in_features + self.head_size)
        for vector in (self.score_source, self.score_target):
            if vector is not None:
                _glorot(vector, self.head_size + 1)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "batch node feature"], mask: Tensor | None = None, edge_index: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch node out"], Tensor]:
        """Let every node gather from the nodes that it may attend to.

        Args:
            x: node features; a sparse COO tensor costs as much as its entries, for bags of words and the like. NaN only in
                nodes that `mask` lets nobody attend to, where it counts as 0.
            mask: boolean `[node, node]` or `[batch, node, node]`: `mask[i, j]` lets target i attend to source j; None
                allows all pairs.
            edge_index: `[2, edge]`, source row then target row, each edge once, instead of a mask; cost is linear in edges.

        Returns:
            Node outputs (without activation) and attention: `[batch, head, node, node]` for a mask, `[batch, head, edge]`
            for edges. Weights of a target sum to 1; a target without sources gathers nothing.

        Raises:
            ValueError: shapes that do not fit, both a mask and edges, or NaN in nodes that are attended to.
        """
        self._check(x, mask, edge_index)
        x = _attended(x, mask)
        if edge_index is not None:
            return self._forward_edges(x, edge_index.long())
        nodes = x.shape[1]
        allowed = torch.ones(1, nodes, nodes, dtype=torch.bool, device=x.device) if mask is None else mask
        source, target = self.project(x)
        attention = masked_softmax(*self._aligned(self.scores(source, target), allowed))
        return self.gather(attention, source), attention

    def project(self, x: Float[Tensor, "batch node feature"]) -> tuple[Tensor, Tensor]:
        """Return source and target projections `[batch, node, head, width]`."""
        if self.training and self.dropout.p > 0 and _mostly_zero(x):
            x = x.to_sparse()
        dropped = _dropped_entries(x, self.dropout) if x.is_sparse else self.dropout(x)
        source = self._heads(self.source, dropped)
        return source, source if self.target is None else self._heads(self.target, dropped)

    def scores(
        self, source: Float[Tensor, "batch node head width"], target: Float[Tensor, "batch node head width"]
    ) -> Float[Tensor, "batch head node node2"]:
        """Score every pair, row target, column source."""
        if self.score_target is None:
            return pair_scores(source, target, self.score_source)
        sent = torch.einsum("bnhw,hw->bhn", source, self.score_source)
        received = torch.einsum("bnhw,hw->bhn", target, self.score_target)
        return functional.leaky_relu(received[..., :, None] + sent[..., None, :], LEAKY_SLOPE)

    def gather(
        self, attention: Float[Tensor, "batch head node node2"], source: Float[Tensor, "batch node head width"]
    ) -> Float[Tensor, "batch node out"]:
        """Sum the sources by attention and merge the heads."""
        kept = self.attention_dropout(attention).to(source.dtype)
        return self._merge(torch.einsum("bhij,bjhw->bihw", kept, self.dropout(source)))

    def _heads(self, projection: nn.Linear, x: Tensor) -> Float[Tensor, "batch node head width"]:
        projected = _sparse_product(x, projection.weight) if x.is_sparse else projection(x)
        return rearrange(projected, "batch node (head width) -> batch node head width", head=self.num_heads)

    def _forward_edges(self, x: Tensor, edge_index: Int[Tensor, "2 edge"]) -> tuple[Tensor, Tensor]:
        source, target = self.project(x)
        senders, receivers = edge_index[0], edge_index[1]
        scores = self._edge_scores(source, target, senders, receivers)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # else rounding adds up over many sources
        shape = (x.shape[0], x.shape[1], self.num_heads)
        index = receivers[None, :, None].expand_as(scores)
        top = scores.new_full(shape, -math.inf).scatter_reduce(1, index, scores.detach(), "amax")
        powers = torch.exp(scores - top.index_select(1, receivers))
        totals = powers.new_zeros(shape).index_add(1, receivers, powers)
        attention = powers / totals.index_select(1, receivers)
        messages = self.attention_dropout(attention)[..., None] * self.dropout(source).index_select(1, senders)
        gathered = torch.zeros_like(source, dtype=messages.dtype).index_add(1, receivers, messages)
        return self._merge(gathered.to(source.dtype)), rearrange(attention, "batch edge head -> batch head edge")

    def _edge_scores(
        self, source: Tensor, target: Tensor, senders: Tensor, receivers: Tensor
    ) -> Float[Tensor, "batch edge head"]:
        if self.score_target is None:
            pairs = source.index_select(1, senders) + target.index_select(1, receivers)
            return (functional.leaky_relu(pairs, LEAKY_SLOPE) * self.score_source).sum(dim=-1)
        sent = (source * self.score_source).sum(dim=-1).index_select(1, senders)
        received = (target * self.score_target).sum(dim=-1).index_select(1, receivers)
        return functional.leaky_relu(sent + received, LEAKY_SLOPE)

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
            raise ValueError(f"mask must be boolean, was {mask.dtype} of shape {list(mask.shape)}")
        if edge_index is not None:
            _check_edges(edge_index, nodes)


def _check_edges(edge_index: Tensor, nodes: int) -> None:
    shape = list(edge_index.shape)
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"edge_index must have shape [2, edge], was {shape}")
    if edge_index.dtype not in {torch.int32, torch.int64}:
        raise ValueError(f"edge_index must hold int64 or int32 numbers of nodes, was {edge_index.dtype} of shape {shape}")
    if edge_index.numel() and known((edge_index.min() >= 0) & (edge_index.max() < nodes)) is False:
        named = f"{int(edge_index.min())} to {int(edge_index.max())}"
        raise ValueError(f"edge_index of shape {shape} must name nodes from 0 to {nodes - 1}, named {named}")


def _attended(x: Float[Tensor, "batch node feature"], mask: Tensor | None) -> Float[Tensor, "batch node feature"]:
    """Set NaN to 0 in nodes that nobody may attend to, for 0 times NaN is NaN; refuse it elsewhere."""
    if mask is not None and not x.is_sparse:
        x = torch.where(mask.any(dim=-2)[..., None] | ~x.isnan(), x, 0.0)
    if holds_nan(x):
        raise ValueError(f"x of shape {list(x.shape)} holds NaN in nodes that others attend to, expected numbers")
    return x


def _glorot(weight: Tensor, fans: int) -> None:
    bound = math.sqrt(6.0 / fans)
    nn.init.uniform_(weight, -bound, bound)


def _mostly_zero(x: Tensor) -> bool:
    """Whether a large constant input is nearly all 0, as bags of words are: dropping its entries alone is then far cheaper."""
    if x.is_sparse or x.requires_grad or x.numel() < _LARGE:
        return False
    return known(torch.count_nonzero(x) * 10 < x.numel()) is True


def _dropped_entries(x: Tensor, dropout: nn.Dropout) -> Tensor:
    """Drop entries of a sparse tensor; what is 0 stays 0 either way."""
    x = x.coalesce()
    return torch.sparse_coo_tensor(x.indices(), dropout(x.values()), x.shape, is_coalesced=True, check_invariants=False)


def _sparse_product(x: Float[Tensor, "batch node feature"], weight: Float[Tensor, "out feature"]) -> Tensor:
    """Multiply a sparse tensor by a dense matrix as `nn.Linear` does."""
    batch, nodes, features = x.shape
    index = x.indices()
    rows = torch.stack([index[0] * nodes + index[1], index[2]])
    flat = torch.sparse_coo_tensor(rows, x.values(), (batch * nodes, features), is_coalesced=True, check_invariants=False)
    return torch.sparse.mm(flat, weight.t()).unflatten(0, (batch, nodes))


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
        dynamic: GATv2 scoring; its cost per pair is `hidden_features`, that of GAT is 1. Memory per pair is 1 in both.

    Raises:
        ValueError: a size below 1, or `hidden_features` is no multiple of `num_attention_heads`.
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
        at_least_one(
            num_assets=num_assets,
            input_features=input_features,
            hidden_features=hidden_features,
            num_attention_heads=num_attention_heads,
        )
        if hidden_features % num_attention_heads:
            raise ValueError(
                f"hidden_features must be a multiple of num_attention_heads, was {hidden_features} with "
                f"{num_attention_heads} heads"
            )
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
        mask: Bool[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "batch asset hidden"], Float[Tensor, "batch asset asset2"]]:
        """Mix assets.

        Args:
            features: per asset; NaN only where `mask` is False.
            adj_matrix: `[asset, asset]` or `[batch, asset, asset]` of any type, row attends to column where not 0; None
                learns a sparse graph.
            mask: True where present: boolean by asset, `[asset]` or `[batch, asset]`, or by feature, `[batch, asset,
                feature]`, where an asset without any feature is absent. Absent assets influence nothing and attend to nothing.

        Returns:
            Asset states, and the graph: attention averaged over heads, 0 on masked edges, rows of present assets that may
            attend to any sum to 1.

        Raises:
            ValueError: shapes that do not fit the network, or NaN that `mask` does not cover.
        """
        values, present = self._present(features, mask)
        allowed = self._allowed(present, adj_matrix)
        nodes = self.input(values)
        source, target = self.layer.project(nodes + self.asset)
        scores = self.layer.scores(source, target) + self._pair_scores()
        normalise = sparsemax if adj_matrix is None else masked_softmax
        attention = normalise(scores, allowed[:, None].expand_as(scores))
        gathered = self.layer.gather(attention, source)
        return self.skip(gathered, nodes), attention.mean(dim=1)

    def edge_scores(
        self, features: Float[Tensor, "batch asset feature"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch asset asset2"]:
        """Score in (0, 1) of each possible edge, row follower, column leader, before any sparsity; 0 for absent assets."""
        values, present = self._present(features, mask)
        source, target = self.layer.project(self.input(values) + self.asset)
        scores = torch.sigmoid((self.layer.scores(source, target) + self._pair_scores()).mean(dim=1))
        return scores.masked_fill(~self._allowed(present, None), 0.0)

    def _pair_scores(self) -> Float[Tensor, "head asset asset2"]:
        heads = self.layer.num_heads
        follower = rearrange(self.follower(self.asset), "asset (head width) -> head asset width", head=heads)
        leader = rearrange(self.leader(self.asset), "asset (head width) -> head width asset", head=heads)
        return follower @ leader

    def _present(
        self, features: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch asset feature"], Bool[Tensor, "batch asset"]]:
        """Check features and mask; return features without NaN, and which assets are present."""
        assets, shape = self.num_assets, tuple(features.shape)
        if len(shape) != 3 or shape[1:] != (assets, self.input_features):
            raise ValueError(f"features must have shape [batch, {assets}, {self.input_features}], was {list(shape)}")
        if mask is None:
            if holds_nan(features):
                raise ValueError(f"features of shape {list(shape)} holds NaN: pass mask, False where an asset is absent")
            return features, torch.ones(shape[:2], dtype=torch.bool, device=features.device)
        if mask.dtype != torch.bool or tuple(mask.shape) not in {(assets,), shape[:2], shape}:
            forms = f"[{assets}], {list(shape[:2])} or {list(shape)}"
            raise ValueError(f"mask must be boolean of shape {forms}, was {mask.dtype} of shape {list(mask.shape)}")
        present = mask.any(dim=-1) if mask.ndim == 3 else mask.expand(shape[:2])
        kept = mask if mask.ndim == 3 else present[..., None] | ~features.isnan()
        values = torch.where(kept, features, 0.0)
        if holds_nan(values):
            raise ValueError(f"features of shape {list(shape)} holds NaN where mask of shape {list(mask.shape)} says present")
        return values, present

    def _allowed(self, present: Bool[Tensor, "batch asset"], adj_matrix: Tensor | None) -> Bool[Tensor, "batch asset asset2"]:
        """Which pairs may attend: both present, and joined by the given graph, if any."""
        pairs = present[:, None, :] & present[:, :, None]
        if adj_matrix is None:
            return pairs
        batch, assets = present.shape
        if tuple(adj_matrix.shape) not in {(assets, assets), (batch, assets, assets), (1, assets, assets)}:
            raise ValueError(
                f"adj_matrix must have shape [{assets}, {assets}] or [{batch}, {assets}, {assets}], was {list(adj_matrix.shape)}"
            )
        if holds_nan(adj_matrix):
            raise ValueError(f"adj_matrix of shape {list(adj_matrix.shape)} holds NaN, expected 0 where there is no edge")
        return pairs & (adj_matrix != 0)
