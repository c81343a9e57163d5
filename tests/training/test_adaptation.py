"""Adaptation follows what the newest bars show, counts evidence, and keeps the base where that does not hold."""

from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from cryptoml.errors import BundleError
from cryptoml.features.targets import TargetConfig, Targets, make_targets
from cryptoml.models.adapter import Knobs
from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast
from cryptoml.training.adaptation import AdaptationConfig, adapt, adapt_through, build_learner, moves_of, support_weights
from cryptoml.training.maml import AdaptationOutcome

TARGETS = TargetConfig(horizons=(1, 4), primary_horizon=4)
CONFIG = AdaptationConfig()


def support(returns: Tensor, signal: Tensor | None = None) -> tuple[Forecast, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """A base that forecasts a standard normal around `signal`, and normalised returns of one bar `[shot, asset]`."""
    shots, assets = returns.shape
    median = torch.zeros(shots, assets) if signal is None else signal
    quantiles = (median[..., None, None] + torch.tensor([-1.2816, 0.0, 1.2816])).expand(shots, assets, 2, 3)
    zeros = torch.zeros(shots, assets)
    x = Forecast(
        torch.zeros(shots, assets, 3), torch.ones(shots, assets, 1), torch.zeros(shots, assets, 4), zeros[..., None], quantiles
    )
    both = torch.stack([returns, torch.full_like(returns, float("nan"))], dim=-1)
    labels = {"returns": both, "moves": moves_of(both)}
    return x, (labels, support_weights(~labels["returns"].isnan(), TARGETS.horizons, CONFIG.prior_labels))


def adapted(returns: Tensor, signal: Tensor | None = None) -> tuple[Knobs, AdaptationOutcome]:
    x, y = support(returns, signal)
    adapter, outcome = adapt(build_learner(TARGETS, CONFIG), x, y, TARGETS, caution=CONFIG.caution)
    return adapter.adapted, outcome


def noise(shots: int = 50, assets: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(shots, assets, generator=torch.Generator().manual_seed(seed))


def test_wider_returns_raise_volatility() -> None:
    knobs, outcome = adapted(2.0 * noise())
    assert outcome.accepted
    assert outcome.loss_after < outcome.loss_before
    assert knobs.volatility > 0.1
    assert adapted(0.4 * noise())[0].volatility < -0.1


def test_drift_moves_drift() -> None:
    assert adapted(noise() + 0.8)[0].drift > 0.02
    assert adapted(noise() - 0.8)[0].drift < -0.02


def test_signal_that_no_longer_holds_is_weakened() -> None:
    signal = noise(seed=1)
    held, faded = adapted(signal + 0.5 * noise(), signal)[0], adapted(noise(), signal)[0]
    assert faded.strength < held.strength
    assert faded.strength < -0.05


def test_more_evidence_moves_farther() -> None:
    few, many = (adapted(2.0 * noise(shots))[0].volatility for shots in (5, 50))
    assert 0 < few < many
    alone = adapted(2.0 * noise(assets=1))[0].volatility
    assert 0 < alone < many


def test_what_does_not_hold_on_held_back_bars_is_refused() -> None:
    swinging = torch.where(torch.arange(50)[:, None] // 10 % 2 == 0, 1.0, -1.0) + 0.1 * noise()
    knobs, outcome = adapted(swinging.roll(5, 0) * 1.0)
    if not outcome.accepted:
        assert knobs == Knobs(0.0, 0.0, 0.0)
    x, (labels, weights) = support(noise())
    labels["returns"][0] = float("inf")
    adapter, outcome = adapt(build_learner(TARGETS, CONFIG), x, (labels, weights), TARGETS, caution=CONFIG.caution)
    assert not outcome.accepted
    assert adapter.adapted == Knobs(0.0, 0.0, 0.0)


def test_nothing_known_changes_nothing() -> None:
    knobs, outcome = adapted(torch.full((10, 2), float("nan")))
    assert knobs == Knobs(0.0, 0.0, 0.0)
    assert outcome.loss_after == outcome.loss_before == 0


def test_labels_count_by_how_little_they_overlap() -> None:
    known = torch.ones(10, 3, 2, dtype=torch.bool)
    weights = support_weights(known, (1, 4), 50.0)["returns"]
    assert weights.sum().item() == pytest.approx(37.5 / 87.5)
    assert (weights[..., 0] / weights[..., 1]).unique().tolist() == [4.0]
    moves = support_weights(known, (1, 4), 50.0)["moves"]
    assert (moves.shape, moves.sum().item()) == ((10, 3), pytest.approx(30 / 80))
    known[:, 0] = False
    assert all(one[:, 0].sum() == 0 for one in support_weights(known, (1, 4), 50.0).values())


def test_one_shock_says_less_than_a_wilder_market() -> None:
    """Of equal mean squares: a single shock is over when it is noticed, moves that all grew go on."""
    shock = noise()
    shock[20] *= 8.0
    wider = noise() * (shock.square().mean() / noise().square().mean()).sqrt()
    assert 0 <= rash(shock).volatility < 0.5 * rash(wider).volatility


def rash(returns: Tensor) -> Knobs:
    x, y = support(returns)
    return adapt(build_learner(TARGETS, CONFIG), x, y, TARGETS, caution=0.0)[0].adapted


def test_rates_scale() -> None:
    x, y = support(2.0 * noise())
    slow, fast = (
        adapt(build_learner(TARGETS, CONFIG, rate_scale=scale), x, y, TARGETS, caution=0.0)[0].adapted.volatility
        for scale in (0.1, 1.0)
    )
    assert 0 < slow < 0.5 * fast


def test_arrays_come_back_and_damaged_ones_are_named() -> None:
    learner = build_learner(TARGETS, CONFIG)
    arrays = {name: value.detach().numpy() * 1.5 for name, value in learner.state_dict().items()}
    again = build_learner(TARGETS, CONFIG, arrays).state_dict()
    assert all(np.allclose(again[name], arrays[name]) for name in arrays)
    with pytest.raises(BundleError, match="log_rates"):
        build_learner(TARGETS, CONFIG, {name: value for name, value in arrays.items() if name != "log_rates"})
    with pytest.raises(BundleError, match="drift_on_returns"):
        build_learner(TARGETS, CONFIG, arrays | {"base_model.effects.drift_on_returns": np.ones(3, np.float32)})


def drawn_market(bars: int = 300, assets: int = 3) -> tuple[Predictions, Targets]:
    """Calm returns and, in the last third, wild ones, with forecasts that never notice."""
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(bars) < 200, 1.0, 2.5)
    close = 100 * np.exp(np.cumsum(0.01 * scale * rng.standard_normal((assets, bars)), axis=1))
    targets = make_targets(Closes(close), TARGETS)
    targets = replace(targets, sigma=np.full_like(targets.sigma, 0.01))
    unit = 0.01 * np.sqrt(np.array(TARGETS.horizons))[:, None] * np.array([-1.2816, 0.0, 1.2816])
    shape = (assets, bars)
    predictions = Predictions(
        np.full((*shape, 3), 1 / 3, np.float32),
        np.full(shape, 0.02, np.float32),
        np.full((*shape, 4), 0.25, np.float32),
        np.full(shape, 0.5, np.float32),
        np.broadcast_to(unit, (*shape, 2, 3)).astype(np.float32),
    )
    predictions.quantiles[0, 210] = np.nan
    return predictions, targets


class Closes(NamedTuple):
    """What targets read of a panel."""

    close: np.ndarray

    def field(self, name: str) -> np.ndarray:
        return self.close * {"high": 1.01, "low": 0.99}.get(name, 1.0)


def test_adapting_through_a_span_follows_it() -> None:
    predictions, targets = drawn_market()
    learner = build_learner(TARGETS, CONFIG)
    moved = adapt_through(learner, predictions, targets, TARGETS, CONFIG, 120)
    assert moved.volatility.shape == (3, 180)
    assert moved.volatility[:, -20:].min() > 1.05 * moved.volatility[:, :60].max()
    assert np.isnan(moved.quantiles[0, 90]).all()
    assert np.isfinite(moved.quantiles[1:]).all()


def test_adapting_through_a_span_reads_no_later_bar() -> None:
    predictions, targets = drawn_market()
    learner, cut = build_learner(TARGETS, CONFIG), 240
    changed = replace(targets, log_return=targets.log_return.copy())
    for index, horizon in enumerate(TARGETS.horizons):
        changed.log_return[:, cut - horizon + 1 :, index] = 9.0
    before, after = (adapt_through(learner, predictions, one, TARGETS, CONFIG, 120) for one in (targets, changed))
    for part in fields(before):
        left, right = (getattr(one, part.name)[:, : cut - 120 + 1] for one in (before, after))
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(before.volatility[:, cut - 120 + 24 :], after.volatility[:, cut - 120 + 24 :])


def test_what_could_be_noise_is_hardly_believed() -> None:
    x, y = support(noise(10))
    timid, rash = (adapt(build_learner(TARGETS, CONFIG), x, y, TARGETS, caution=caution)[0].adapted for caution in (2.0, 0.0))
    assert all(abs(one) <= abs(other) for one, other in zip(timid, rash, strict=True))
    assert abs(timid.volatility) <= 0.3 * abs(rash.volatility)
    x, y = support(4.0 * noise(50))
    timid, rash = (adapt(build_learner(TARGETS, CONFIG), x, y, TARGETS, caution=caution)[0].adapted for caution in (2.0, 0.0))
    assert timid.volatility > 0.8 * rash.volatility > 0.2
