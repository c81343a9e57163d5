"""The adapter is the identity before any adaptation, moves what its knobs say, and cannot go far."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.models.adapter import KNOBS, ForecastAdapter, Knobs, forecast_tensors
from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast

HORIZONS, LEVELS = (1, 4, 24), (0.1, 0.5, 0.9)
FARTHEST = st.tuples(st.floats(-0.29, 0.29), st.floats(-1.45, 1.45), st.floats(-1.45, 1.45))


def drawn(seed: int = 0) -> Forecast:
    random = torch.Generator().manual_seed(seed)
    quantiles = torch.randn(5, 2, 3, 3, generator=random).sort(dim=-1).values
    logits = torch.randn(5, 2, 7, generator=random)
    positive = torch.rand(5, 2, 2, generator=random) * 0.9 + 0.05
    return Forecast(logits[..., :3], positive[..., :1], logits[..., 3:], positive[..., 1:], quantiles)


def turned(*knobs: float) -> ForecastAdapter:
    adapter = ForecastAdapter(HORIZONS, LEVELS)
    adapter.turn(Knobs(*knobs))
    return adapter


def test_new_adapter_changes_nothing() -> None:
    forecast = drawn()
    moved = ForecastAdapter(HORIZONS, LEVELS)(*forecast)
    for name in ("direction", "regime"):
        torch.testing.assert_close(getattr(moved, name).softmax(-1), getattr(forecast, name).softmax(-1))
    for name in ("volatility", "position_size", "quantiles"):
        torch.testing.assert_close(getattr(moved, name), getattr(forecast, name))


@settings(max_examples=50, deadline=None)
@given(FARTHEST, st.integers(0, 1000))
def test_outputs_stay_what_they_are(knobs: tuple[float, float, float], seed: int) -> None:
    moved = turned(*knobs)(*drawn(seed))
    assert (moved.quantiles.diff(dim=-1) >= 0).all()
    assert (moved.volatility > 0).all()
    assert all(part.isfinite().all() for part in moved)


@settings(max_examples=50, deadline=None)
@given(FARTHEST)
def test_knobs_can_be_read_and_set(knobs: tuple[float, float, float]) -> None:
    assert turned(*knobs).adapted == pytest.approx(knobs, abs=1e-4)


def test_no_gradient_step_leaves_the_limits() -> None:
    adapter = ForecastAdapter(HORIZONS, LEVELS)
    with torch.no_grad():
        for name in KNOBS:
            adapter.knobs[name].fill_(1e6)
    assert adapter.adapted == pytest.approx((0.3, 1.5, 1.5))
    assert all(part.isfinite().all() for part in adapter(*drawn()))


def test_drift_lifts_returns_and_the_chance_of_up() -> None:
    forecast, moved = drawn(), turned(0.1, 0.0, 0.0)(*drawn())
    assert (moved.quantiles > forecast.quantiles).all()
    torch.testing.assert_close((moved.quantiles - forecast.quantiles)[0, 0, :, 0], 0.1 * torch.tensor(HORIZONS).sqrt())
    assert (moved.direction.softmax(-1)[..., 2] > forecast.direction.softmax(-1)[..., 2]).all()
    assert (moved.regime.softmax(-1)[..., 0] > forecast.regime.softmax(-1)[..., 0]).all()


def test_volatility_widens_without_moving_the_middle() -> None:
    forecast, moved = drawn(), turned(0.0, 0.5, 0.0)(*drawn())
    torch.testing.assert_close(moved.quantiles[..., 1], forecast.quantiles[..., 1])
    assert (moved.quantiles[..., 2] - moved.quantiles[..., 0] > forecast.quantiles[..., 2] - forecast.quantiles[..., 0]).all()
    assert (moved.volatility > forecast.volatility).all()
    assert (moved.regime.softmax(-1)[..., 3] > forecast.regime.softmax(-1)[..., 3]).all()


def test_strength_draws_the_signal_towards_nothing() -> None:
    forecast, moved = drawn(), turned(0.0, 0.0, -1.4)(*drawn())
    assert (moved.quantiles[..., 1].abs() < forecast.quantiles[..., 1].abs()).all()
    assert (moved.direction.softmax(-1).amax(-1) < forecast.direction.softmax(-1).amax(-1)).all()


def test_predictions_move_in_their_own_units() -> None:
    random = np.random.default_rng(0)
    sigma = random.uniform(0.001, 0.1, (2, 6)).astype(np.float32)
    forecast, roots = drawn(), torch.tensor(HORIZONS).sqrt()[:, None]
    unit = torch.from_numpy(sigma[:, :5]).T[..., None, None] * roots
    real = forecast._replace(quantiles=forecast.quantiles * unit)
    predictions = Predictions(*(np.full((2, 6, *part.shape[2:]), np.nan, np.float32) for part in forecast))
    predictions = Predictions(
        predictions.probabilities, predictions.volatility[..., 0], predictions.regime, predictions.position_size[..., 0],
        predictions.quantiles,
    )  # fmt: skip
    predictions.probabilities[:, :5] = forecast.direction.softmax(-1).transpose(0, 1).numpy()
    predictions.regime[:, :5] = forecast.regime.softmax(-1).transpose(0, 1).numpy()
    predictions.volatility[:, :5] = forecast.volatility[..., 0].T.numpy()
    predictions.position_size[:, :5] = forecast.position_size[..., 0].T.numpy()
    predictions.quantiles[:, :5] = real.quantiles.transpose(0, 1).numpy()
    adapter = turned(0.05, 0.4, -0.3)
    moved, expected = adapter.apply_to(predictions, sigma, HORIZONS), adapter(*forecast)
    np.testing.assert_allclose(moved.quantiles[:, :5], (expected.quantiles * unit).transpose(0, 1).detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved.probabilities[:, :5], expected.direction.softmax(-1).transpose(0, 1).detach(), atol=1e-5)
    assert all(np.isnan(getattr(moved, name)[:, 5]).all() for name in vars(moved))


@pytest.mark.parametrize("sign", [-1, 1])
def test_knobs_at_their_limits_can_be_read_and_set(sign: int) -> None:
    adapter = ForecastAdapter(HORIZONS, LEVELS)
    with torch.no_grad():
        for name in KNOBS:
            adapter.knobs[name].fill_(sign * 1e6)
    farthest = adapter.adapted
    assert farthest.drift == pytest.approx(sign * 0.3)
    assert adapter.turned(farthest).adapted == pytest.approx(farthest, rel=1e-5)


@pytest.mark.parametrize("knobs", [(0.31, 0.0, 0.0), (0.0, float("nan"), 0.0), (0.0, 0.0, -2.0)])
def test_knobs_beyond_their_limits_are_refused(knobs: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must be within"):
        turned(*knobs)


def test_tensors_of_predictions_have_log_probabilities() -> None:
    predictions = Predictions(
        np.array([[[0.2, 0.3, 0.5]]], np.float32), np.ones((1, 1), np.float32), np.full((1, 1, 4), 0.25, np.float32),
        np.ones((1, 1), np.float32), np.zeros((1, 1, 3, 3), np.float32),
    )  # fmt: skip
    torch.testing.assert_close(forecast_tensors(predictions).direction.softmax(-1), torch.tensor([[[0.2, 0.3, 0.5]]]))
