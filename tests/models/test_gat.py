"""Graph attention: both paths agree, masks hold, and nodes have no order."""

import warnings

import pytest
import torch
from torch import Tensor

from cryptoml.models.gat import GraphAttentionLayer, GraphAttentionNetwork

scoring = pytest.mark.parametrize("dynamic", [False, True])


def random_graph(nodes: int, seed: int = 0) -> Tensor:
    mask = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) > 0.5
    return mask | torch.eye(nodes, dtype=torch.bool)


@scoring
@pytest.mark.parametrize(("concat", "width"), [(True, 2), (False, 6)])
def test_dense_and_edge_paths_agree(dynamic: bool, concat: bool, width: int) -> None:
    torch.manual_seed(0)
    layer = GraphAttentionLayer(4, 6, 3, concat, dynamic=dynamic)
    assert layer.head_size == width
    x, mask = torch.randn(2, 5, 4), random_graph(5)
    mask[3] = False
    targets, sources = mask.nonzero(as_tuple=True)
    dense, attention = layer(x, mask=mask)
    sparse, edge_attention = layer(x, edge_index=torch.stack([sources, targets]))
    assert dense.shape == (2, 5, 6)
    assert torch.allclose(dense, sparse, atol=1e-6)
    assert torch.allclose(attention[:, :, targets, sources], edge_attention, atol=1e-6)


def test_attention_by_hand() -> None:
    layer = GraphAttentionLayer(1, 1, 1)
    with torch.no_grad():
        for weight, value in ((layer.source.weight, 2.0), (layer.score_source, 0.5), (layer.score_target, -1.0)):
            weight.fill_(value)
    x = torch.tensor([[[1.0], [3.0]]])
    scores = torch.tensor([[-2.0 + 1.0, -2.0 + 3.0], [-6.0 + 1.0, -6.0 + 3.0]])
    expected = torch.where(scores > 0, scores, 0.2 * scores).softmax(-1)
    out, attention = layer(x)
    assert torch.allclose(attention[0, 0], expected)
    assert torch.allclose(out[0, :, 0], expected @ torch.tensor([2.0, 6.0]))


@scoring
def test_masked_edges_weigh_nothing_and_rows_sum_to_one(dynamic: bool) -> None:
    layer, x = GraphAttentionLayer(4, 6, 3, dynamic=dynamic), torch.randn(2, 5, 4)
    masks = torch.stack([random_graph(5, 1), random_graph(5, 2)])
    _, attention = layer(x, mask=masks)
    assert not attention[(~masks)[:, None].expand_as(attention)].any()
    assert torch.allclose(attention.sum(-1), torch.ones(2, 3, 5), atol=1e-6)


@scoring
def test_layer_is_permutation_equivariant(dynamic: bool) -> None:
    layer, x, mask = GraphAttentionLayer(4, 6, 3, dynamic=dynamic), torch.randn(2, 5, 4), random_graph(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    out, attention = layer(x, mask=mask)
    permuted, permuted_attention = layer(x[:, order], mask=mask[order][:, order])
    assert torch.allclose(out[:, order], permuted, atol=1e-6)
    assert torch.allclose(attention[:, :, order][..., order], permuted_attention, atol=1e-6)


def test_static_scoring_ranks_sources_alike_and_dynamic_need_not() -> None:
    """The limit of GAT that Brody et al. 2022 (theorem 1) prove, and GATv2 lifts."""
    torch.manual_seed(0)
    x = torch.randn(1, 12, 4)
    static, dynamic = (GraphAttentionLayer(4, 8, 1, dynamic=flag)(x)[1][0, 0].argmax(-1) for flag in (False, True))
    assert len(static.unique()) == 1
    assert len(dynamic.unique()) > 1


def test_edges_come_in_any_integer_type_and_may_be_none() -> None:
    layer, x, edges = GraphAttentionLayer(4, 6, 3), torch.randn(2, 5, 4), torch.tensor([[0, 1, 4], [1, 2, 4]])
    assert torch.equal(layer(x, edge_index=edges)[0], layer(x, edge_index=edges.int())[0])
    out, attention = layer(x, edge_index=edges[:, :0])
    assert torch.equal(out, layer.bias.expand(2, 5, 6))
    assert attention.shape == (2, 3, 0)


@scoring
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_both_paths_run_in_other_precisions(dynamic: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x, mask = GraphAttentionLayer(4, 6, 3, dynamic=dynamic), torch.randn(2, 5, 4), random_graph(5)
    expected, edges = layer(x, mask=mask)[0], mask.nonzero().T.flip(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = [layer(x, mask=mask), layer(x, edge_index=edges)]
        sum(out.float().sum() for out, _ in halved).backward()
    layer.to(dtype)
    for out, attention in (*halved, layer(x.to(dtype), mask=mask), layer(x.to(dtype), edge_index=edges)):
        assert torch.allclose(out.float(), expected, atol=0.05)
        assert attention.isfinite().all()
    assert torch.allclose(halved[0][1].sum(-1), torch.ones(2, 3, 5), atol=1e-5)


def test_nodes_that_nobody_attends_to_may_hold_nan() -> None:
    layer, x, mask = GraphAttentionLayer(4, 6, 3), torch.randn(2, 5, 4), random_graph(5)
    mask[2] = mask[:, 2] = False
    holed = x.clone()
    holed[:, 2] = torch.nan
    assert torch.equal(layer(x, mask=mask)[0], layer(holed, mask=mask)[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_many_neighbours_are_counted_in_low_precision(dynamic: bool) -> None:
    torch.manual_seed(0)
    layer, x = GraphAttentionLayer(4, 6, 2, dynamic=dynamic).bfloat16(), torch.randn(1, 2000, 4, dtype=torch.bfloat16)
    edges = torch.stack([torch.arange(2000), torch.zeros(2000, dtype=torch.long)])
    mask = torch.zeros(2000, 2000, dtype=torch.bool)
    mask[0] = True
    (out, attention), (expected, _) = layer(x, edge_index=edges), layer(x, mask)
    assert torch.allclose(attention.sum(dim=-1), torch.ones(1, 2), atol=1e-5)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out[:, 0], expected[:, 0], atol=0.02)


def test_edges_cost_no_dense_matrix() -> None:
    nodes = 30_000
    edges = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
    out, attention = GraphAttentionLayer(2, 4, 2)(torch.randn(1, nodes, 2), edge_index=edges)
    assert out.shape == (1, nodes, 4)
    assert torch.allclose(attention, torch.ones(1, 2, nodes))


def test_sparse_features_give_what_dense_ones_do() -> None:
    torch.manual_seed(0)
    layer, x = GraphAttentionLayer(30, 6, 3), torch.randn(2, 5, 30) * (torch.rand(2, 5, 30) > 0.8)
    edges = random_graph(5).nonzero().T.flip(0)
    (dense, _), (sparse, _) = layer(x, edge_index=edges), layer(x.to_sparse(), edge_index=edges)
    assert torch.allclose(dense, sparse, atol=1e-6)
    slopes = [torch.autograd.grad(out.square().sum(), layer.source.weight)[0] for out in (dense, sparse)]
    assert torch.allclose(*slopes, atol=1e-5)


def test_large_bags_of_words_drop_their_entries_alone() -> None:
    torch.manual_seed(0)
    layer, x = GraphAttentionLayer(1100, 6, 3, dropout=0.5), torch.zeros(1, 1000, 1100)
    x[0, :, ::50] = 1.0
    edges = torch.arange(1000).expand(2, 1000)
    outs = []
    for features in (x, x.to_sparse()):
        torch.manual_seed(1)
        outs.append(layer(features, edge_index=edges)[0])
    assert torch.equal(*outs)


@pytest.mark.parametrize("sparse", [False, True])
def test_dropout_keeps_the_mean_and_spares_evaluation(sparse: bool) -> None:
    """Features, projections and normalised attention drop apart; each keeps its expectation."""
    torch.manual_seed(0)
    layer = GraphAttentionLayer(4, 4, 1, dropout=0.3, attention_dropout=0.3)
    with torch.no_grad():
        layer.score_source.zero_()
        layer.score_target.zero_()
    x, edges = torch.rand(1, 3, 4), torch.ones(3, 3).nonzero().T
    given = x.to_sparse() if sparse else x
    mean = torch.stack([layer(given, edge_index=edges)[0] for _ in range(4000)]).mean(0)
    expected = layer.eval()(given, edge_index=edges)[0]
    assert torch.allclose(mean, expected, atol=0.1)
    assert torch.equal(layer(given, edge_index=edges)[0], expected)


def test_layer_names_bad_inputs() -> None:
    layer, x = GraphAttentionLayer(4, 6, 3), torch.randn(2, 5, 4)
    for call, words in (
        (lambda: layer(x[..., :3]), r"x must have shape \[batch node feature\] with 4 features, was \[2, 5, 3\]"),
        (lambda: layer(x, mask=random_graph(4)), r"mask must have shape \[5, 5\] or \[2, 5, 5\], was \[4, 4\]"),
        (lambda: layer(x, mask=random_graph(5).float()), "mask must be boolean"),
        (lambda: layer(x, edge_index=torch.zeros(3, 2, dtype=torch.long)), r"edge_index must have shape \[2, edge\]"),
        (
            lambda: layer(x, edge_index=torch.tensor([[0], [5]])),
            r"edge_index of shape \[2, 1\] must name nodes from 0 to 4, named 0 to 5",
        ),
        (lambda: layer(x, random_graph(5), torch.zeros(2, 1, dtype=torch.long)), "exclude each other"),
        (
            lambda: layer(x, edge_index=torch.zeros(2, 2)),
            r"edge_index must hold int64 or int32 .*, was torch.float32 of shape \[2, 2\]",
        ),
        (lambda: layer(x * torch.nan), r"x of shape \[2, 5, 4\] holds NaN in nodes that others attend to"),
        (lambda: GraphAttentionLayer(4, 7, 3), "out_features must be a multiple of num_heads, was 7 with 3"),
        (lambda: GraphAttentionLayer(4, 6, 0), "num_heads must be at least 1, was 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def make_network(**settings: object) -> GraphAttentionNetwork:
    torch.manual_seed(0)
    return GraphAttentionNetwork(num_assets=4, input_features=5, hidden_features=8, num_attention_heads=2, **settings).eval()


def test_learned_graph_rows_sum_to_one() -> None:
    out, graph = make_network()(torch.randn(3, 4, 5))
    assert out.shape == (3, 4, 8)
    assert graph.shape == (3, 4, 4)
    assert torch.allclose(graph.sum(-1), torch.ones(3, 4), atol=1e-5)


def test_learned_graph_becomes_sparse_where_scores_differ() -> None:
    network = make_network()
    with torch.no_grad():
        network.asset.mul_(50.0)
    _, graph = network(torch.randn(3, 4, 5))
    assert (graph == 0).any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float32, torch.float64])
def test_given_graph_masks_attention(dtype: torch.dtype) -> None:
    adjacency = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1]])
    network, features = make_network(), torch.randn(3, 4, 5)
    outs = []
    for given_graph in (adjacency, adjacency[None], adjacency.expand(3, 4, 4)):
        out, graph = network(features, given_graph.to(dtype))
        assert not graph[:, adjacency == 0].any()
        assert torch.allclose(graph.sum(-1), torch.ones(3, 4), atol=1e-6)
        outs.append(out)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_each_graph_of_a_batch_masks_its_own_entry() -> None:
    network, features = make_network(), torch.randn(3, 4, 5)
    graphs = torch.stack([random_graph(4, seed) for seed in range(3)])
    together = network(features, graphs)[0]
    alone = torch.cat([network(features[index : index + 1], graphs[index])[0] for index in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("form", ["asset", "batch", "feature"])
@pytest.mark.parametrize("adjacency", [None, torch.ones(4, 4)], ids=["learned", "given"])
def test_absent_assets_influence_nothing(form: str, adjacency: Tensor | None) -> None:
    network, features = make_network(), torch.randn(3, 4, 5)
    present = torch.tensor([True, False, True, True])
    mask = {"asset": present, "batch": present.expand(3, 4), "feature": present[:, None].expand(3, 4, 5)}[form]
    changed = features.clone()
    changed[:, 1] = torch.nan
    (left, graph), (right, _) = network(features, adjacency, mask=mask), network(changed, adjacency, mask=mask)
    assert torch.equal(left[:, [0, 2, 3]], right[:, [0, 2, 3]])
    assert not graph[:, :, 1].any()
    assert not graph[:, 1].any()
    assert not network.edge_scores(changed, mask)[:, :, 1].any()


def test_missing_features_of_a_present_asset_count_as_zero() -> None:
    network, features = make_network(), torch.randn(3, 4, 5)
    mask = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    holed = torch.where(mask, features, torch.nan)
    assert torch.equal(network(holed, mask=mask)[0], network(torch.where(mask, features, 0.0))[0])


def test_network_runs_in_other_precisions() -> None:
    network, features = make_network(), torch.randn(3, 4, 5)
    expected, _ = network(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved, graph = network(features)
        halved.float().sum().backward()
    assert torch.allclose(halved.float(), expected, atol=0.1)
    assert torch.allclose(graph.sum(-1), torch.ones(3, 4), atol=1e-5)
    assert torch.allclose(network.double()(features.double())[0].float(), expected, atol=1e-5)
    assert torch.allclose(network.bfloat16()(features.bfloat16())[0].float(), expected, atol=0.2)


def test_edge_scores_are_between_zero_and_one() -> None:
    scores = make_network().edge_scores(torch.randn(3, 4, 5))
    assert scores.shape == (3, 4, 4)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_follower_finds_its_leader() -> None:
    """Asset i copies what asset i - 1 holds: only the graph can tell, and it must name the leader."""
    torch.manual_seed(0)
    network, readout = GraphAttentionNetwork(4, 6, 16, 2), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*network.parameters(), *readout.parameters()], lr=0.02)
    for _ in range(250):
        features = torch.randn(64, 4, 6)
        states, graph = network(features)
        loss = (readout(states)[..., 0] - features[..., 0].roll(1, dims=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2
    assert (graph.mean(0)[range(4), [3, 0, 1, 2]] > 0.45).all()  # one of two heads is enough, the other may look elsewhere


def test_network_names_bad_inputs() -> None:
    network, features = make_network(), torch.randn(3, 4, 5)
    for call, words in (
        (lambda: network(features[:, :3]), r"features must have shape \[batch, 4, 5\], was \[3, 3, 5\]"),
        (lambda: network(features, torch.ones(3, 3)), r"adj_matrix must have shape \[4, 4\] or \[3, 4, 4\], was \[3, 3\]"),
        (lambda: network(features, torch.full((4, 4), torch.nan)), r"adj_matrix of shape \[4, 4\] holds NaN"),
        (
            lambda: network(features, mask=torch.ones(3, 3, dtype=torch.bool)),
            r"mask must be boolean of shape \[4\], \[3, 4\] or \[3, 4, 5\], was torch.bool of shape \[3, 3\]",
        ),
        (lambda: network(features, mask=torch.ones(3, 4)), r"mask must be boolean .*, was torch.float32 of shape \[3, 4\]"),
        (lambda: GraphAttentionNetwork(4, 5, 7, 2), "hidden_features must be a multiple of num_attention_heads, was 7 with 2"),
        (lambda: GraphAttentionNetwork(0, 5, 8, 2), "num_assets must be at least 1, was 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_absent_assets_may_hold_nan_and_present_ones_must_not() -> None:
    torch.manual_seed(0)
    network, features = GraphAttentionNetwork(3, 4, 8, 2).eval(), torch.randn(2, 3, 4)
    present = torch.tensor([[True, False, True]]).expand(2, 3)
    holed = torch.where(present[..., None], features, torch.nan)
    expected, got = network(features, mask=present)[0], network(holed, mask=present)[0]
    assert torch.equal(expected[:, [0, 2]], got[:, [0, 2]])
    with pytest.raises(ValueError, match=r"features of shape \[2, 3, 4\] holds NaN: pass mask"):
        network(holed)
    with pytest.raises(ValueError, match=r"features of shape \[2, 3, 4\] holds NaN"):
        network.edge_scores(holed)
    with pytest.raises(ValueError, match=r"features of shape \[2, 3, 4\] holds NaN where mask of shape \[3\] says present"):
        network(holed, mask=torch.tensor([False, True, True]))


@pytest.mark.slow
@scoring
def test_compiled_equals_eager(dynamic: bool) -> None:
    layer, x, mask = GraphAttentionLayer(4, 6, 3, dynamic=dynamic), torch.randn(2, 5, 4), random_graph(5)
    network, edges = make_network(dynamic=dynamic), mask.nonzero().T.flip(0)
    for call in (lambda: layer(x, mask=mask), lambda: layer(x, edge_index=edges), lambda: network(torch.ones(3, 4, 5))):
        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            compiled = torch.compile(call, fullgraph=True)()
        assert torch.allclose(compiled[0], call()[0], atol=1e-5)
