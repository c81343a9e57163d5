"""A forecast moved along the few directions in which a market changes its regime.

Forecasts are adapted by three numbers: the drift that was missed, the volatility that was missed, and how far the model's
own signal still holds. What each of them does to every output is learned beforehand (`cryptoml.training.rehearsal`), so that
returns over the next bar, known a bar later, correct outputs whose labels are known a day later.
"""

import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast

__all__ = ["ADAPTER_PREFIX", "KNOBS", "ForecastAdapter", "Knobs", "forecast_tensors"]

ADAPTER_PREFIX = "base_model."
"""Begins the names of an adapter's arrays beside those of what learned it."""
KNOBS = ("drift", "volatility", "strength")
_UNITS = {"drift": 2.0, "volatility": 12.0, "strength": 7.0}
"""What a parameter of 1 means: chosen so that gradient steps of 0.01 suit all three."""
_LIMITS = {"drift": 0.3, "volatility": 1.5, "strength": 1.5}
"""Farthest that an adaptation can go, however wild its support."""
_NOISE = {"drift": 0.25, "volatility": 1.5, "strength": 0.8}
"""What a knob is turned by where nothing shifts, per unit of `ForecastAdapter.noise`; rehearsal measures it anew."""
_SHARPNESS = 4
_SMALLEST = 1e-12


class Knobs(NamedTuple):
    """What an adaptation changed, in its own units.

    Attributes:
        drift: Mean return per bar that was missed, in sigmas.
        volatility: Log of the ratio of the volatility met to the one forecast.
        strength: Log of the factor on the model's own signal.
    """

    drift: float
    volatility: float
    strength: float


class ForecastAdapter(nn.Module):
    """Move normalised forecasts by drift, volatility and strength; the identity before any adaptation.

    Args:
        horizons: Bars ahead of each return, whose quantiles are moved.
        quantiles: Levels of the quantiles.

    Attributes:
        noise: Standard deviation of each knob where nothing shifts, times `sqrt(n)` of n independent returns that would
            have been believed at once.
    """

    noise: Tensor

    def __init__(self, horizons: tuple[int, ...], quantiles: tuple[float, ...]) -> None:
        super().__init__()
        self.horizons = horizons
        self.register_buffer("noise", torch.tensor([_NOISE[name] for name in KNOBS]))
        self.middle = min(range(len(quantiles)), key=lambda index: abs(quantiles[index] - 0.5))
        roots = torch.tensor(horizons, dtype=torch.float32).sqrt()
        self.knobs = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in KNOBS})
        self.effects = nn.ParameterDict(
            {
                "drift_on_returns": nn.Parameter(roots.clone()),
                "drift_on_direction": nn.Parameter(roots[-1].clone()),
                "drift_on_regime": nn.Parameter(roots[-1].clone()),
                "volatility_on_returns": nn.Parameter(torch.full((len(horizons),), 0.7)),
                "volatility_on_volatility": nn.Parameter(torch.tensor(0.3)),
                "volatility_on_sideways": nn.Parameter(torch.tensor(-0.5)),
                "volatility_on_regime": nn.Parameter(torch.tensor([0.0, 1.0, -3.0, 3.0])),
                "strength_on_returns": nn.Parameter(torch.ones(len(horizons))),
                "strength_on_direction": nn.Parameter(torch.tensor(0.5)),
            }
        )

    def forward(
        self,
        direction: Float[Tensor, "*lead 3"],
        volatility: Float[Tensor, "*lead 1"],
        regime: Float[Tensor, "*lead 4"],
        position_size: Float[Tensor, "*lead 1"],
        quantiles: Float[Tensor, "*lead horizon quantile"],
    ) -> Forecast:
        """Return the moved forecast; the arguments are the parts of a `Forecast`, direction and regime as logits."""
        drift, log_volatility, log_strength = (self._moved(name) for name in KNOBS)
        effects = self.effects
        towards_up = direction.new_tensor([-1.0, 0.0, 1.0])
        towards_sideways = direction.new_tensor([0.0, 1.0, 0.0])
        towards_bull = direction.new_tensor([1.0, -1.0, 0.0, 0.0])
        middle = quantiles[..., self.middle : self.middle + 1]
        spread = (quantiles - middle) * (effects["volatility_on_returns"] * log_volatility).exp()[:, None]
        median = middle * (effects["strength_on_returns"] * log_strength).exp()[:, None]
        return Forecast(
            direction=torch.log_softmax(direction, dim=-1) * (effects["strength_on_direction"] * log_strength).exp()
            + effects["drift_on_direction"] * drift * towards_up
            + effects["volatility_on_sideways"] * log_volatility * towards_sideways,
            volatility=volatility * (effects["volatility_on_volatility"] * log_volatility).exp(),
            regime=regime + effects["drift_on_regime"] * drift * towards_bull + effects["volatility_on_regime"] * log_volatility,
            position_size=position_size,
            quantiles=median + (effects["drift_on_returns"] * drift)[:, None] + spread,
        )

    @property
    def adapted(self) -> Knobs:
        """What the knobs stand at."""
        with torch.no_grad():
            return Knobs(*(self._moved(name).item() for name in KNOBS))

    @torch.no_grad()
    def turn(self, knobs: Knobs) -> None:
        """Set the knobs to what `adapted` gave.

        Raises:
            ValueError: A knob is not a number or beyond its limit.
        """
        for name, value in zip(KNOBS, knobs, strict=True):
            limit = _LIMITS[name]
            if not abs(value) <= limit:
                raise ValueError(f"{name} must be within {-limit} and {limit}, was {value}")
            share = torch.tensor(value / limit).clamp(-1 + 1e-6, 1 - 1e-6)
            self.knobs[name].copy_(torch.atanh(share) * limit / _UNITS[name])

    def believed(self, knobs: Knobs, noise_scale: float, caution: float) -> Knobs:
        """Return the knobs with what could be noise taken back.

        A knob k keeps the share `k^4 / (k^4 + s^4)`, `s = caution * noise * noise_scale`: most regimes hardly differ in most
        respects, and a few differ much, for which a rule linear in the evidence suits neither (compare firm shrinkage, Gao
        and Bruce 1997).

        Args:
            knobs: As gradient descent left them.
            noise_scale: What `noise` is to be multiplied by for the evidence at hand.
            caution: Multiple of the noise at which half a knob is kept.
        """
        kept = []
        for value, noise in zip(knobs, self.noise.tolist(), strict=True):
            scale = (caution * noise * noise_scale) ** _SHARPNESS
            kept.append(value * value**_SHARPNESS / (value**_SHARPNESS + scale + _SMALLEST))
        return Knobs(*kept)

    def turned(self, knobs: Knobs) -> "ForecastAdapter":
        """Return a copy with its knobs set; this one stays as it is. Raises what `turn` raises."""
        other = copy.deepcopy(self)
        other.turn(knobs)
        return other

    def apply_to(
        self, predictions: Predictions, sigma: Float[np.ndarray, "asset time"], horizons: tuple[int, ...]
    ) -> Predictions:
        """Return an ensemble's predictions, which are in real units, moved.

        Args:
            predictions: NaN stays NaN.
            sigma: Volatility per bar known at each bar, with which they were made.
            horizons: Of their quantiles.
        """
        unit = sigma[..., None].astype(np.float32) * np.sqrt(np.asarray(horizons, dtype=np.float32))
        moved = self.move(replace(predictions, quantiles=predictions.quantiles / unit[..., None]))
        return replace(moved, quantiles=moved.quantiles * unit[..., None])

    @torch.no_grad()
    def move(self, predictions: Predictions) -> Predictions:
        """Return predictions whose quantiles are normalised, moved."""
        moved = self(*forecast_tensors(predictions))
        return Predictions(
            probabilities=moved.direction.softmax(dim=-1).numpy(),
            volatility=moved.volatility[..., 0].numpy(),
            regime=moved.regime.softmax(dim=-1).numpy(),
            position_size=moved.position_size[..., 0].numpy(),
            quantiles=moved.quantiles.numpy(),
        )

    def _moved(self, name: str) -> Float[Tensor, ""]:
        limit = _LIMITS[name]
        return limit * torch.tanh(_UNITS[name] / limit * self.knobs[name])


def forecast_tensors(predictions: Predictions) -> Forecast:
    """Return predictions as tensors, with log probabilities as logits; volatility and quantiles in their own units."""
    return Forecast(
        direction=torch.from_numpy(predictions.probabilities).clamp(min=_SMALLEST).log(),
        volatility=torch.from_numpy(predictions.volatility)[..., None],
        regime=torch.from_numpy(predictions.regime).clamp(min=_SMALLEST).log(),
        position_size=torch.from_numpy(predictions.position_size)[..., None],
        quantiles=torch.from_numpy(predictions.quantiles),
    )
