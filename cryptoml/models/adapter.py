"""A forecast moved along the few directions in which a market changes its regime.

Forecasts are adapted by three numbers: the drift that was missed, the volatility that was missed, and how far the model's
own signal still holds. What each of them does to every output is learned beforehand (`cryptoml.training.rehearsal`), so that
returns over the next bar, known a bar later, correct outputs whose labels are known a day later.
"""

import copy
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast

__all__ = [
    "ADAPTER_PREFIX",
    "KNOBS",
    "NORMAL_MOVE",
    "ForecastAdapter",
    "Knobs",
    "forecast_tensors",
    "kept_share",
    "knob_parameters",
]

ADAPTER_PREFIX = "base_model."
"""Begins the names of an adapter's arrays beside those of what learned it."""
KNOBS = ("drift", "volatility", "strength")
_UNITS = {"drift": 2.0, "volatility": 12.0, "strength": 7.0}
"""What a parameter of 1 means: chosen so that gradient steps of 0.01 suit all three."""
_LIMITS = {"drift": 0.3, "volatility": 1.5, "strength": 1.5}
"""Farthest that an adaptation can go, however wild its support."""
_NOISE = {"drift": 0.25, "volatility": 1.5, "strength": 0.8}
"""What a knob is turned by where nothing shifts, per unit of `ForecastAdapter.noise`; rehearsal measures it anew."""
NORMAL_MOVE = (2.0 / math.pi) ** 0.5
"""Mean absolute value of a standard normal."""
_SHARPNESS, _FAR = 8, 100.0
_SMALLEST = 1e-12
_ROUNDING = 1e-6
"""How far beyond its limit, relative to it, single precision may put a knob."""


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
        noise: How far each knob is turned before half of `trust` is reached, over `caution`, times `sqrt(n)` of n independent
            returns that would have been believed at once; at first its standard deviation where nothing shifts.
        trust: Share of each knob that is kept `[knob, (usual, beyond)]`: of surprises as the known past had them, and of far
            larger ones.
        usual_move: Mean of absolute returns in units of the volatility forecast, where nothing shifts.
    """

    noise: Tensor
    trust: Tensor
    usual_move: Tensor

    def __init__(self, horizons: tuple[int, ...], quantiles: tuple[float, ...]) -> None:
        super().__init__()
        self.horizons, self.levels = horizons, quantiles
        self.register_buffer("noise", torch.tensor([_NOISE[name] for name in KNOBS]))
        self.register_buffer("trust", torch.tensor([[0.0, 1.0]] * len(KNOBS)))
        self.register_buffer("usual_move", torch.tensor(NORMAL_MOVE))
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
            ValueError: A knob is not a number, or beyond its limit by more than rounding.
        """
        for name, value in zip(KNOBS, knobs, strict=True):
            limit = _LIMITS[name]
            if not abs(value) <= limit * (1 + _ROUNDING):
                raise ValueError(f"{name} must be within {-limit} and {limit}, was {value}")
        for name, parameter in knob_parameters(torch.tensor(knobs)).items():
            self.get_parameter(name).copy_(parameter)

    def believed(self, knobs: Knobs, noise_scale: float, caution: float) -> Knobs:
        """Return the knobs with what is not believed taken back.

        A knob k keeps the share `usual + (beyond - usual) k^8 / (k^8 + s^8)`, `s = caution * noise * noise_scale`: what
        followed surprises of a usual size is known from the past, while a far larger one is of a regime that it did not
        hold, for which a rule linear in the evidence suits neither (compare firm shrinkage, Gao and Bruce 1997).

        Args:
            knobs: As gradient descent left them.
            noise_scale: What `noise` is to be multiplied by for the evidence at hand.
            caution: Multiple of the noise at which half way is reached.
        """
        turned = torch.tensor(knobs)
        return Knobs(*(turned * kept_share(turned, caution * noise_scale * self.noise, *self.trust.T)).tolist())

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


def knob_parameters(knobs: Float[Tensor, "*task knob"]) -> dict[str, Float[Tensor, "*task"]]:
    """Return the parameters of an adapter, by name, that stand for knobs within their limits."""
    found = {}
    for name, value in zip(KNOBS, knobs.unbind(-1), strict=True):
        share = (value / _LIMITS[name]).clamp(-1 + 1e-6, 1 - 1e-6)
        found[f"knobs.{name}"] = torch.atanh(share) * _LIMITS[name] / _UNITS[name]
    return found


def kept_share(turned: Tensor, half_way: Tensor, usual: Tensor, beyond: Tensor) -> Tensor:
    """Return which share of a knob is kept that was turned so far; arguments broadcast."""
    odds = (turned.abs() / half_way.clamp(min=_SMALLEST)).clamp(max=_FAR) ** _SHARPNESS
    return usual + (beyond - usual) * odds / (1 + odds)
