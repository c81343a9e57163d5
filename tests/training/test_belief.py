"""Beliefs follow what came after surprises: kept where they last, taken back where they revert, none where nothing is known."""

import pytest
import torch
from torch import Tensor

from cryptoml.features.targets import TargetConfig
from cryptoml.models.adapter import KNOBS, ForecastAdapter, Knobs, kept_share
from cryptoml.training.belief import SHARES, Trials, learn_beliefs

TARGETS = TargetConfig(horizons=(1, 4), primary_horizon=4)
TASKS = 400


def trials(surprise: Tensor, lasting: float) -> Trials:
    """Adaptations of which a share lasts, so that the loss is the squared distance to that share, with noise."""
    generator = torch.Generator().manual_seed(1)
    best = lasting * surprise + 0.05 * torch.randn(surprise.shape, generator=generator)
    losses = torch.stack(
        [torch.stack([(share * surprise[:, k] - best[:, k]) ** 2 for share in SHARES]) for k in range(len(KNOBS))]
    )
    return Trials(surprise, torch.ones(len(surprise)), losses)


def surprises(spread: float, seed: int) -> Tensor:
    return spread * torch.randn(TASKS, len(KNOBS), generator=torch.Generator().manual_seed(seed))


def learned(known: Trials, invented: Trials) -> ForecastAdapter:
    adapter = ForecastAdapter(TARGETS.horizons, TARGETS.quantiles)
    learn_beliefs(adapter, known, invented, known_weight=5.0, caution=2.0)
    return adapter


def test_a_market_that_reverts_is_believed_only_beyond_its_usual_surprises() -> None:
    adapter = learned(trials(surprises(0.1, 0), 0.0), trials(surprises(0.6, 2), 1.0))
    usual, beyond = adapter.trust.T
    assert (usual <= 0.1).all()
    assert (beyond == 1).all()
    small, large = (adapter.believed(Knobs(size, size, size), 1.0, 2.0) for size in (0.1, 0.9))
    assert max(small) < 0.025
    assert min(large) > 0.8


def test_what_lasts_in_the_past_is_kept_at_any_size() -> None:
    adapter = learned(trials(surprises(0.3, 0), 0.5), trials(surprises(0.6, 2), 1.0))
    assert adapter.trust[:, 0].tolist() == pytest.approx([0.5] * 3)


def test_what_never_lasts_is_never_believed() -> None:
    adapter = learned(trials(surprises(0.3, 0), 0.0), trials(surprises(0.6, 2), 0.0))
    assert (adapter.trust == 0).all()
    assert adapter.believed(Knobs(0.3, 1.5, -1.5), 1.0, 2.0) == Knobs(0.0, 0.0, 0.0)


def test_a_gain_that_may_be_chance_is_left() -> None:
    few = trials(surprises(0.1, 0)[:4], 0.1)
    adapter = learned(few, trials(surprises(0.6, 2)[:4] * 0.0, 0.0))
    assert (adapter.trust[:, 0] <= 0.1).all()


def test_shares_that_were_tried_give_the_losses_that_were_found() -> None:
    found = trials(surprises(0.3, 0), 0.5)
    for place, share in enumerate(SHARES):
        gains = found.gains(1, torch.full((TASKS,), share))
        torch.testing.assert_close(gains, found.losses[1, place] - found.losses[1, 0])


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.02, 1.0])
def test_half_way_is_where_it_was_set(size: float) -> None:
    half = torch.tensor(size)
    kept = kept_share(half, half, torch.tensor(0.2), torch.tensor(1.0))
    assert kept.item() == pytest.approx(0.6 if size > 1e-6 else kept.item())
    assert 0.2 <= kept.item() <= 1.0
