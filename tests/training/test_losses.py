import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.models.forecaster import Forecast
from cryptoml.training.losses import TASKS, UncertaintyWeightedLoss, label_masks, multi_task_losses, pinball_loss

QUANTILES = (0.1, 0.5, 0.9)
SHAPE = (2, 3, 4)


def forecast(seed: int = 0) -> Forecast:
    generator = torch.Generator().manual_seed(seed)

    def draw(*last: int) -> torch.Tensor:
        return torch.randn(*SHAPE, *last, generator=generator)

    return Forecast(draw(3), draw(1).exp(), draw(4), draw(1).sigmoid(), draw(2, 3))


def labels(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "direction": torch.randint(0, 3, SHAPE, generator=generator),
        "volatility": torch.randn(SHAPE, generator=generator).exp(),
        "regime": torch.randint(0, 4, SHAPE, generator=generator),
        "position_size": torch.rand(SHAPE, generator=generator),
        "returns": torch.randn(*SHAPE, 2, generator=generator),
    }


def test_pinball_by_hand():
    predicted, target = torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])
    assert pinball_loss(predicted, target, (0.1, 0.9)).item() == pytest.approx((0.1 * 0.5 + 0.1 * 0.5) / 2)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95))
def test_pinball_is_least_at_the_quantile(level: float):
    values = torch.linspace(0, 1, 401)
    losses = torch.stack([pinball_loss(guess.expand(401, 1), values, (level,)) for guess in values])
    assert values[losses.argmin()].item() == pytest.approx(level, abs=0.01)


def test_pinball_refuses_a_wrong_quantile_axis():
    with pytest.raises(ValueError, match=r"predicted must have shape \[4, 3\], that of target and 3 quantiles, was \[4, 2\]"):
        pinball_loss(torch.zeros(4, 2), torch.zeros(4), QUANTILES)
    with pytest.raises(ValueError, match=r"predicted must have shape \[4, 1, 3\], .*, was \[4, 5, 3\]"):
        pinball_loss(torch.zeros(4, 5, 3), torch.zeros(4, 1), QUANTILES)


def test_volatility_loss_is_least_at_the_truth():
    targets, mask = labels(), torch.ones(SHAPE, dtype=torch.bool)
    right = forecast()._replace(volatility=targets["volatility"].unsqueeze(-1))
    wrong = right._replace(volatility=1.1 * right.volatility)
    assert multi_task_losses(right, targets, mask, QUANTILES)["volatility"].item() == pytest.approx(0.0, abs=1e-6)
    assert multi_task_losses(wrong, targets, mask, QUANTILES)["volatility"] > 1e-3


def test_missing_labels_count_for_nothing():
    predicted, targets = forecast(), labels()
    kept = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5
    masked = multi_task_losses(predicted, targets, kept, QUANTILES)
    hidden = {
        name: values.masked_fill(~kept, -1)
        if not values.is_floating_point()
        else values.masked_fill(~(kept if values.ndim == 3 else kept.unsqueeze(-1)), math.nan)
        for name, values in targets.items()
    }
    missing = multi_task_losses(predicted, hidden, torch.ones(SHAPE, dtype=torch.bool), QUANTILES)
    for task in TASKS:
        torch.testing.assert_close(masked[task], missing[task])


def test_gradient_is_finite_and_zero_without_labels():
    predicted = Forecast(*(part.clone().requires_grad_() for part in forecast()))
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    targets = labels() | {"returns": torch.full((*SHAPE, 2), math.nan), "volatility": torch.full(SHAPE, math.nan)}
    losses = multi_task_losses(predicted, targets, mask, QUANTILES)
    weighting = UncertaintyWeightedLoss(TASKS)
    total = weighting(losses, label_masks(targets, mask))
    total.backward()
    assert total.item() == 0.0
    assert all(part.grad is not None and not part.grad.any() for part in predicted)
    assert not weighting.log_variances.grad.any()


def test_model_nan_is_not_mistaken_for_a_missing_label():
    broken = forecast()._replace(direction=torch.full((*SHAPE, 3), math.nan))
    losses = multi_task_losses(broken, labels(), torch.ones(SHAPE, dtype=torch.bool), QUANTILES)
    assert losses["direction"].isnan()


def test_uncertainty_weighting_follows_the_noise():
    """The optimum of s is log L for a Gaussian task: small losses give negative log-variances."""
    weighting = UncertaintyWeightedLoss(["noisy", "clean"])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        weighting({"noisy": torch.tensor(4.0), "clean": torch.tensor([0.2, 0.3])}).backward()
        optimizer.step()
    assert weighting.sigmas == pytest.approx({"noisy": 2.0, "clean": 0.5}, rel=1e-2)
    assert weighting.log_variances[1] < 0


def test_masked_examples_equal_their_absence():
    weighting = UncertaintyWeightedLoss(["a"])
    losses = {"a": torch.tensor([1.0, 5.0, 3.0])}
    masked = weighting(losses, {"a": torch.tensor([True, False, True])})
    torch.testing.assert_close(masked, weighting({"a": torch.tensor([1.0, 3.0])}))


def test_a_mask_of_whole_examples_counts_all_their_losses():
    losses, kept = torch.rand(4, 3), torch.tensor([True, False, True, True])
    masked = UncertaintyWeightedLoss(["a"])({"a": losses}, {"a": kept[:, None]})
    torch.testing.assert_close(masked, losses[kept].mean() / 2)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (None, "lacks \\['b'\\]"),
        ({"c": torch.ones(3, dtype=torch.bool)}, "masks must be of the tasks .*, held \\['c'\\]"),
        ({"a": torch.ones(4, 3)}, "masks of a must be boolean, was torch.float32 of shape \\[4, 3\\]"),
        ({"a": torch.ones(4, dtype=torch.bool)}, "masks of a must broadcast to losses of shape \\[4, 3\\], was \\[4\\]"),
    ],
)
def test_bad_input_of_uncertainty_weighting_is_named(masks: dict[str, torch.Tensor] | None, words: str):
    losses = {"a": torch.rand(4, 3)} | ({} if masks is None else {"b": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=words):
        UncertaintyWeightedLoss(["a", "b"])(losses, masks)
