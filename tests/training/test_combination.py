"""Weights of trained models: on the validation data never worse than the best model or than equal weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import cryptoml
from cryptoml.errors import DataError
from cryptoml.models.calibration import log_loss
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import Forecast, Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.combination import create_ensemble_predictions, optimize_ensemble_weights
from tests.training.conftest import LOOKBACK, TARGETS


def loader(x: Tensor, y: Tensor, batch_size: int = 32) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)


def linear_models(count: int, outputs: int, seed: int) -> list[nn.Module]:
    torch.manual_seed(seed)
    return [nn.Sequential(nn.Linear(4, outputs), nn.Dropout(0.5)) for _ in range(count)]


def examples(seed: int, labels: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 4, generator=generator)
    if labels == "classes":
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return x, x[:, :1] + 0.5 * torch.randn(150, 1, generator=generator)


def losses(
    models: list[nn.Module], x: Tensor, y: Tensor, loss: Callable[..., Tensor], weights: np.ndarray
) -> tuple[float, float]:
    """Return the loss with some weights, and the least of the single models and of equal weights."""
    trials = [*np.eye(len(models)), np.full(len(models), 1 / len(models))]
    found = loss(create_ensemble_predictions(models, x, weights), y).item()
    return found, min(loss(create_ensemble_predictions(models, x, trial), y).item() for trial in trials)


class TestWeights:
    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 5))
    def test_of_regressors_are_never_worse_than_best_or_equal(self, seed: int, count: int) -> None:
        models, (x, y) = linear_models(count, 1, seed), examples(seed, "values")
        weights = optimize_ensemble_weights(models, loader(x, y), torch.device("cpu"))
        assert weights.shape == (count,)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1.0)
        found, best = losses(models, x, y, functional.mse_loss, weights)
        assert found <= best + 1e-6

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 5))
    def test_of_classifiers_are_never_worse_than_best_or_equal(self, seed: int, count: int) -> None:
        models, (x, y) = linear_models(count, 3, seed), examples(seed, "classes")
        weights = optimize_ensemble_weights(models, loader(x, y))
        found, best = losses(models, x, y, functional.cross_entropy, weights)
        assert found <= best + 1e-6

    def test_reach_the_optimum(self) -> None:
        x, _ = examples(0, "values")
        models = [Fixed(torch.tensor([1.0, 0, 0, 0])), Fixed(torch.tensor([0, 1.0, 0, 0])), Fixed(torch.tensor([0, 0, 0, 1.0]))]
        y = 0.7 * x[:, 0] + 0.3 * x[:, 1]
        np.testing.assert_allclose(optimize_ensemble_weights(models, loader(x, y)), [0.7, 0.3, 0.0], atol=1e-4)

    def test_of_models_that_give_probabilities_weigh_their_mixture(self) -> None:
        x, y = examples(1, "classes")
        models = [nn.Sequential(*model, nn.Softmax(-1)) for model in linear_models(3, 3, 1)]
        weights = optimize_ensemble_weights(models, loader(x, y))

        def mixture_loss(mixed: Tensor, label: Tensor) -> Tensor:
            return torch.tensor(log_loss(mixed.numpy(), label.numpy()))

        found, best = losses(models, x, y, mixture_loss, weights)
        assert found <= best + 1e-6
        torch.testing.assert_close(create_ensemble_predictions(models, x, weights).sum(-1), torch.ones(len(x)))

    def test_follow_a_loss_of_ones_own(self) -> None:
        x, y = examples(2, "values")
        models = linear_models(3, 1, 2)
        weights = optimize_ensemble_weights(models, loader(x, y), loss_fn=functional.l1_loss)
        found, best = losses(models, x, y, functional.l1_loss, weights)
        assert found <= best + 1e-6

    def test_leave_models_as_they_were(self) -> None:
        models, (x, y) = linear_models(2, 1, 0), examples(0, "values")
        models[1].eval()
        state = torch.get_rng_state()
        optimize_ensemble_weights(models, [(x, y)])
        assert [model.training for model in models] == [True, False]
        assert torch.equal(torch.get_rng_state(), state)
        assert all(parameter.grad is None for model in models for parameter in model.parameters())

    def test_of_forecasters_are_those_of_the_direction(self, market: Any) -> None:
        members, chunks = forecasters(), chunk_loader(market)
        weights = optimize_ensemble_weights(members, chunks)
        assert weights.sum() == pytest.approx(1.0)
        trials = [*np.eye(2), np.full(2, 0.5)]
        assert direction_loss(members, chunks, weights) <= min(direction_loss(members, chunks, one) for one in trials) + 1e-6
        Ensemble([member.eval() for member in members], tuple(weights))

    @pytest.mark.parametrize(
        ("models", "batches", "error", "words"),
        [
            (0, None, ValueError, "models must hold at least one model"),
            (2, [], DataError, "val_loader must hold at least one batch"),
            (2, [torch.zeros(3, 4)], ValueError, r"val_loader must yield pairs \(x, y\), found Tensor"),
            (2, [(torch.zeros(3, 4), torch.zeros(3, 2))], ValueError, r"predictions must fit y of shape \[3, 2\]"),
            (2, [(torch.full((3, 4), torch.nan), torch.zeros(3))], DataError, "must be finite, were not of model 0"),
        ],
    )
    def test_bad_inputs_are_named(self, models: int, batches: Any, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            optimize_ensemble_weights(linear_models(models, 1, 0), batches)


class Fixed(nn.Module):
    """Predicts a fixed combination of the inputs."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.direction


class TestPredictions:
    def test_are_the_weighted_mean(self) -> None:
        models, x = linear_models(3, 2, 0), torch.randn(5, 4)
        weights = [0.2, 0.3, 0.5]
        expected = sum(weight * model.eval()(x) for weight, model in zip(weights, models, strict=True))
        torch.testing.assert_close(create_ensemble_predictions(models, x, weights), expected)
        torch.testing.assert_close(create_ensemble_predictions(models, x.double().numpy(), torch.tensor(weights)), expected)
        equal = torch.stack([model(x) for model in models]).mean(dim=0)
        torch.testing.assert_close(create_ensemble_predictions(models, x), equal)

    def test_of_several_arguments_and_outputs(self) -> None:
        class Both(nn.Module):
            def forward(self, a: Tensor, b: Tensor) -> tuple[dict[str, Tensor], str]:
                return {"sum": a + b, "product": a * b}, "explanation"

        found = create_ensemble_predictions([Both(), Both()], {"a": torch.ones(2), "b": torch.full((2,), 3.0)}, [0.5, 0.5])
        assert found["sum"].tolist() == [4.0, 4.0]
        assert found["product"].tolist() == [3.0, 3.0]

    def test_of_forecasters_mix_every_task(self) -> None:
        members = forecasters()
        features = torch.randn(1, 2, 12, 3)
        features[:, 1, 3] = torch.nan
        mixed = create_ensemble_predictions(members, features, [0.25, 0.75])
        assert isinstance(mixed, Forecast)
        mask = ~features.isnan()
        with torch.no_grad():
            first, second = (member.eval()(features, mask) for member in members)
        for name in ("direction", "regime"):
            expected = 0.25 * getattr(first, name).softmax(-1) + 0.75 * getattr(second, name).softmax(-1)
            torch.testing.assert_close(getattr(mixed, name).softmax(-1), expected)
        torch.testing.assert_close(mixed.quantiles, 0.25 * first.quantiles + 0.75 * second.quantiles)
        assert (mixed.quantiles.diff(dim=-1) >= 0).all()

    @pytest.mark.parametrize("weights", [[0.5], [0.7, 0.7], [1.5, -0.5], [float("nan"), 1.0]])
    def test_weights_that_are_none_are_named(self, weights: list[float]) -> None:
        with pytest.raises(ValueError, match="weights must be 2 numbers of at least 0 that sum to 1"):
            create_ensemble_predictions(linear_models(2, 1, 0), torch.zeros(1, 4), weights)

    def test_of_no_model_are_refused(self) -> None:
        with pytest.raises(ValueError, match="models must hold at least one model"):
            create_ensemble_predictions([], torch.zeros(1, 4))


def forecasters() -> list[Forecaster]:
    torch.manual_seed(0)
    shape = {"num_features": 3, "num_assets": 2, "hidden_size": 8, "num_heads": 2, "lookback": LOOKBACK, "horizons": (1, 4)}
    narrow = ForecasterConfig(architecture="tcn", columns=(0,), **shape)
    return [build_forecaster(ForecasterConfig(architecture="linear", **shape)), build_forecaster(narrow)]


def chunk_loader(market: Any) -> ChunkLoader:
    from cryptoml.data.windows import chunk_spans

    features, targets = market
    return ChunkLoader(
        features, targets, chunk_spans(400, 64, LOOKBACK, start=200, stop=320), batch_size=2, target_config=TARGETS
    )


@torch.no_grad()
def direction_loss(members: list[Forecaster], chunks: ChunkLoader, weights: np.ndarray) -> float:
    total, count = 0.0, 0
    for batch in chunks:
        known = batch.origin_mask & (batch.targets["direction"] >= 0) & batch.mask.any(-1)
        parts = [member.eval().dense(batch.features, batch.mask).direction.softmax(-1)[known] for member in members]
        mixed = sum(float(weight) * part for weight, part in zip(weights, parts, strict=True))
        total += functional.nll_loss(mixed.log(), batch.targets["direction"][known], reduction="sum").item()
        count += int(known.sum())
    return total / count


def test_names_are_public() -> None:
    assert cryptoml.optimize_ensemble_weights is optimize_ensemble_weights
    assert cryptoml.create_ensemble_predictions is create_ensemble_predictions
