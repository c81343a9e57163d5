"""Adapt an ensemble's forecasts to the newest bars of a regime, by MAML over the knobs of a `ForecastAdapter`.

Only labels that are known by the newest bar teach: returns of the shortest horizons, in units of the volatility known at
their origin. The medians' errors turn drift and strength, labels that span h bars counting 1/h as they overlap. The size of
moves, against the volatility forecast, turns volatility: absolute values, as a single shock hardly tells of the days after it.

Shape legend: shot = forecast origins in time order, asset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cryptoml.data.invented import InventionConfig
from cryptoml.errors import BundleError
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.models.adapter import NORMAL_MOVE, ForecastAdapter, forecast_tensors
from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast
from cryptoml.training.losses import SMALLEST_VOLATILITY, TASKS, multi_task_errors
from cryptoml.training.maml import AdaptationOutcome, MetaLearningMAML, verdict

__all__ = [
    "AdaptationConfig",
    "AdapterArrays",
    "Weighted",
    "adapt",
    "adapt_through",
    "adaptation_loss",
    "build_learner",
    "moves_of",
    "noise_scale",
    "support_set",
    "support_weights",
]

AdapterArrays: TypeAlias = Mapping[str, np.ndarray]
"""What a bundle keeps of a learner: effects of the knobs, and their learned step sizes."""

Weighted: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Labels, and how much each one counts."""


class AdaptationConfig(BaseModel):
    """How forecasts are adapted to a new regime, and how that is rehearsed beforehand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    support_bars: int = Field(50, ge=5, description="Newest bars that an adaptation learns from where it is not told")
    every_bars: int = Field(24, ge=1, description="Bars between the adaptations of an evaluation")
    inner_lr: float = Field(0.01, gt=0, description="Step size of adaptation, from which the learned ones start")
    num_inner_steps: int = Field(5, ge=1, description="Gradient steps of an adaptation")
    prior_labels: float = Field(50.0, ge=0, description="Independent labels that the unadapted forecast counts for")
    caution: float = Field(2.0, ge=0, description="Multiple of its noise at which half of what a knob was turned by is believed")
    rehearsals: int = Field(150, ge=0, description="Steps of meta-training; 0 leaves it out: bundles have no learned adapter")
    tasks: int = Field(24, ge=1, description="Tasks per step of meta-training")
    learning_rate: float = Field(0.05, gt=0, description="Step size of meta-training at its start")
    bars: int = Field(3000, ge=500, description="Newest bars of the past of which markets with invented regimes are made")
    known_bars: int = Field(9000, ge=500, description="Newest bars of the past by which it is judged what surprises foretell")
    known_weight: float = Field(
        10.0,
        ge=0,
        description="How much more a loss on the past as it was counts than one on invented regimes, for what is believed",
    )
    markets: int = Field(2, ge=1, description="Markets with invented regimes")
    invention: InventionConfig = InventionConfig()
    seed: int = Field(0, ge=0, description="Seed of meta-training")


def build_learner(
    targets: TargetConfig, config: AdaptationConfig, arrays: AdapterArrays | None = None, *, rate_scale: float = 1.0
) -> MetaLearningMAML:
    """Return the learner whose inner loop turns the knobs; their effects learn in the outer loop alone.

    Args:
        targets: Horizons and quantiles of the forecasts.
        config: Steps and their first size.
        arrays: What was learned before, from `learner.state_dict()`.
        rate_scale: Factor on the learned step sizes.

    Raises:
        BundleError: An array is missing or has another shape.
    """
    adapter = ForecastAdapter(targets.horizons, targets.quantiles)
    adapter.effects.requires_grad_(False)
    learner = MetaLearningMAML(adapter, config.inner_lr, config.num_inner_steps, learned_rates=True)
    if arrays:
        try:
            learner.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        except RuntimeError as error:
            raise BundleError(f"adapter: {' '.join(str(error).split())}") from None
    assert learner.log_rates is not None
    with torch.no_grad():
        learner.log_rates.add_(float(np.log(rate_scale)))
    return learner


def adaptation_loss(quantiles: Sequence[float], usual_move: float = NORMAL_MOVE) -> Callable[[Any, Weighted], Tensor]:
    """Return the loss of a forecast on weighted labels: the sum over tasks of weight times error.

    Labels that hold `moves` are a support set's, which the pinball loss of the median and the negative log likelihood of
    exponential moves, `ln v + m / v`, judge; all others are judged by every task, as in training.

    Args:
        quantiles: Levels of the forecasts.
        usual_move: Mean move, in units of the volatility forecast, where nothing shifts.
    """
    middle = min(range(len(quantiles)), key=lambda index: abs(quantiles[index] - 0.5))

    def loss(forecast: Any, y: Weighted) -> Tensor:
        labels, weights = y
        if "moves" not in labels:
            errors = multi_task_errors(forecast, labels, {task: weight > 0 for task, weight in weights.items()}, quantiles)
            return torch.stack([(errors[task] * weights[task]).sum() for task in TASKS]).sum()
        known = {name: torch.where(weight > 0, labels[name], 0.0) for name, weight in weights.items()}
        error = known["returns"] - forecast.quantiles[..., middle]
        level = quantiles[middle]
        missed = torch.maximum(level * error, (level - 1) * error)
        volatility = usual_move * forecast.volatility[..., 0].clamp(min=SMALLEST_VOLATILITY)
        surprise = volatility.log() + known["moves"] / volatility
        return (missed * weights["returns"]).sum() + (surprise * weights["moves"]).sum()

    return loss


def moves_of(returns: Float[Tensor, "*lead horizon"]) -> Float[Tensor, "*lead"]:
    """Return the size of moves, per root of a bar: the absolute normalised returns of the shortest horizon."""
    return returns[..., 0].abs()


def support_weights(
    known: Bool[Tensor, "*lead asset horizon"], horizons: Sequence[int], prior_labels: float
) -> dict[str, Float[Tensor, "..."]]:
    """Weigh the labels of a support set, whose shots and assets are the last axes before the horizon.

    Labels count by how little they overlap, and all of a kind together at most 1: their number over itself plus
    `prior_labels`.

    Args:
        known: Which returns are known, and forecast.
        horizons: Of the last axis.
        prior_labels: Independent labels that the unadapted forecast counts for.
    """
    unique = known / torch.tensor(horizons, dtype=torch.float32)
    moves = unique[..., :1]
    returns, moves = (one / (one.sum(dim=(-3, -2, -1), keepdim=True) + prior_labels) for one in (unique, moves))
    return {"returns": returns, "moves": moves[..., 0]}


def support_set(
    predictions: Predictions,
    sigma: Float[np.ndarray, "asset shot"],
    log_return: Float[np.ndarray, "asset shot horizon"],
    targets: TargetConfig,
    prior_labels: float,
) -> tuple[Forecast, Weighted]:
    """Return what `adapt` takes: forecasts in units of the volatility at their origin, and what came of them, time first.

    Args:
        predictions: Of an ensemble, in real units; NaN where there is none.
        sigma: Volatility per bar known at each origin; NaN where unknown.
        log_return: What is known of the returns after each origin, NaN where it is not.
        targets: Horizons and quantiles.
        prior_labels: As in `AdaptationConfig`.
    """
    per_bar = torch.from_numpy(sigma[..., None]).float()
    unit = per_bar * torch.tensor(targets.horizons).sqrt()
    forecast = forecast_tensors(predictions)
    volatility = forecast.volatility / (per_bar * targets.primary_horizon**0.5)
    scaled = forecast._replace(quantiles=forecast.quantiles / unit[..., None], volatility=volatility)
    x = Forecast(*(part.nan_to_num().transpose(0, 1).contiguous() for part in scaled))
    returns = (torch.from_numpy(log_return).float() / unit).transpose(0, 1).contiguous()
    present = ~(scaled.quantiles.isnan().any(dim=(-2, -1)) | volatility[..., 0].isnan()).T
    known = returns.isfinite() & present[..., None]
    return x, ({"returns": returns, "moves": moves_of(returns)}, support_weights(known, targets.horizons, prior_labels))


def adapt(
    learner: MetaLearningMAML, x: Forecast, y: Weighted, targets: TargetConfig, *, caution: float
) -> tuple[ForecastAdapter, AdaptationOutcome]:
    """Turn the knobs for a support set, unless that does worse on held-back parts of it; safe to call concurrently.

    Every fifth of the support is held back in turn. The losses of the outcome are means over independent labels, before what
    could be noise is taken back.

    Args:
        learner: From `build_learner`.
        x: Normalised forecasts `[shot, asset, ...]` without NaN.
        y: Their labels `[shot, asset, ...]` and `support_weights`.
        targets: Horizons and quantiles of the forecasts.
        caution: As in `AdaptationConfig`.
    """
    base = learner.base_model
    assert isinstance(base, ForecastAdapter)
    loss = adaptation_loss(targets.quantiles, base.usual_move.item())
    adapter, outcome = learner.adapt_and_report(x, y, loss, every_part=True)
    assert isinstance(adapter, ForecastAdapter)
    if outcome.accepted:
        adapter.turn(adapter.believed(adapter.adapted, noise_scale(y[1]["returns"], targets.horizons), caution))
    total = sum(weights.sum().item() for weights in y[1].values()) or 1.0
    found = verdict(outcome.loss_before / total, outcome.loss_after / total)
    return adapter, found if found.accepted == outcome.accepted else outcome


def noise_scale(weights: Float[Tensor, "shot asset horizon"], horizons: Sequence[int]) -> float:
    """Return `w / sqrt(n)` of n independent returns whose `support_weights` sum to w: noise, shrunk as what it is in."""
    independent = ((weights > 0) / torch.tensor(horizons, dtype=torch.float32)).sum().item()
    return weights.sum().item() / max(independent, 1.0) ** 0.5


def adapt_through(
    learner: MetaLearningMAML,
    predictions: Predictions,
    targets: Targets,
    target_config: TargetConfig,
    config: AdaptationConfig,
    first: int,
) -> Predictions:
    """Return the forecasts from bar `first` on as they would have been with an adaptation at every `every_bars`-th bar.

    Each adaptation starts from the base and learns the newest `support_bars` bars of all assets; what it learned moves the
    forecasts made from its bar on, until the next one.

    Args:
        learner: From `build_learner`.
        predictions: Of an ensemble, in real units `[asset, time, ...]`.
        targets: Of the same bars.
        target_config: What the targets were made with.
        config: Sizes.
        first: First bar to adapt at.
    """
    num_bars, parts = predictions.volatility.shape[1], []
    for start in range(first, num_bars, config.every_bars):
        seen, ahead = slice(max(0, start - config.support_bars), start), slice(start, min(start + config.every_bars, num_bars))
        log_return = targets.log_return[:, seen].copy()
        for index, horizon in enumerate(target_config.horizons):
            log_return[:, np.arange(seen.start, start) + horizon > start, index] = np.nan
        sigma = targets.sigma[:, seen]
        x, y = support_set(predictions.on_bars(seen), sigma, log_return, target_config, config.prior_labels)
        moved = predictions.on_bars(ahead)
        if len(x.direction):
            adapter, _ = adapt(learner, x, y, target_config, caution=config.caution)
            moved = adapter.apply_to(moved, targets.sigma[:, ahead], target_config.horizons)
        parts.append(moved)
    return Predictions(
        **{part.name: np.concatenate([getattr(one, part.name) for one in parts], axis=1) for part in fields(Predictions)}
    )
