"""The regime head as a filter: learned from labels, causal, and the same however a forecaster is asked."""

import numpy as np
import pytest
import torch

from cryptoml.data.markov import sticky_transitions
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.models.regime_filter import RegimeFilter

CENTRES = np.array([[0.3, -0.4], [-0.3, 0.6], [0.0, -1.5], [0.0, 2.0]])
CONTEXT = 24


def drawn(num_bars: int, seed: int, slope: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Readings of a chain, `slope` times a slow level more, that level, and the states."""
    rng, step = np.random.default_rng(seed), sticky_transitions([60.0] * 4)
    states = np.zeros(num_bars, dtype=int)
    for bar in range(1, num_bars):
        states[bar] = rng.choice(4, p=step[states[bar - 1]])
    level = np.sin(np.arange(num_bars) / 400)[:, None]
    readings = CENTRES[states] + 0.7 * rng.standard_normal((num_bars, 2)) + slope * level
    return np.concatenate([readings, level], axis=1).astype(np.float32), states


@pytest.fixture(scope="module")
def learned() -> RegimeFilter:
    found = RegimeFilter(2)
    found.learn(*drawn(6000, 0))
    return found


def said(model: RegimeFilter, readings: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(readings)
    return model(values.nan_to_num(), ~values.isnan().any(dim=-1))


def test_states_are_named_where_the_chain_is_what_it_learned(learned) -> None:
    readings, states = drawn(3000, 1)
    found = said(learned, readings)
    assert (found.argmax(dim=-1).numpy() == states).mean() > 0.9
    torch.testing.assert_close(found.exp().sum(dim=-1), torch.ones(3000), atol=1e-4, rtol=0)


@pytest.mark.parametrize("slope", [-0.8, 0.8])
def test_readings_that_move_with_their_level_are_told_as_well(slope) -> None:
    model = RegimeFilter(2)
    model.learn(*drawn(6000, 0, slope))
    readings, states = drawn(3000, 1, slope)
    assert (said(model, readings).argmax(dim=-1).numpy() == states).mean() > 0.9
    np.testing.assert_allclose(model.slopes, slope, atol=0.1)


def test_a_level_far_from_what_was_learned_counts_as_the_nearest() -> None:
    model = RegimeFilter(2)
    model.learn(*drawn(6000, 0, 0.8))
    readings, _ = drawn(50, 1)
    far, farther = readings.copy(), readings.copy()
    far[:, 2], farther[:, 2] = 2.5, 8.0
    torch.testing.assert_close(said(model, far), said(model, farther), atol=0, rtol=0)


def test_readings_that_repeat_themselves_are_believed_less() -> None:
    readings, states = drawn(4000, 2)
    shuffled = np.random.default_rng(0).standard_normal((4000 // 40, 3)).repeat(40, axis=0).astype(np.float32)
    plain, lingering = RegimeFilter(2), RegimeFilter(2)
    plain.learn(readings, states)
    lingering.learn(readings + shuffled, states)
    spread = np.linalg.norm(plain.whitening[0]) / np.linalg.norm(lingering.whitening[0])
    assert spread > 2


def test_later_bars_and_missing_ones_change_nothing(learned) -> None:
    readings, _ = drawn(200, 3)
    changed = readings.copy()
    changed[150:] += 5
    torch.testing.assert_close(said(learned, changed)[:150], said(learned, readings)[:150], atol=0, rtol=0)
    gap = readings.copy()
    gap[60:70] = np.nan
    without = torch.from_numpy(np.where(np.isnan(gap), 100.0, gap).astype(np.float32))
    present = torch.from_numpy(~np.isnan(gap).any(axis=1))
    torch.testing.assert_close(learned(without, present), said(learned, gap))


def test_nothing_learned_says_nothing() -> None:
    plain = RegimeFilter(2)
    plain.learn(np.full((50, 3), np.nan, np.float32), np.zeros(50, dtype=int))
    np.testing.assert_allclose(said(plain, drawn(20, 0)[0]).exp(), 0.25, rtol=1e-5)


def test_labels_without_order_leave_their_shares() -> None:
    readings, states = drawn(6000, 4)
    model = RegimeFilter(2)
    model.learn(readings, np.random.default_rng(0).permutation(states))
    found = said(model, readings).exp().numpy()
    np.testing.assert_allclose(found.mean(axis=0), np.bincount(states, minlength=4) / 6000, atol=0.05)
    assert found.std() < 0.15


def test_a_regime_that_never_came_is_possible(learned) -> None:
    readings, states = drawn(6000, 0)
    model = RegimeFilter(2)
    model.learn(readings[states != 3], states[states != 3])
    assert np.isfinite(said(model, readings).numpy()).all()


@pytest.mark.parametrize("architecture", ["tft", "tcn", "linear"])
def test_a_forecaster_says_the_same_dense_windowed_and_plain(architecture, learned) -> None:
    torch.manual_seed(0)
    config = ForecasterConfig(
        architecture=architecture,
        num_features=5,
        num_assets=3,
        hidden_size=8,
        num_heads=2,
        lookback=CONTEXT,
        regime_columns=(1, 4, 3),
        columns=(0, 1, 4),
    )
    model = build_forecaster(config).eval()
    model.regime.load_state_dict(learned.state_dict())
    features = torch.randn(3, 60, 5)
    features[1, 30:34, 4] = float("nan")
    mask = ~features.isnan()
    windowed = model.windowed(features, CONTEXT, mask)
    for origin in (0, 7, 36):
        window = slice(origin, origin + CONTEXT)
        plain = model(features[None, :, window], mask[None, :, window])
        torch.testing.assert_close(windowed.regime[:, origin], plain.regime[0], atol=1e-5, rtol=1e-5)
    dense = model.dense(features[None], mask[None])
    whole = model(features[None, :, :41], mask[None, :, :41])
    torch.testing.assert_close(dense.regime[:, :, 40], whole.regime, atol=1e-5, rtol=1e-5)
    assert not dense.regime.requires_grad


def test_columns_outside_the_features_are_refused() -> None:
    with pytest.raises(ValueError, match="regime_columns must be within 0 and 4, was"):
        ForecasterConfig(num_features=5, num_assets=1, regime_columns=(0, 5))
