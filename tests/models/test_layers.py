"""Properties of the building blocks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.models.attention import InterpretableAttention
from cryptoml.models.layers import GatedResidualNetwork, QuantileHead
from cryptoml.models.linear import DecomposedLinearEncoder
from cryptoml.models.multitask import MultiTaskLearningHead
from cryptoml.models.selection import VariableSelection, masked_softmax
from cryptoml.models.tcn import dilations


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=7, unique=True).map(sorted), st.integers(0, 1000))
def test_quantiles_never_cross(levels: list[float], seed: int) -> None:
    torch.manual_seed(seed)
    quantiles = QuantileHead(4, 2, levels)(torch.randn(3, 4) * 100)
    assert quantiles.shape == (3, 2, len(levels))
    assert (quantiles.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("levels", [(), (0.5, 0.1), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_bad_quantile_levels_are_named(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="quantiles must increase strictly"):
        QuantileHead(4, 1, levels)


def test_masked_softmax_renormalises_over_what_is_present() -> None:
    scores, mask = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), torch.tensor([[True, True, False], [False] * 3])
    weights = masked_softmax(scores, mask)
    assert weights[0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0.0])
    assert weights[1].tolist() == [0.0, 0.0, 0.0]


def test_selection_equals_a_loop_over_variables() -> None:
    torch.manual_seed(0)
    selection = VariableSelection(3, 8, variable_size=4).eval()
    x, mask = torch.randn(2, 5, 3), torch.ones(2, 5, 3, dtype=torch.bool)
    combined, weights = selection(x, mask)
    looped = weights @ selection.output_bias
    for index in range(3):
        own = x[..., index, None]
        inner = torch.nn.functional.elu(own * selection.inner[index] + selection.inner_bias[index])
        gated = torch.nn.functional.glu(inner @ selection.gate[index] + selection.gate_bias[index])
        skipped = own * selection.embedding[index] + selection.embedding_bias[index] + gated
        processed = torch.nn.functional.layer_norm(skipped, (4,))
        looped = looped + weights[..., index, None] * (processed @ selection.output.view(3, 4, 8)[index])
    assert torch.allclose(combined, looped, atol=1e-5)


def attend_naively(attention: InterpretableAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every bar against every bar, head by head."""
    time, bars, width = x.shape[1], torch.arange(x.shape[1]), 4
    band = (bars <= bars[:, None]) & (bars > bars[:, None] - attention.lookback)
    weights = torch.zeros(len(x), time, time)
    for query, key in zip(attention.query(x).split(width, -1), attention.key(x).split(width, -1), strict=True):
        scores = (query @ key.transpose(1, 2) / width**0.5).masked_fill(~band, -torch.inf)
        weights += scores.softmax(-1) / attention.num_heads
    return attention.output(weights @ attention.value(x)), weights


@pytest.mark.parametrize(("time", "lookback"), [(1, 3), (3, 3), (6, 3), (7, 3), (5, 8), (20, 1), (20, 7)])
def test_attention_equals_the_naive_one(time: int, lookback: int) -> None:
    torch.manual_seed(0)
    attention, x = InterpretableAttention(8, 2, lookback), torch.randn(2, time, 8)
    expected, weights = attend_naively(attention, x)
    assert torch.allclose(attention(x), expected, atol=1e-6)
    last, last_weights = attention.last(x)
    assert torch.allclose(last, expected[:, -1:], atol=1e-6)
    assert torch.allclose(last_weights, weights[:, -1:], atol=1e-6)
    assert torch.allclose(last_weights.sum(-1), torch.ones(2, 1), atol=1e-6)


def forecast_naively(attention: InterpretableAttention, past: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """One horizon after the other, head by head; every horizon sees the past in reach, itself and those before it."""
    attended = []
    for horizon in range(future.shape[1]):
        seen = torch.cat([past[:, -attention.lookback :], future[:, : horizon + 1]], dim=1)
        queries, keys = attention.query(future[:, horizon : horizon + 1]).split(4, -1), attention.key(seen).split(4, -1)
        heads = [(query @ key.transpose(1, 2) / 4**0.5).softmax(-1) for query, key in zip(queries, keys, strict=True)]
        attended.append(attention.output(torch.stack(heads).mean(0) @ attention.value(seen)))
    return torch.cat(attended, dim=1)


@pytest.mark.parametrize(("time", "lookback"), [(1, 3), (3, 3), (7, 3), (5, 8), (20, 7), (80, 9)])
def test_attention_of_bars_to_come_equals_the_naive_one(time: int, lookback: int) -> None:
    torch.manual_seed(0)
    attention, past, future = InterpretableAttention(8, 2, lookback), torch.randn(2, time, 8), torch.randn(2, time, 3, 8)
    everywhere = attention.forecast_all(past, future)
    half = attention.forecast_all(past, future[:, time // 2 :])
    assert torch.allclose(half, everywhere[:, time // 2 :], atol=1e-6)
    for bar in range(time):
        expected = forecast_naively(attention, past[:, : bar + 1], future[:, bar])
        last, weights = attention.forecast_last(past[:, : bar + 1], future[:, bar])
        assert torch.allclose(everywhere[:, bar], expected, atol=1e-6)
        assert torch.allclose(last, expected, atol=1e-6)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3), atol=1e-6)
        assert not weights[..., : max(0, bar + 1 - lookback)].any()


def test_a_closed_gate_leaves_the_skip() -> None:
    network = GatedResidualNetwork(4, 4, 4)
    with torch.no_grad():
        network.output.gate.linear.bias[4:] = -1e4
    x = torch.randn(3, 4)
    assert torch.allclose(network(x), torch.nn.functional.layer_norm(x, (4,)), atol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(2, 5))
def test_convolutions_stay_within_lookback(lookback: int, kernel_size: int) -> None:
    steps = dilations(lookback, min(kernel_size, lookback))
    assert 1 + (min(kernel_size, lookback) - 1) * sum(steps) <= lookback


def test_linear_filters_decompose_into_trend_and_remainder() -> None:
    encoder = DecomposedLinearEncoder(2, 3, lookback=9, trend_bars=4)
    with torch.no_grad():
        encoder.trend.copy_(torch.randn(3, 6))
        encoder.remainder.copy_(torch.randn(3, 9))
        encoder.remainder[:, 6:] = 0.0
    x = torch.randn(1, 30, 3)
    average = x.unfold(1, 4, 1).mean(-1)
    expected = sum(
        encoder.trend[:, lag] * average[:, 26 - lag] + encoder.remainder[:, lag] * (x[:, 29 - lag] - average[:, 26 - lag])
        for lag in range(6)
    )
    assert torch.allclose(encoder.temporal(x, last_only=True)[:, 0], expected, atol=1e-5)


def test_task_heads_over_any_leading_axes() -> None:
    head = MultiTaskLearningHead(shared_size=6, hidden_size=4)
    flat, deep = head(torch.randn(5, 6)), head(torch.randn(2, 3, 4, 6) * 100)
    widths = {"price_direction": 3, "volatility": 1, "market_regime": 4, "position_size": 1}
    assert {name: tuple(out.shape) for name, out in flat.items()} == {name: (5, width) for name, width in widths.items()}
    assert {name: tuple(out.shape) for name, out in deep.items()} == {name: (2, 3, 4, width) for name, width in widths.items()}
    assert (deep["volatility"] > 0).all()
    assert ((deep["position_size"] >= 0) & (deep["position_size"] <= 1)).all()
    with pytest.raises(ValueError, match="shared must end in an axis of 6"):
        head(torch.randn(5, 7))
    with pytest.raises(ValueError, match="hidden_size must be at least 1, was 0"):
        MultiTaskLearningHead(shared_size=6, hidden_size=0)
