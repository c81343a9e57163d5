"""How far an adaptation is to be believed: learned from what followed surprises, in the past as it was and in invented regimes.

A real market reverts: a shock is mostly over by the time it is noticed. Markets bent into lasting regimes, on which steps are
rehearsed, do not, so both judge together what of each knob is kept (`ForecastAdapter.believed`): an empirical Bayes prior with
a body, surprises as the known past had them, and a tail, larger ones, which invented regimes alone show. A loss on the past
weighs more, and so does its uncertainty; where that allows nothing, a knob stays where it is.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from cryptoml.models.adapter import KNOBS, ForecastAdapter, kept_share, knob_parameters
from cryptoml.models.forecaster import Forecast
from cryptoml.training.adaptation import Weighted, adaptation_loss

__all__ = ["Trials", "learn_beliefs", "query_losses"]

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Of a knob that are tried; losses between are read off straight lines."""
REACHES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Multiples of the knobs' spread in the past, at which half of a surprise counts as beyond it."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Adaptations, and what followed.

    Attributes:
        knobs: As gradient descent left them `[task, knob]`.
        scale: Noise scale of each one's evidence `[task]`.
        losses: On the query, with a share of one knob and none of the others `[knob, share, task]`.
    """

    knobs: Tensor
    scale: Tensor
    losses: Tensor

    @classmethod
    def of(cls, adapter: ForecastAdapter, knobs: Tensor, scale: Tensor, query: tuple[Forecast, Weighted]) -> "Trials":
        """Judge shares of each knob on the bars that followed, `[task, shot, asset, ...]`."""
        only = torch.eye(len(KNOBS))
        losses = [[query_losses(adapter, query, knobs * one * share) for share in SHARES] for one in only]
        return cls(knobs, scale, torch.stack([torch.stack(row) for row in losses]))

    def gains(self, knob: int, kept: Float[Tensor, " task"]) -> Float[Tensor, " task"]:
        """Return how much the loss of each task falls below 0 with these shares of a knob."""
        grid, losses = torch.tensor(SHARES), self.losses[knob]
        right = torch.searchsorted(grid, kept.contiguous()).clamp(1, len(SHARES) - 1)
        part = (kept - grid[right - 1]) / (grid[right] - grid[right - 1])
        tasks = torch.arange(losses.shape[1])
        return losses[right - 1, tasks] * (1 - part) + losses[right, tasks] * part - losses[0]


@torch.no_grad()
def query_losses(
    adapter: ForecastAdapter, query: tuple[Forecast, Weighted], knobs: Float[Tensor, "task knob"]
) -> Float[Tensor, " task"]:
    """Return the loss of each task's query forecasts, moved by its knobs."""
    x, (labels, weights) = query
    loss = adaptation_loss(adapter.levels)

    def one(forecast: tuple[Tensor, ...], y: Weighted, turned: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(adapter, turned, forecast), y)

    return vmap(one)(tuple(x), (labels, weights), knob_parameters(knobs))


@torch.no_grad()
def learn_beliefs(adapter: ForecastAdapter, known: Trials, invented: Trials, known_weight: float, caution: float) -> None:
    """Set an adapter's `noise` and `trust`.

    Args:
        adapter: To be set.
        known: Adaptations in the past as it was.
        invented: Adaptations to invented regimes.
        known_weight: How much more a loss in the past counts.
        caution: Multiple of the noise at which half way is reached.
    """
    spread = (known.knobs / known.scale[:, None]).square().mean(dim=0).sqrt()
    for knob in range(len(KNOBS)):
        best = (0.0, 0.0, 0.0, float(REACHES[-1]))
        for usual, beyond, reach in product(SHARES, SHARES, REACHES):
            if usual <= beyond:
                harm, gain = (
                    one.gains(
                        knob, kept_share(one.knobs[:, knob], reach * spread[knob] * one.scale, *torch.tensor((usual, beyond)))
                    )
                    for one in (known, invented)
                )
                doubt = harm.std() / len(harm) ** 0.5
                best = min(best, (float(gain.mean() + known_weight * (harm.mean() + doubt)), usual, beyond, reach))
        _, usual, beyond, reach = best
        adapter.trust[knob] = torch.tensor((usual, beyond))
        adapter.noise[knob] = reach * spread[knob] / (caution or 1.0)
