import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cryptoml.errors import DataError
from cryptoml.models.forecaster import ARCHITECTURES, Forecast, ForecasterConfig, build_forecaster
from cryptoml.training.losses import multi_task_losses
from cryptoml.training.maml import MetaLearningMAML


def network(hidden: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def sinusoids(tasks: int, shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    amplitude = torch.rand(tasks, 1, 1, generator=generator) * 4.9 + 0.1
    phase = torch.rand(tasks, 1, 1, generator=generator) * math.pi
    x = torch.rand(tasks, shots, 1, generator=generator) * 10 - 5
    return x, amplitude * torch.sin(x - phase)


def meta_batch(tasks: int = 3, shots: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = sinusoids(tasks, 2 * shots, torch.Generator().manual_seed(1))
    return x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x.unsqueeze(-1))[0][:, -1])


def finite_difference(learner: MetaLearningMAML, parameter: nn.Parameter, data: tuple[Tensor, ...], step: float = 1e-5) -> Tensor:
    slopes = torch.zeros_like(parameter)
    for index in range(parameter.numel()):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[index] += sign * step
            losses.append(learner.meta_loss(*data, mse_loss).item())
            with torch.no_grad():
                parameter.view(-1)[index] -= sign * step
        slopes.view(-1)[index] = (losses[0] - losses[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize("learned_rates", [False, True])
@pytest.mark.parametrize("base", [network(4), Recurrent()], ids=["dense", "lstm"])
def test_meta_gradient_equals_finite_differences(base: nn.Module, learned_rates: bool):
    data = tuple(part.double() for part in meta_batch())
    learner = MetaLearningMAML(copy.deepcopy(base).double(), 0.05, 2, learned_rates=learned_rates).double()
    learner.meta_loss(*data, mse_loss).backward()
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(finite_difference(learner, parameter, data), parameter.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_tasks_together_equal_tasks_one_by_one():
    together, apart = MetaLearningMAML(network(), 0.05, 3), MetaLearningMAML(network(), 0.05, 3)
    apart.batching = "loop"
    data = meta_batch(tasks=5)
    losses = [learner.meta_loss(*data, mse_loss) for learner in (together, apart)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for left, right in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-6)


def test_weighted_steps_add_up_the_losses_after_each_step():
    data, base = meta_batch(), network()
    single = [MetaLearningMAML(base, 0.05, steps).meta_loss(*data, mse_loss) for steps in (1, 3)]
    both = MetaLearningMAML(base, 0.05, 3, step_weights=(0.25, 0.0, 0.75)).meta_loss(*data, mse_loss)
    torch.testing.assert_close(both, 0.25 * single[0] + 0.75 * single[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
@pytest.mark.parametrize("learned_rates", [False, True])
def test_compiled_steps_equal_plain_ones(learned_rates: bool):
    learners = [MetaLearningMAML(network(), 0.05, 2, learned_rates=learned_rates, compiled=flag) for flag in (False, True)]
    for _ in range(3):
        data = meta_batch(tasks=5)
        losses = [learner.outer_step(*data, mse_loss, torch.optim.SGD(learner.parameters(), 0.1)) for learner in learners]
        torch.testing.assert_close(*losses)
    for left, right in zip(*(learner.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_first_order_drops_the_second_derivatives():
    """With frozen inner gradients the meta-gradient is the query gradient at the adapted weights."""
    learner = MetaLearningMAML(network(), 0.05, 1, first_order=True)
    support_x, support_y, query_x, query_y = meta_batch(tasks=1)
    learner.meta_loss(support_x, support_y, query_x, query_y, mse_loss).backward()
    adapted = copy.deepcopy(learner.base_model)
    mse_loss(adapted(support_x[0]), support_y[0]).backward()
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter -= 0.05 * parameter.grad
            parameter.grad = None
    mse_loss(adapted(query_x[0]), query_y[0]).backward()
    for left, right in zip(learner.base_model.parameters(), adapted.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_sinusoids_are_learned_from_a_few_shots():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    learner = MetaLearningMAML(base, inner_lr=0.01, num_inner_steps=1)
    optimizer, generator = torch.optim.Adam(learner.parameters(), 3e-3), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(250):
        x, y = sinusoids(16, 20, generator)
        losses.append(learner.outer_step(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:], mse_loss, optimizer).item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_adapt_leaves_the_base_alone_and_improves():
    learner = MetaLearningMAML(network(), 0.02, 10)
    before = copy.deepcopy(learner.state_dict())
    x = torch.linspace(-1, 1, 20).unsqueeze(1)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    adapted = learner.adapt(x, 2 * x, mse_loss)
    assert learner.last_adaptation.accepted
    assert adapted.adaptation == learner.last_adaptation
    assert mse_loss(adapted(x), 2 * x) < mse_loss(learner(x), 2 * x)
    assert all(torch.equal(values, learner.state_dict()[name]) for name, values in before.items())
    assert all(
        left.data_ptr() != right.data_ptr() for left, right in zip(adapted.parameters(), learner.parameters(), strict=True)
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(16), nn.Dropout(0.5)], ids=["batch norm", "dropout"])
def test_adaptation_never_writes_to_the_base(layer: nn.Module, training: bool):
    torch.manual_seed(0)
    learner = MetaLearningMAML(nn.Sequential(nn.Linear(3, 16), layer, nn.Linear(16, 2)), 0.05, 3).train(training)
    before, x = copy.deepcopy(learner.state_dict()), torch.randn(20, 3)
    adapted = learner.adapt(x, torch.full((20, 2), 3.0), mse_loss)
    assert learner.last_adaptation.accepted
    assert adapted.training == learner.base_model.training == training
    assert all(torch.equal(values, learner.state_dict()[name]) for name, values in before.items())


def test_running_statistics_follow_the_meta_batches():
    torch.manual_seed(0)
    learner = MetaLearningMAML(nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)), 0.05, 2)
    optimizer, norm = torch.optim.Adam(learner.parameters(), 1e-2), learner.base_model[1]
    losses = [learner.outer_step(*meta_batch(tasks=5, shots=10), mse_loss, optimizer).item() for _ in range(30)]
    assert losses[-1] < losses[0]
    assert learner.batching == "vmap"
    assert norm.num_batches_tracked.item() == 30
    assert norm.track_running_stats
    support = meta_batch(tasks=5, shots=10)[0].flatten(0, 1)
    torch.testing.assert_close(norm.running_mean, learner.base_model[0](support).mean(0), rtol=0.2, atol=0.2)


def test_targets_may_have_many_axes():
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 6)

        def forward(self, series: Tensor, scale: Tensor) -> Tensor:
            return self.inner(series.mean(1)).unflatten(-1, (2, 3)) * scale[:, None]

    learner = MetaLearningMAML(Grid(), 0.1, 4, learned_rates=True)
    x, y = {"series": torch.randn(3, 10, 5, 4), "scale": torch.ones(3, 10, 1)}, torch.randn(3, 10, 2, 3)
    learner.outer_step(x, y, x, y, mse_loss, torch.optim.Adam(learner.parameters(), 1e-2))
    adapted = learner.adapt({name: part[0] for name, part in x.items()}, 0 * y[0] + 1.0, mse_loss)
    assert learner.last_adaptation.accepted
    assert adapted(**{name: part[0] for name, part in x.items()}).shape == (10, 2, 3)


@pytest.mark.parametrize(("rate", "word"), [(5.0, "rises|not finite"), (1e30, "not finite")])
def test_harmful_adaptation_is_refused(rate: float, word: str, caplog: pytest.LogCaptureFixture):
    learner = MetaLearningMAML(network(), rate, 5)
    x = torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    adapted = learner.adapt(x, 3 * x, mse_loss)
    assert not learner.last_adaptation.accepted
    assert f"adaptation refused: {learner.last_adaptation.reason}" in caplog.text
    assert any(part in learner.last_adaptation.reason for part in word.split("|"))
    assert torch.equal(adapted(x), learner(x))


def test_lstm_base_learns_and_adapts():
    learner = MetaLearningMAML(Recurrent(), 0.1, 3)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    series = torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(0))
    target = series.mean(-1, keepdim=True)
    data = (series[:, :4], target[:, :4], series[:, 4:], target[:, 4:])
    losses = [learner.outer_step(*data, mse_loss, optimizer).item() for _ in range(6)]
    assert losses[-1] < losses[0]
    assert learner.batching == "vmap"
    learner.eval()
    learner.adapt(series[0], target[0], mse_loss)
    assert learner.last_adaptation is not None


def test_fallback_where_vmap_refuses(caplog: pytest.LogCaptureFixture):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum().item() < 1e9 else x

    learner = MetaLearningMAML(Branching(), 0.05, 2)
    learner.meta_loss(*meta_batch(), mse_loss).backward()
    assert learner.batching == "loop"
    assert "tasks run one by one, as vmap refuses the base model" in caplog.text


def test_fallback_where_sequences_are_packed():
    class Packed(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x.unsqueeze(-1), torch.full((len(x),), x.shape[1]), batch_first=True)
            return self.out(self.lstm(packed)[1][0][0])

    torch.manual_seed(0)
    plain, packed = Recurrent(), Packed()
    packed.load_state_dict(plain.state_dict())
    data = torch.randn(2, 3, 5), torch.randn(2, 3, 1), torch.randn(2, 3, 5), torch.randn(2, 3, 1)
    learners = [MetaLearningMAML(base, 0.05, 2) for base in (plain, packed)]
    for learner in learners:
        learner.meta_loss(*data, mse_loss).backward()
    assert [learner.batching for learner in learners] == ["vmap", "loop"]
    for left, right in zip(plain.parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_fallback_to_first_order_where_a_kernel_has_no_second_derivative(caplog: pytest.LogCaptureFixture):
    class Bagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.out = nn.EmbeddingBag(7, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.bag(x.long()))

    learner = MetaLearningMAML(Bagged(), 0.05, 2)
    x, y = torch.randint(0, 7, (2, 3, 4)), torch.randn(2, 3, 1)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    losses = [learner.outer_step(x, y, x, y, mse_loss, optimizer).item() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert learner.first_order
    assert "meta-gradients are of first order from now on" in caplog.text


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_forecasters_are_meta_learned(architecture: str):
    torch.manual_seed(0)
    shape = {"num_features": 2, "num_assets": 2, "hidden_size": 4, "num_heads": 2, "lookback": 4}
    learner = MetaLearningMAML(build_forecaster(ForecasterConfig(architecture=architecture, **shape)), 0.05, 1)
    x, origins = torch.randn(2, 3, 2, 6, 2), torch.ones(2, 3, 2, dtype=torch.bool)
    inputs = (x, torch.ones_like(x, dtype=torch.bool))
    classes, numbers = torch.zeros(2, 3, 2, dtype=torch.long), torch.ones(2, 3, 2)
    labels = {"direction": classes, "regime": classes, "volatility": numbers, "position_size": numbers}
    labels["returns"] = torch.ones(2, 3, 2, 3)

    def loss(forecast: Forecast, y: tuple) -> Tensor:
        return sum(multi_task_losses(forecast, *y).values())

    learner.meta_loss(inputs, (labels, origins), inputs, (labels, origins), loss).backward()
    assert learner.batching == "vmap"
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_several_inputs_and_labels():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 1)

        def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
            return {"y": self.inner(x * mask)}

    def loss(predicted: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
        return mse_loss(predicted["y"], labels["y"])

    learner = MetaLearningMAML(Masked(), 0.1, 2)
    x, mask, y = torch.randn(3, 5, 2), torch.ones(3, 5, 2, dtype=torch.bool), {"y": torch.randn(3, 5, 1)}
    learner.meta_loss((x, mask), y, (x, mask), y, loss).backward()
    assert learner.batching == "vmap"
    learner.adapt((x[0], mask[0]), {"y": y["y"][0]}, loss)


def test_a_meta_loss_that_is_not_finite_changes_nothing():
    learner, x = MetaLearningMAML(nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))), torch.randn(2, 3, 1)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(DataError, match="meta-training loss and gradient must be finite, were not at a loss of nan"):
        learner.outer_step(x, x, x, x * torch.nan, mse_loss, torch.optim.Adam(learner.parameters()))
    assert all(torch.equal(values, before[name]) for name, values in learner.state_dict().items())


def test_learned_rates_lie_where_the_base_does_and_are_as_precise():
    for device, dtype, expected in (("meta", torch.float64, torch.float64), ("cpu", torch.bfloat16, torch.float32)):
        rates = MetaLearningMAML(network().to(device, dtype), learned_rates=True).log_rates
        assert (rates.device.type, rates.dtype) == (device, expected)


def test_bad_input_is_named():
    learner = MetaLearningMAML(network())
    with pytest.raises(ValueError, match=r"support_x and support_y must hold at least one example .*, had \[0, 1\], \[0, 1\]"):
        learner.adapt(torch.zeros(0, 1), torch.zeros(0, 1), mse_loss)
    with pytest.raises(ValueError, match=r"support_x and support_y must hold .*, had \[3, 1\], \[2, 1\]"):
        learner.adapt(torch.zeros(3, 1), torch.zeros(2, 1), mse_loss)
    empty, some = torch.zeros(2, 0, 1), torch.zeros(2, 3, 1)
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"each task of support_x and support_y must hold .*, had \[0, 1\], \[0, 1\]"):
        learner.outer_step(empty, empty, some, some, mse_loss, optimizer)
    with pytest.raises(ValueError, match=r"each task of query_x and query_y must hold"):
        learner.outer_step(some, some, empty, empty, mse_loss, optimizer)
    x = torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match="same number of tasks"):
        learner.meta_loss(x, x, x[:1], x[:1], mse_loss)
    with pytest.raises(ValueError, match=r"step_weights must hold 5 weights from 0, not all 0, were \(1.0,\)"):
        MetaLearningMAML(network(), step_weights=(1.0,))
    for rate in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="inner_lr must be above 0 and finite, was"):
            MetaLearningMAML(network(), inner_lr=rate)
