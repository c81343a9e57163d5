"""The public Temporal Fusion Transformer."""

import pytest
import torch

from cryptoml.models.tft import TemporalFusionTransformer


def make_model(**settings: object) -> TemporalFusionTransformer:
    torch.manual_seed(0)
    return TemporalFusionTransformer(5, hidden_size=8, num_attention_heads=2, num_horizons=3, lookback=6, **settings).eval()


def test_quick_start_of_the_documentation() -> None:
    model = TemporalFusionTransformer(input_size=15, hidden_size=16, num_attention_heads=4, output_quantiles=[0.1, 0.5, 0.9])
    predictions, interpretability = model(torch.randn(2, 10, 15))
    assert predictions.shape == (2, 1, 3)
    assert set(interpretability) == {"attention", "variable_selection"}


@pytest.mark.parametrize("num_layers", [1, 2])
def test_shapes_and_sums(num_layers: int) -> None:
    predictions, weights = make_model(num_layers=num_layers)(torch.randn(2, 12, 5))
    assert predictions.shape == (2, 3, 3)
    assert (predictions.diff(dim=-1) >= 0).all()
    assert weights["attention"].shape == (2, 3, 12)
    assert weights["variable_selection"].shape == (2, 12, 5)
    for weight in weights.values():
        assert torch.allclose(weight.sum(-1), torch.ones(weight.shape[:-1]), atol=1e-6)


@pytest.mark.parametrize("static_size", [None, 4])
def test_dense_equals_forward_at_every_bar(static_size: int | None) -> None:
    model, x = make_model(static_size=static_size), torch.randn(2, 12, 5)
    mask = torch.rand(x.shape) > 0.2
    static = None if static_size is None else torch.randn(2, static_size)
    dense = model.dense(x, mask, static)
    for time in range(12):
        plain, _ = model(x[:, : time + 1], mask[:, : time + 1], static)
        assert torch.allclose(dense[:, time], plain, atol=1e-5)


def test_static_covariates_matter_and_learn() -> None:
    model, x, static = make_model(static_size=4), torch.randn(2, 12, 5), torch.randn(2, 4)
    assert not torch.allclose(model(x, static=static)[0], model(x, static=-static)[0])
    model.dense(x, static=static).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_bad_inputs_are_named() -> None:
    model, x = make_model(), torch.randn(2, 12, 5)
    with pytest.raises(ValueError, match=r"x must have shape \[batch time feature\] with 5 features, was \[2, 12, 4\]"):
        model(x[..., :4])
    with pytest.raises(ValueError, match=r"x of shape \[2, 12, 5\] holds NaN"):
        model(x * torch.nan)
    with pytest.raises(ValueError, match="static must have shape None"):
        model(x, static=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"static must have shape \(2, 4\), was None"):
        make_model(static_size=4)(x)
