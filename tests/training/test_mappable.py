"""Every kind of layer keeps its values and gets its true meta-gradient when it is mapped."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import mse_loss

from cryptoml.models.attention import InterpretableAttention
from cryptoml.models.gat import GraphAttentionLayer, GraphAttentionNetwork
from cryptoml.models.recurrent import RecurrentStack
from cryptoml.models.selection import VariableSelection
from cryptoml.training.maml import MetaLearningMAML
from cryptoml.training.mappable import PlainOperations, mappable

WIDTH, BARS = 8, 5


def first(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)[0]


def channels(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.transpose(1, 2)).transpose(1, 2)


def attend(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, x, x)[0]


def each_bar(cell: nn.Module, x: Tensor) -> Tensor:
    state, outputs = None, []
    for bar in x.unbind(1):
        state = cell(bar, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, dim=1)


def select(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, torch.ones_like(x, dtype=torch.bool))[0]


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "layer norm": (lambda: nn.LayerNorm(WIDTH), nn.Module.__call__),
    "layer norm of two axes": (lambda: nn.LayerNorm((BARS, WIDTH)), nn.Module.__call__),
    "rms norm": (lambda: nn.RMSNorm(WIDTH), nn.Module.__call__),
    "group norm": (lambda: nn.GroupNorm(2, WIDTH), channels),
    "batch norm": (lambda: nn.BatchNorm1d(WIDTH), channels),
    "instance norm": (lambda: nn.InstanceNorm1d(WIDTH, affine=True, track_running_stats=True), channels),
    "lstm": (lambda: nn.LSTM(WIDTH, WIDTH, 2, batch_first=True), first),
    "projected lstm without biases": (lambda: nn.LSTM(WIDTH, 9, bias=False, proj_size=WIDTH, batch_first=True), first),
    "gru both ways": (lambda: nn.GRU(WIDTH, WIDTH // 2, 2, batch_first=True, bidirectional=True), first),
    "rnn": (lambda: nn.RNN(WIDTH, WIDTH, nonlinearity="relu"), first),
    "lstm cell": (lambda: nn.LSTMCell(WIDTH, WIDTH), each_bar),
    "gru cell": (lambda: nn.GRUCell(WIDTH, WIDTH), each_bar),
    "attention": (lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), attend),
    "transformer": (lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True), nn.Module.__call__),
    "convolution": (lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=2, dilation=2, groups=2), channels),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)), nn.Module.__call__),
    "our recurrence": (lambda: RecurrentStack(WIDTH, 2), lambda layer, x: layer.at_every_bar(x)[1][1][-1]),
    "our attention": (lambda: InterpretableAttention(WIDTH, 2, 3), nn.Module.__call__),
    "our selection": (lambda: VariableSelection(WIDTH, WIDTH, variable_size=4), select),
    "our graph": (lambda: GraphAttentionNetwork(BARS, WIDTH, WIDTH, 2), first),
    "our graph over edges": (
        lambda: GraphAttentionLayer(WIDTH, WIDTH, 2, dynamic=True),
        lambda layer, x: layer(x, edge_index=torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 4]]))[0],
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
plainly_right = pytest.mark.parametrize("name", [name for name in LAYERS if name != "weight norm"])
"""Layers whose second derivative plain autograd knows."""


class Wrapped(nn.Module):
    """One layer between two linear ones."""

    def __init__(self, name: str) -> None:
        super().__init__()
        make, self.call = LAYERS[name]
        self.before, self.layer, self.after = nn.Linear(3, WIDTH), make(), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.call(self.layer, self.before(x)))


def wrapped(name: str, training: bool) -> nn.Module:
    torch.manual_seed(0)
    return Wrapped(name).double().train(training)


def examples() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 4, BARS, 3), (3, 4, BARS, 1)] * 2
    x, y, query_x, query_y = (torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes)
    return x, y, query_x, query_y


def written_out(base: nn.Module, steps: int, rate: float) -> Tensor:
    """Query loss after gradient descent by plain autograd, task by task."""
    losses = []
    start = dict(base.named_parameters())
    for x, y, query_x, query_y in zip(*examples(), strict=True):
        weights = start
        for _ in range(steps):
            loss = mse_loss(functional_call(base, weights, (x,)), y)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
            weights = {name: value - rate * slope for (name, value), slope in zip(weights.items(), slopes, strict=True)}
        losses.append(mse_loss(functional_call(base, weights, (query_x,)), query_y))
    return torch.stack(losses).mean()


@every_layer
def test_meta_gradient_equals_finite_differences(name: str):
    learner = MetaLearningMAML(wrapped(name, training=True), 0.1, 2)
    learner.meta_loss(*examples(), mse_loss).backward()
    weights = list(learner.parameters())
    ways = [torch.randn_like(weight) for weight in weights]
    slope = sum((weight.grad * way).sum() for weight, way in zip(weights, ways, strict=True) if weight.grad is not None)
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight += step * way
        losses.append(learner.meta_loss(*examples(), mse_loss))
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-6, slope, rtol=1e-5, atol=1e-7)


@plainly_right
@pytest.mark.parametrize("training", [True, False])
def test_meta_gradient_equals_the_one_written_out(name: str, training: bool):
    base = wrapped(name, training)
    learner = MetaLearningMAML(copy.deepcopy(base), 0.1, 2).train(training)
    learner.meta_loss(*examples(), mse_loss).backward()
    assert learner.batching == "vmap"
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        written_out(base, 2, 0.1).backward()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    for (name, left), right in zip(learner.base_model.named_parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(torch.zeros_like(left) if left.grad is None else left.grad, right.grad, msg=name)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_values_stay_and_nothing_is_left_switched(name: str, training: bool):
    base, x = wrapped(name, training), examples()[0][0]
    state = copy.deepcopy(base.state_dict())
    with mappable(base):
        plain = base(x)
    assert all(torch.equal(values, state[name]) for name, values in base.state_dict().items())
    torch.testing.assert_close(plain, base(x))
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(layer.track_running_stats for layer in base.modules() if isinstance(layer, nn.BatchNorm1d))


@every_layer
def test_gradients_of_single_samples_are_those_of_a_loop(name: str):
    base, x = wrapped(name, training=False), examples()[0][0]
    weights = {name: value.detach() for name, value in base.named_parameters()}

    def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(base, weights, (one[None],)).sin().sum()

    with mappable(base):
        mapped = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for index, one in enumerate(x):
        base.zero_grad()
        base(one[None]).sin().sum().backward()
        for name, value in base.named_parameters():
            expected = torch.zeros_like(value) if value.grad is None else value.grad
            torch.testing.assert_close(mapped[name][index], expected, msg=name)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_return_the_same_states(kind: type[nn.RNNBase], batch_first: bool):
    torch.manual_seed(0)
    layer, x = kind(3, 4, 3, batch_first=batch_first, bidirectional=True), torch.randn(2, 5, 3)
    expected = layer(x)
    with PlainOperations():
        plain = layer(x)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-6)
    with PlainOperations():
        again = layer(x, expected[1])
    torch.testing.assert_close(again, layer(x, expected[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_weight_norm_has_its_true_second_derivative(dim: int | None):
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2).double(), dim=dim)
    parts = [part.detach().requires_grad_() for part in layer.parametrizations.weight.parameters()]
    norm = layer.parametrizations.weight[0]
    with PlainOperations():
        torch.testing.assert_close(norm(*parts), layer.weight)
        assert torch.autograd.gradgradcheck(norm, parts)


def test_dropout_between_layers_is_kept():
    torch.manual_seed(0)
    layer, x = nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5), torch.randn(2, 5, 3)
    with PlainOperations():
        dropped = torch.stack([layer(x)[0] for _ in range(2)])
        kept = [layer.eval()(x)[0] for _ in range(2)]
    assert not torch.equal(*dropped)
    assert torch.equal(*kept)
