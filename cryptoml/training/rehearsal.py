"""Rehearse adaptation on markets with invented regimes, so that a real one that nobody has seen finds it prepared.

Meta-training learns what each knob of a `ForecastAdapter` does to every output, and how far a step may go. A task is a
place in an invented market: the last bars before it are the support, with the labels known by then, and the bars after it
the query. The base forecasts stay as they are, so that nothing but the adapter is trained.

Shape legend: task, shot = forecast origins in time order, asset.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryptoml.data.invented import invent_regimes
from cryptoml.data.panel import Panel
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.models.adapter import ForecastAdapter, forecast_tensors
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import Forecast
from cryptoml.training.adaptation import (
    AdaptationConfig,
    AdapterArrays,
    Weighted,
    adaptation_loss,
    build_learner,
    noise_scale,
    support_weights,
)
from cryptoml.training.chunks import normalised_labels
from cryptoml.training.losses import label_masks
from cryptoml.training.maml import MetaLearningMAML

__all__ = ["Stage", "learn_adapter", "normalised_stage"]

SHOTS = 50
FEWEST_SHOTS = 10
QUIET_TASKS = 48
"""Adaptations by which noise is measured."""
AT_A_TURN = 0.5
"""Share of tasks that begin where an invented regime does."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Forecasts of one market with what came of them, time first: normalised, NaN filled.

    Attributes:
        forecast: `[time, asset, ...]`.
        labels: `[time, asset, ...]`.
        present: Bool `[time, asset]`: there is a forecast.
        turns: Bars at which regimes begin.
    """

    forecast: Forecast
    labels: dict[str, Tensor]
    present: Tensor
    turns: Int[np.ndarray, " turn"]

    @property
    def num_bars(self) -> int:
        """Length of the time axis."""
        return len(self.present)


def learn_adapter(
    ensemble: Ensemble,
    panel: Panel,
    engineer: AdvancedFeatureEngineer,
    scaler: FeatureScaler,
    targets: TargetConfig,
    context_bars: int,
    config: AdaptationConfig,
) -> AdapterArrays:
    """Meta-train an adapter of an ensemble on its past.

    Args:
        ensemble: The fitted and calibrated models.
        panel: The past, and nothing after it: all that training and calibration could read.
        engineer: Of the ensemble's features.
        scaler: Of the ensemble's features.
        targets: Horizons and quantiles.
        context_bars: Bars of history that a forecast reads.
        config: Sizes.

    Returns:
        What `build_learner` takes; as it starts where `rehearsals` is 0 or the past is too short for one task.
    """
    learner = build_learner(targets, config)
    query_bars = max(48, 2 * targets.primary_horizon)
    panel = panel.slice_time(max(0, panel.num_bars - config.bars - max(engineer.max_lookback, targets.sigma_window_bars)), None)
    rng = np.random.default_rng(config.seed)
    if config.rehearsals and _last_origin(panel.num_bars, query_bars, targets) > 0:
        markets = [invent_regimes(panel, config.invention, rng) for _ in range(config.markets)]
        stages = [normalised_stage(ensemble, market, turns, engineer, scaler, targets, context_bars) for market, turns in markets]
        learner.requires_grad_(True)  # the inner loop goes on turning the knobs alone, which it knows by name
        learned = [value for name, value in learner.named_parameters() if ".knobs." not in name]
        optimizer = torch.optim.Adam(learned, config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.rehearsals)
        loss = adaptation_loss(targets.quantiles)
        for _ in range(config.rehearsals):
            batch = _tasks(stages[rng.integers(len(stages))], query_bars, targets, config, rng)
            learner.outer_step(*batch, loss, optimizer)
            schedule.step()
        calm = normalised_stage(ensemble, panel, np.empty(0, int), engineer, scaler, targets, context_bars)
        _adapter(learner).effects.requires_grad_(False)
        _adapter(learner).noise.copy_(_noise(learner, calm, targets, config, rng))
    return {name: value.detach().numpy() for name, value in learner.state_dict().items()}


def _adapter(learner: MetaLearningMAML) -> ForecastAdapter:
    assert isinstance(learner.base_model, ForecastAdapter)
    return learner.base_model


def _noise(
    learner: MetaLearningMAML, stage: Stage, targets: TargetConfig, config: AdaptationConfig, rng: np.random.Generator
) -> Tensor:
    """Return how far each knob is turned on the past as it was, which the models know: the noise of an adaptation."""
    shots = rng.integers(FEWEST_SHOTS, SHOTS + 1, QUIET_TASKS)
    starts = rng.integers(0, _last_origin(stage.num_bars, 0, targets), QUIET_TASKS)
    loss, turned = adaptation_loss(targets.quantiles), []
    for start, count in zip(starts.tolist(), shots.tolist(), strict=True):
        origins = torch.arange(start, start + count)[None]
        everything = torch.ones((), dtype=torch.bool)
        labels, weights = ({n: v[0] for n, v in one.items()} for one in _support(stage, origins, everything, targets, config))
        scale = noise_scale(weights["returns"], targets.horizons)
        if scale > 0:
            x = Forecast(*(part[0] for part in _at(stage.forecast, origins)))
            adapter = learner.descended(x, (labels, weights), loss)
            assert isinstance(adapter, ForecastAdapter)
            turned.append(torch.tensor(adapter.adapted) / scale)
    return torch.stack(turned).square().mean(dim=0).sqrt() if turned else _adapter(learner).noise


def normalised_stage(
    ensemble: Ensemble,
    panel: Panel,
    turns: Int[np.ndarray, " turn"],
    engineer: AdvancedFeatureEngineer,
    scaler: FeatureScaler,
    targets: TargetConfig,
    context_bars: int,
) -> Stage:
    """Forecast every bar of a market by the dense pass, beside its labels."""
    found = make_targets(panel, targets)
    predictions = ensemble.rehearse(scaler.transform(build_features(panel, engineer).values), context_bars)
    tensors = {name: torch.from_numpy(value) for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    labels = normalised_labels(tensors, targets)
    present = torch.from_numpy(~np.isnan(predictions.probabilities).any(axis=-1))
    return Stage(
        Forecast(*(part.nan_to_num().transpose(0, 1).contiguous() for part in forecast_tensors(predictions))),
        {name: value.transpose(0, 1).contiguous() for name, value in labels.items()},
        present.T.contiguous(),
        turns,
    )


def _last_origin(num_bars: int, query_bars: int, targets: TargetConfig) -> int:
    """Return the last bar at which a support set can begin."""
    return num_bars - SHOTS - query_bars - targets.horizons[-1]


def _tasks(
    stage: Stage, query_bars: int, targets: TargetConfig, config: AdaptationConfig, rng: np.random.Generator
) -> tuple[Forecast, Weighted, Forecast, Weighted]:
    """Draw tasks: support x and y, query x and y, `[task, shot, asset, ...]`."""
    shots = rng.integers(FEWEST_SHOTS, SHOTS + 1, config.tasks)
    starts = _starts(stage, shots, _last_origin(stage.num_bars, query_bars, targets), rng)
    support = torch.from_numpy(starts[:, None] + np.arange(SHOTS))
    query = torch.from_numpy(starts[:, None] + SHOTS + np.arange(query_bars))
    chosen = _chosen_assets(config.tasks, stage.present.shape[1], rng)
    given = torch.from_numpy(np.arange(SHOTS) >= SHOTS - shots[:, None])[:, :, None] & chosen
    return (
        _at(stage.forecast, support),
        _support(stage, support, given, targets, config),
        _at(stage.forecast, query),
        _query(stage, query, chosen.expand(-1, query_bars, -1)),
    )


def _starts(stage: Stage, shots: Int[np.ndarray, " task"], last: int, rng: np.random.Generator) -> Int[np.ndarray, " task"]:
    """Draw where support sets begin; half of them so that their shots are the first ones of an invented regime."""
    anywhere = rng.integers(0, last + 1, len(shots))
    if not len(stage.turns):
        return anywhere
    at_turn = rng.choice(stage.turns, len(shots)) + shots - SHOTS
    usable = (at_turn >= 0) & (at_turn <= last) & (rng.random(len(shots)) < AT_A_TURN)
    return np.where(usable, at_turn, anywhere)


def _chosen_assets(tasks: int, assets: int, rng: np.random.Generator) -> Tensor:
    """Choose the assets of each task, bool `[task, 1, asset]`: all of them, or some."""
    keys = rng.random((tasks, assets))
    count = np.where(rng.random(tasks) < 0.5, assets, rng.integers(1, assets + 1, tasks))
    return torch.from_numpy(keys.argsort(axis=1).argsort(axis=1) < count[:, None])[:, None]


def _at(forecast: Sequence[Tensor], origins: Int[Tensor, "task shot"]) -> Forecast:
    return Forecast(*(part[origins] for part in forecast))


def _support(stage: Stage, origins: Tensor, given: Tensor, targets: TargetConfig, config: AdaptationConfig) -> Weighted:
    labels = {name: value[origins] for name, value in stage.labels.items()}
    ends = origins[:, :, None] + torch.tensor(targets.horizons)
    in_time = (ends <= origins[:, -1, None, None])[:, :, None]
    known = ~labels["returns"].isnan() & (given & stage.present[origins])[..., None] & in_time
    return labels, support_weights(known, targets.horizons, config.prior_labels)


def _query(stage: Stage, origins: Tensor, chosen: Tensor) -> Weighted:
    """Weigh every task's labels so that each task counts as its mean, per market task."""
    labels = {name: value[origins] for name, value in stage.labels.items()}
    masks = label_masks(labels, chosen & stage.present[origins])
    counts = {name: mask.flatten(1).sum(dim=1).clamp(min=1) for name, mask in masks.items()}
    return labels, {name: mask / counts[name].view(-1, *(1,) * (mask.ndim - 1)) for name, mask in masks.items()}
