"""Networks follow their inputs to any device.

The meta device computes nothing, but refuses a tensor that was left on another one; where there is CUDA, values are compared too.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cryptoml.models.forecaster import ARCHITECTURES, Forecast, ForecasterConfig, build_forecaster
from cryptoml.models.gat import GraphAttentionLayer, GraphAttentionNetwork
from cryptoml.models.multitask import MultiTaskLearningHead
from cryptoml.models.tft import TemporalFusionTransformer
from cryptoml.training.continual import ContinualLearner
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_losses
from cryptoml.training.maml import MetaLearningMAML

Inputs = dict[str, Tensor]
Case = tuple[nn.Module, Inputs, Callable[[nn.Module, Inputs], Tensor]]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def transformer() -> Case:
    model = TemporalFusionTransformer(5, 8, 2, num_horizons=3, num_layers=2, lookback=6, static_size=2, known_future_size=2)
    inputs = {"x": torch.randn(2, 9, 5), "mask": torch.rand(2, 9, 5) > 0.2}
    inputs |= {"static": torch.randn(2, 2), "known_future": torch.randn(2, 12, 2)}
    return model, inputs, lambda model, given: model(**given)[0] + model.dense(**given)[:, -1]


def graph_layer(dynamic: bool) -> Case:
    inputs = {"x": torch.randn(2, 5, 4), "mask": torch.eye(5, dtype=torch.bool), "edges": torch.tensor([[0, 1, 2], [1, 2, 2]])}

    def call(model: nn.Module, given: Inputs) -> Tensor:
        return model(given["x"], given["mask"])[0] + model(given["x"], edge_index=given["edges"])[0]

    return GraphAttentionLayer(4, 6, 3, dynamic=dynamic), inputs, call


def graph_network() -> Case:
    inputs = {"features": torch.randn(2, 5, 4), "mask": torch.rand(2, 5) > 0.2, "adj_matrix": torch.eye(5)}

    def call(model: nn.Module, given: Inputs) -> Tensor:
        learned, scores = model(given["features"], mask=given["mask"])[0], model.edge_scores(given["features"], given["mask"])
        return learned + model(**given)[0] + scores.sum()

    return GraphAttentionNetwork(5, 4, 6, 3), inputs, call


def task_heads() -> Case:
    return (
        MultiTaskLearningHead(4, 6),
        {"shared": torch.randn(2, 4)},
        lambda model, given: torch.cat([*model(**given).values()], -1),
    )


def labels_of(forecast: Forecast) -> dict[str, Tensor]:
    classes, numbers = (
        torch.zeros_like(forecast.volatility[..., 0], dtype=torch.long),
        torch.ones_like(forecast.volatility[..., 0]),
    )
    returns = torch.ones_like(forecast.quantiles[..., 0])
    return {"direction": classes, "regime": classes, "volatility": numbers, "position_size": numbers, "returns": returns}


class Weighted(nn.Module):
    """A forecaster and its uncertainty-weighted loss."""

    def __init__(self, architecture: str) -> None:
        super().__init__()
        shape = {"num_features": 4, "num_assets": 3, "hidden_size": 8, "num_heads": 2, "lookback": 6}
        self.forecaster = build_forecaster(ForecasterConfig(architecture=architecture, **shape))
        self.weighting = UncertaintyWeightedLoss(TASKS)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        forecast = self.forecaster.dense(features, mask)
        labels, origins = labels_of(forecast), mask.any(dim=-1)
        loss = self.weighting(multi_task_losses(forecast, labels, origins), label_masks(labels, origins))
        return (
            loss + self.forecaster(features, mask).volatility + self.forecaster.windowed(features[0], 7, mask[0]).volatility.sum()
        )


def forecasting(architecture: str) -> Case:
    inputs = {"features": torch.randn(2, 3, 9, 4), "mask": torch.rand(2, 3, 9, 4) > 0.2}
    return Weighted(architecture), inputs, lambda model, given: model(**given)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.norm, self.out = nn.LSTM(3, 4, batch_first=True), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.lstm(x)[0][:, -1]))


def meta_learner() -> Case:
    parts = ("support_x", "support_y", "query_x", "query_y")
    inputs = {name: torch.randn(2, 3, *shape) for name, shape in zip(parts, [(5, 3), (1,)] * 2, strict=True)}
    learner = MetaLearningMAML(Recurrent(), 0.1, 2, learned_rates=True)
    return learner, inputs, lambda model, given: model.meta_loss(**given, loss_fn=mse_loss)


CASES: dict[str, Callable[[], Case]] = {
    "transformer": transformer,
    "graph layer": lambda: graph_layer(False),
    "dynamic graph layer": lambda: graph_layer(True),
    "graph network": graph_network,
    "task heads": task_heads,
    "meta-learner": meta_learner,
    **{architecture: lambda architecture=architecture: forecasting(architecture) for architecture in ARCHITECTURES},
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_no_tensor_is_left_on_another_device(name: str) -> None:
    model, inputs, call = CASES[name]()
    call(model.to("meta"), {key: value.to("meta") for key, value in inputs.items()}).sum().backward()
    assert all(weight.grad is None or weight.grad.device.type == "meta" for weight in model.parameters())


@on_cuda
@every_case
def test_cuda_gives_what_the_processor_does(name: str) -> None:
    torch.manual_seed(0)
    model, inputs, call = CASES[name]()
    moved = copy.deepcopy(model.eval()).cuda()
    expected, values = call(model, inputs), call(moved, {key: value.cuda() for key, value in inputs.items()})
    values.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-3, atol=1e-4)
    for left, right in zip(moved.parameters(), model.parameters(), strict=True):
        if right.grad is not None:
            torch.testing.assert_close(left.grad.cpu(), right.grad, rtol=1e-2, atol=1e-3)


@on_cuda
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_bfloat16_trains_on_cuda(architecture: str) -> None:
    model, inputs, call = forecasting(architecture)
    model.cuda()
    with torch.autocast("cuda", torch.bfloat16):
        loss = call(model, {key: value.cuda() for key, value in inputs.items()}).sum()
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@on_cuda
def test_recurrent_models_adapt_and_continue_on_cuda() -> None:
    learner = MetaLearningMAML(Recurrent(), 0.05, 3).cuda().eval()
    x, y = torch.randn(10, 5, 3, device="cuda"), torch.ones(10, 1, device="cuda")
    assert learner.adapt(x, y, mse_loss)(x).device.type == "cuda"
    continual = ContinualLearner(Recurrent(), "cuda", memory_size=8)
    continual.compute_fisher_information([(x.cpu(), y.cpu())], mse_loss, remember=True)
    continual.continual_train_step(x, y, torch.optim.Adam(continual.model.parameters()), mse_loss)
