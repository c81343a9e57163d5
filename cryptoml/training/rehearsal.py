"""Rehearse adaptation on markets with invented regimes, so that a real one that nobody has seen finds it prepared.

Meta-training learns what each knob of a `ForecastAdapter` does to every output, and how far a step may go. A task is a
place in an invented market: the last bars before it are the support, with the labels known by then, and the bars after it
the query. The base forecasts stay as they are, so that nothing but the adapter is trained. What of an adaptation is then
believed is learned from invented markets and from the past as it was together (`cryptoml.training.belief`).

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
from cryptoml.models.adapter import KNOBS, NORMAL_MOVE, ForecastAdapter, forecast_tensors
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import Forecast
from cryptoml.training.adaptation import (
    AdaptationConfig,
    AdapterArrays,
    Weighted,
    adaptation_loss,
    build_learner,
    moves_of,
    noise_scale,
    support_weights,
)
from cryptoml.training.belief import Trials, learn_beliefs
from cryptoml.training.chunks import normalised_labels
from cryptoml.training.losses import SMALLEST_VOLATILITY, label_masks
from cryptoml.training.maml import MetaLearningMAML

__all__ = ["Stage", "learn_adapter", "normalised_stage"]

SHOTS = 50
FEWEST_SHOTS = 10
TRIED = 64
"""Adaptations in each invented market by which it is judged what to believe."""
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
    history = max(engineer.max_lookback, targets.sigma_window_bars)
    recent, known = (panel.slice_time(max(0, panel.num_bars - bars - history), None) for bars in (config.bars, config.known_bars))
    rng = np.random.default_rng(config.seed)
    if config.rehearsals and _last_origin(recent.num_bars, query_bars, targets) > 0:
        past = normalised_stage(ensemble, known, np.empty(0, int), engineer, scaler, targets, context_bars)
        _adapter(learner).usual_move.copy_(_usual_move(past))
        markets = [invent_regimes(recent, config.invention, rng) for _ in range(config.markets)]
        stages = [normalised_stage(ensemble, market, turns, engineer, scaler, targets, context_bars) for market, turns in markets]
        learner.requires_grad_(True)  # the inner loop goes on turning the knobs alone, which it knows by name
        learned = [value for name, value in learner.named_parameters() if ".knobs." not in name]
        optimizer = torch.optim.Adam(learned, config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.rehearsals)
        loss = adaptation_loss(targets.quantiles, _adapter(learner).usual_move.item())
        for _ in range(config.rehearsals):
            batch = _tasks(stages[rng.integers(len(stages))], query_bars, targets, config, rng)
            learner.outer_step(*batch, loss, optimizer)
            schedule.step()
        _adapter(learner).effects.requires_grad_(False)
        _learn_beliefs(learner, past, stages, query_bars, targets, config, rng)
    return {name: value.detach().numpy() for name, value in learner.state_dict().items()}


def _adapter(learner: MetaLearningMAML) -> ForecastAdapter:
    assert isinstance(learner.base_model, ForecastAdapter)
    return learner.base_model


def _usual_move(stage: Stage) -> Tensor:
    """Return the mean move of the past, in units of the volatility forecast; as it starts where there is none."""
    moves = moves_of(stage.labels["returns"]) / stage.forecast.volatility[..., 0].clamp(min=SMALLEST_VOLATILITY)
    known = moves[stage.present & moves.isfinite()]
    return known.mean() if len(known) else torch.tensor(NORMAL_MOVE)


def _learn_beliefs(
    learner: MetaLearningMAML,
    past: Stage,
    invented: Sequence[Stage],
    query_bars: int,
    targets: TargetConfig,
    config: AdaptationConfig,
    rng: np.random.Generator,
) -> None:
    """Try adaptations all over the past, one stretch of bars after the other, and at the places of tasks in invented markets."""
    everywhere = np.arange(0, max(1, _last_origin(past.num_bars, query_bars, targets)), query_bars)
    chosen = [(past, everywhere, rng.integers(FEWEST_SHOTS, SHOTS + 1, len(everywhere)))]
    for stage in invented:
        shots = rng.integers(FEWEST_SHOTS, SHOTS + 1, TRIED)
        chosen.append((stage, _starts(stage, shots, _last_origin(stage.num_bars, query_bars, targets), rng), shots))
    trials = [_tried(learner, *place, query_bars, targets, config) for place in chosen]
    if min(len(one.scale) for one in trials) > 1:
        losses = torch.cat([one.losses for one in trials[1:]], dim=-1)
        knobs, scale = (torch.cat([getattr(one, name) for one in trials[1:]]) for name in ("knobs", "scale"))
        adapter = _adapter(learner)
        learn_beliefs(adapter, trials[0], Trials(knobs, scale, losses), config.known_weight, config.caution)


def _tried(
    learner: MetaLearningMAML,
    stage: Stage,
    starts: Int[np.ndarray, " task"],
    shots: Int[np.ndarray, " task"],
    query_bars: int,
    targets: TargetConfig,
    config: AdaptationConfig,
) -> Trials:
    """Adapt by the last `shots` bars of each support set, and judge on the bars after it."""
    adapter = _adapter(learner)
    loss, turned, scales, queries = adaptation_loss(targets.quantiles, adapter.usual_move.item()), [], [], []
    for start, count in zip(starts.tolist(), shots.tolist(), strict=True):
        origins = torch.arange(start + SHOTS - count, start + SHOTS)[None]
        everything = torch.ones((), dtype=torch.bool)
        labels, weights = ({n: v[0] for n, v in one.items()} for one in _support(stage, origins, everything, targets, config))
        scale = noise_scale(weights["returns"], targets.horizons)
        if scale > 0:
            x = Forecast(*(part[0] for part in _at(stage.forecast, origins)))
            adapted = learner.descended(x, (labels, weights), loss)
            assert isinstance(adapted, ForecastAdapter)
            turned.append(adapted.adapted)
            scales.append(scale)
            queries.append(start + SHOTS)
    query = torch.tensor(queries, dtype=torch.long)[:, None] + torch.arange(query_bars)
    judged = _at(stage.forecast, query), _query(stage, query, torch.ones(1, 1, 1, dtype=torch.bool))
    return Trials.of(adapter, torch.tensor(turned).reshape(-1, len(KNOBS)), torch.tensor(scales), judged)


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
    returns = stage.labels["returns"][origins]
    ends = origins[:, :, None] + torch.tensor(targets.horizons)
    in_time = (ends <= origins[:, -1, None, None])[:, :, None]
    known = ~returns.isnan() & (given & stage.present[origins])[..., None] & in_time
    return {"returns": returns, "moves": moves_of(returns)}, support_weights(known, targets.horizons, config.prior_labels)


def _query(stage: Stage, origins: Tensor, chosen: Tensor) -> Weighted:
    """Weigh every task's labels so that each task counts as its mean, per market task."""
    labels = {name: value[origins] for name, value in stage.labels.items()}
    masks = label_masks(labels, chosen & stage.present[origins])
    counts = {name: mask.flatten(1).sum(dim=1).clamp(min=1) for name, mask in masks.items()}
    return labels, {name: mask / counts[name].view(-1, *(1,) * (mask.ndim - 1)) for name, mask in masks.items()}
