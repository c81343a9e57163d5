"""Pair scores and sparse normalisation: values, gradients of any order, and memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cryptoml.models import pairs
from cryptoml.models.gat import GraphAttentionNetwork
from cryptoml.models.pairs import pair_scores, sparsemax


def score_at_once(source: Tensor, target: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("bijhw,hw->bhij", functional.leaky_relu(target[:, :, None] + source[:, None], 0.2), vector)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, targets and vector, in blocks of a few pairs."""
    monkeypatch.setattr(pairs, "_IN_CACHE", 150)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 7, 2, 5), (3, 7, 2, 5), (2, 5)]
    source, target, vector = (torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes)
    return source, target, vector


def test_blocks_equal_the_whole(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    for part in parts:
        part.requires_grad_()
    slopes = []
    for function in (pair_scores, score_at_once):
        scores = function(*parts)
        first = torch.autograd.grad(scores.sin().sum(), parts, create_graph=True)
        second = torch.autograd.grad(sum(slope.square().sum() for slope in first), parts)
        slopes.append([scores, *first, *second])
    for left, right in zip(*slopes, strict=True):
        torch.testing.assert_close(left, right)


def test_blocks_can_be_mapped_and_differentiated_twice(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    source, target, vector = parts
    results = []
    for function in (pair_scores, score_at_once):

        def bent(source: Tensor, target: Tensor, vector: Tensor, function=function) -> Tensor:
            return grad(lambda given: function(given, target, vector).sin().sum())(source).square().sum()

        several = torch.stack([source, 2 * source]), torch.stack([target, -target])
        results.append(vmap(grad(bent, argnums=(0, 1, 2)), in_dims=(0, 0, None))(*several, vector))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, tuple | list) else (made,):
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.untyped_storage().nbytes() // part.element_size())
        return made


def test_memory_of_500_assets_grows_with_pairs_alone() -> None:
    assets, hidden, heads = 500, 64, 4
    network, kept = GraphAttentionNetwork(assets, 8, hidden, heads), {}

    def keep(part: Tensor) -> Tensor:
        kept[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return part

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        network(torch.randn(1, assets, 8))[0].sum().backward()
    assert largest.numbers <= heads * assets**2
    assert sum(kept.values()) < assets**2 * hidden * 4 / 4


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-20, 20, width=32), st.booleans()), min_size=1, max_size=8))
def test_sparsemax_projects_onto_the_simplex(items: list[tuple[float, bool]]) -> None:
    scores, mask = torch.tensor([item[0] for item in items]), torch.tensor([item[1] for item in items])
    weights = sparsemax(scores, mask)
    assert (weights >= 0).all()
    assert not weights[~mask].any()
    assert float(weights.sum()) == pytest.approx(float(mask.any()), abs=1e-5)
    if mask.any():
        support = weights > 0
        assert torch.allclose((scores - weights)[support], (scores - weights)[support][0], atol=1e-4)


def test_sparsemax_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 5, generator=generator, dtype=torch.double, requires_grad=True)
    mask = torch.rand(6, 5, generator=generator) > 0.2
    assert torch.autograd.gradcheck(lambda given: sparsemax(given, mask), scores)
    assert torch.autograd.gradgradcheck(lambda given: sparsemax(given, mask).square(), scores)


def test_sparsemax_keeps_its_sum_in_half_precision() -> None:
    scores = torch.randn(50, 12).bfloat16()
    weights = sparsemax(scores, torch.ones(50, 12, dtype=torch.bool))
    assert torch.allclose(weights.sum(-1), torch.ones(50), atol=1e-5)


def test_sparsemax_hides_no_nan() -> None:
    scores = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.nan, 1.0]])
    weights = sparsemax(scores, torch.tensor([[True, True, True], [True, False, True]]))
    assert weights[0].isnan().all()
    assert weights[1].tolist() == [0.0, 0.0, 1.0]
