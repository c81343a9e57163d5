import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.errors import DataError
from cryptoml.training.continual import ContinualLearner
from cryptoml.training.reservoir import Reservoir


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def classes(seed: int = 0, count: int = 40) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(0, 3, (count,), generator=generator)), batch_size=16)


def looped_fisher(model: nn.Module, loader: DataLoader, loss_fn) -> dict[str, Tensor]:
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for x, y in loader:
        for index in range(len(x)):
            model.zero_grad()
            loss_fn(model(x[index : index + 1]), y[index : index + 1]).backward()
            for name, value in model.named_parameters():
                total[name] += value.grad.square() / len(loader.dataset)
    return total


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.unsqueeze(-1))[0][:, -1]


def normalised() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))


class Packed(Recurrent):
    """Cannot be mapped."""

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x.unsqueeze(-1), torch.full((len(x),), x.shape[1]), batch_first=True)
        return self.lstm(packed)[1][0][0]


@pytest.mark.parametrize("make", [network, Recurrent, normalised, Packed], ids=["dense", "lstm", "norms", "packed"])
def test_fisher_equals_the_loop_over_samples(make):
    model = make()
    learner, loader = ContinualLearner(model), classes()
    expected = looped_fisher(model, loader, cross_entropy)
    fisher = learner.compute_fisher_information(loader, cross_entropy)
    for name, value in expected.items():
        torch.testing.assert_close(fisher[name], value, rtol=1e-4, atol=1e-7)
    assert model.training


def test_penalty_and_gradient_are_zero_at_the_anchor_and_grow_away_from_it():
    learner = ContinualLearner(network(), importance_weight=2.0)
    assert learner.penalty().item() == 0.0
    fisher = learner.compute_fisher_information(classes(), cross_entropy)
    penalty = learner.penalty()
    penalty.backward()
    assert penalty.item() == 0.0
    assert all(not value.grad.any() for value in learner.model.parameters())
    with torch.no_grad():
        learner.model[0].weight += 0.1
    assert learner.penalty().item() == pytest.approx(2.0 / 2 * 0.01 * fisher["0.weight"].sum().item(), rel=1e-4)


def test_penalties_of_several_regimes_add_up():
    learner = ContinualLearner(network(), importance_weight=1.0)
    learner.compute_fisher_information(classes(0), cross_entropy)
    with torch.no_grad():
        learner.model[0].weight += 0.1
    first = learner.penalty().item()
    learner.compute_fisher_information(classes(1), cross_entropy)
    assert len(learner.anchors) == 2
    assert learner.penalty().item() == pytest.approx(first)


def test_weights_frozen_before_or_after_an_anchor_are_left_out():
    learner = ContinualLearner(network(), importance_weight=1.0)
    learner.model[0].bias.requires_grad_(False)
    learner.compute_fisher_information(classes(0), cross_entropy)
    learner.model[0].bias.requires_grad_(True)
    learner.model[3].bias.requires_grad_(False)
    with torch.no_grad():
        for value in learner.model.parameters():
            value += 0.1
    anchor = learner.anchors[0]
    held = sum(anchor.fisher[name].sum().item() for name in ("0.weight", "3.weight"))
    assert learner.penalty().item() == pytest.approx(0.5 * 0.01 * held, rel=1e-4)


def test_modes_of_parts_are_left_as_they_were():
    learner = ContinualLearner(normalised())
    learner.model.train()
    learner.model[1].eval()
    learner.compute_fisher_information(classes(0), cross_entropy)
    assert [part.training for part in learner.model] == [True, False, True, True, True]


def test_consolidated_weights_forget_less():
    old_x = torch.tensor([[1.0, 0.0]]).repeat(32, 1)
    new_x = torch.tensor([[1.0, 1.0]]).repeat(32, 1)
    errors = {}
    for importance in (0.0, 50.0):
        torch.manual_seed(0)
        learner = ContinualLearner(nn.Linear(2, 1), memory_size=0, importance_weight=importance)
        optimizer = torch.optim.SGD(learner.model.parameters(), 0.02)
        old_y = torch.ones(32, 1) + 0.1 * torch.randn(32, 1)
        for _ in range(100):
            learner.continual_train_step(old_x, old_y, optimizer, mse_loss)
        learner.compute_fisher_information([(old_x, old_y)], mse_loss)
        for _ in range(200):
            learner.continual_train_step(new_x, -torch.ones(32, 1), optimizer, mse_loss)
        errors[importance] = mse_loss(learner.model(old_x), old_y).item()
    assert errors[50.0] < 0.5 * errors[0.0]


def test_replay_mixes_old_examples_into_the_loss():
    learner = ContinualLearner(nn.Linear(1, 1, bias=False), memory_size=8, importance_weight=0.0)
    with torch.no_grad():
        learner.model.weight.fill_(0.0)
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.0)
    assert learner.continual_train_step(torch.ones(2, 1), torch.full((2, 1), 2.0), optimizer, mse_loss) == pytest.approx(4.0)
    assert learner.continual_train_step(torch.ones(2, 1), torch.zeros(2, 1), optimizer, mse_loss) == pytest.approx(2.0)


def test_reservoir_keeps_every_example_with_the_same_probability():
    counts = torch.zeros(60)
    for seed in range(600):
        memory = Reservoir(12, seed)
        for start in range(0, 60, 7):
            values = torch.arange(start, min(start + 7, 60)).float()
            memory.add(values, values)
        kept, _ = memory.sample(12)
        assert len(set(kept.tolist())) == 12
        counts[kept.long()] += 1
    expected = 600 * 12 / 60
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 100  # 59 degrees of freedom: the 99.9th percentile is 98


def test_reservoir_refuses_other_shapes():
    memory = Reservoir(4)
    memory.add(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="shapes of the examples before"):
        memory.add(torch.zeros(2, 4), torch.zeros(2))


def test_state_survives_a_round_trip(tmp_path):
    learner, other = ContinualLearner(network(), memory_size=20), ContinualLearner(network(), memory_size=5, seed=3)
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.1)
    learner.compute_fisher_information(classes(0), cross_entropy, remember=True)
    for x, y in classes(1):
        learner.continual_train_step(x, y, optimizer, cross_entropy)
    other.load(learner.save(tmp_path / "state.safetensors"))
    assert torch.equal(learner.penalty(), other.penalty())
    assert len(other.memory) == 20
    assert other.memory.seen == learner.memory.seen == 80
    for left, right in zip(learner.memory.sample(5), other.memory.sample(5), strict=True):
        assert torch.equal(left, right)
    for left, right in zip(learner.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_nested_examples_are_replayed(tmp_path):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 1)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.inner(x * mask)

    def loss(predicted: Tensor, labels: dict[str, Tensor]) -> Tensor:
        return mse_loss(predicted, labels["y"])

    learner = ContinualLearner(Masked(), memory_size=4)
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.1)
    x, y = (torch.randn(3, 2), torch.ones(3, 2, dtype=torch.bool)), {"y": torch.randn(3, 1)}
    losses = [learner.continual_train_step(x, y, optimizer, loss) for _ in range(3)]
    assert losses[-1] < losses[0]
    learner.compute_fisher_information([(x, y)], loss)
    other = ContinualLearner(Masked(), memory_size=4)
    other.load(learner.save(tmp_path / "state.safetensors"))
    other.continual_train_step(x, y, torch.optim.SGD(other.model.parameters(), 0.1), loss)


def test_the_calls_of_the_documentation():
    """Named as in the manual, from a loader of a torch dataset, in the middle of other training."""
    learner = ContinualLearner(model=network(), device=torch.device("cpu"), memory_size=1000, importance_weight=0.5)
    optimizer = torch.optim.Adam(learner.model.parameters(), 1e-2)
    fisher = learner.compute_fisher_information(classes(0), cross_entropy)
    assert set(fisher) == {name for name, _ in learner.model.named_parameters()}
    x, y = next(iter(classes(1)))
    losses = [learner.continual_train_step(x, y, optimizer, cross_entropy) for _ in range(3)]
    assert all(isinstance(loss, float) for loss in losses)
    assert len(learner.memory) == 48


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_batches_of_several_inputs_come_in_any_nesting(kind: type):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
            return {"mean": self.inner(values * mask)}

    def loss(predicted: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
        return mse_loss(predicted["mean"], labels["mean"])

    parts = {"values": torch.randn(6, 2), "mask": torch.ones(6, 2, dtype=torch.bool)}
    x, y = parts if kind is dict else kind(parts.values()), {"mean": torch.randn(6, 2)}
    learner = ContinualLearner(Masked(), memory_size=4, importance_weight=1.0)
    learner.compute_fisher_information([(x, y), [x, y]], loss, remember=True)
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.1)
    losses = [learner.continual_train_step(x, y, optimizer, loss) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_bad_input_is_named():
    learner = ContinualLearner(normalised())
    with pytest.raises(DataError, match="loader must hold at least one sample"):
        learner.compute_fisher_information([], cross_entropy)
    with pytest.raises(ValueError, match=r"loader must yield pairs \(x, y\), yielded a dict of 2"):
        learner.compute_fisher_information([{"x": torch.zeros(2, 4), "y": torch.zeros(2)}], cross_entropy)
    before = copy.deepcopy(learner.model.state_dict())
    x, y = torch.full((2, 4), torch.nan), torch.zeros(2, dtype=torch.long)
    with pytest.raises(DataError, match="continual training loss must be finite"):
        learner.continual_train_step(x, y, torch.optim.SGD(learner.model.parameters(), 0.1), cross_entropy)
    assert all(torch.equal(value, learner.model.state_dict()[name]) for name, value in before.items())
    for given, words in (((x[:0], y[:0]), r"had \[0, 4\], \[0\]"), ((torch.zeros(3, 4), y), r"had \[3, 4\], \[2\]")):
        with pytest.raises(ValueError, match=f"x and y must hold at least one example .*, {words}"):
            learner.continual_train_step(*given, torch.optim.SGD(learner.model.parameters(), 0.1), cross_entropy)
        with pytest.raises(ValueError, match=f"x and y must hold at least one example .*, {words}"):
            learner.compute_fisher_information([given], cross_entropy)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="importance_weight must be at least 0 and finite, was"):
            ContinualLearner(normalised(), importance_weight=weight)


def test_a_gradient_that_is_not_finite_changes_no_weight():
    learner = ContinualLearner(nn.Linear(4, 1))
    nn.init.zeros_(learner.model.weight)
    nn.init.zeros_(learner.model.bias)
    optimizer = torch.optim.SGD(learner.model.parameters(), 0.1)
    with pytest.raises(DataError, match="continual training gradient must be finite, was not on a batch of 2 examples"):
        learner.continual_train_step(torch.ones(2, 4), torch.zeros(2, 1), optimizer, lambda p, y: (p - y).abs().sqrt().mean())
    assert not learner.model.weight.any()
    assert len(learner.memory) == 0
