"""Ways of meeting a regime that a model has not seen: adaptation, fine-tuning, and how far any way could get.

Shape legend: time first, then asset. A stretch of a regime begins at bar `start`, from whose close on returns are of it. With
n bars of support the newest bar is `start + n`, whose forecast is the first of the query.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from benchmarks.regime_markets import LOOKBACK, TARGETS, Trained
from cryptoml.data.panel import Panel
from cryptoml.features.targets import make_targets
from cryptoml.models.adapter import ADAPTER_PREFIX, KNOBS, ForecastAdapter, Knobs, forecast_tensors
from cryptoml.models.ensemble import Ensemble, Predictions
from cryptoml.models.forecaster import Forecast, Forecaster
from cryptoml.training.adaptation import AdaptationConfig, AdapterArrays, adapt, build_learner, support_set
from cryptoml.training.chunks import normalised_labels
from cryptoml.training.losses import multi_task_losses
from cryptoml.training.tasks import forecast_loss

__all__ = [
    "LONGEST",
    "QUERY_BARS",
    "Arena",
    "Guess",
    "by_fine_tuning",
    "by_knobs",
    "by_truth",
    "stretches",
    "told_beliefs",
    "tuned_rate",
]

QUERY_BARS, LONGEST = 96, 50
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
DRIFTS = tuple(np.arange(-0.15, 0.151, 0.025))
VOLATILITIES = (-1.2, -0.8, -0.5, -0.3, -0.15, 0.0, 0.15, 0.3, 0.5, 0.8, 1.2)


@dataclass(frozen=True, eq=False)
class Arena:
    """Forecasts of a market by a trained model, in units of the volatility known at their origin, and what came of them.

    Attributes:
        features: Scaled `[asset, time, feature]`.
        predictions: `[asset, time, ...]`; volatility per bar.
        log_return: `[asset, time, horizon]` in sigmas, not divided by the root of the horizon.
        labels: As losses take them, time first.
        arrays: What was learned in rehearsal.
    """

    trained: Trained
    features: np.ndarray
    predictions: Predictions
    log_return: np.ndarray
    labels: dict[str, torch.Tensor]
    arrays: AdapterArrays

    @classmethod
    def of(
        cls,
        trained: Trained,
        panel: Panel,
        arrays: AdapterArrays,
        starts: Sequence[int],
        features: np.ndarray | None = None,
    ) -> "Arena":
        """Forecast the stretches of a market that begin at `starts`; `features` are its scaled ones, computed where None."""
        features, targets = trained.scaled(panel) if features is None else features, make_targets(panel, trained.targets)
        tensors = {name: torch.from_numpy(value) for name, value in vars(targets).items() if isinstance(value, np.ndarray)}
        labels = {name: value.transpose(0, 1).contiguous() for name, value in normalised_labels(tensors, TARGETS).items()}
        predictions = _forecast_stretches(trained.ensemble, features, starts)
        return cls(trained, features, predictions, targets.log_return / targets.sigma[..., None], labels, arrays)

    def query(self, now: int) -> tuple[Predictions, dict[str, torch.Tensor]]:
        """Return the forecasts from bar `now` on, and their labels."""
        bars = slice(now, now + QUERY_BARS)
        return self.predictions.on_bars(bars), {name: value[bars] for name, value in self.labels.items()}

    def loss(self, now: int, adapter: ForecastAdapter | None = None) -> float:
        """Return the loss of the forecasts from bar `now` on, moved by an adapter."""
        predictions, labels = self.query(now)
        if adapter is not None:
            predictions = adapter.apply_to(predictions, np.ones(predictions.volatility.shape, np.float32), TARGETS.horizons)
        return _loss(predictions, labels)

    def known_returns(self, start: int, now: int) -> np.ndarray:
        """Return the returns after origins from `start` to `now` that are known at the close of bar `now`; NaN where not."""
        returns = self.log_return[:, start : now + 1].copy()
        for index, horizon in enumerate(TARGETS.horizons):
            returns[:, np.arange(start, now + 1) + horizon > now, index] = np.nan
        return returns


def _in_sigmas(ensemble: Ensemble, features: np.ndarray) -> Predictions:
    return ensemble.predict(features, np.ones(features.shape[:2], np.float32), LOOKBACK)


def _forecast_stretches(ensemble: Ensemble, features: np.ndarray, starts: Sequence[int]) -> Predictions:
    """Forecast from the bars of all stretches, `[asset, time, ...]`; NaN elsewhere."""
    wanted = np.zeros(features.shape[1], bool)
    for start in starts:
        wanted[start : start + LONGEST + QUERY_BARS] = True
    edges = np.flatnonzero(np.diff(wanted.astype(int), prepend=0, append=0)).reshape(-1, 2)
    whole: dict[str, np.ndarray] = {}
    for first, stop in edges.tolist():
        found = _in_sigmas(ensemble, features[:, first - LOOKBACK + 1 : stop]).on_bars(slice(LOOKBACK - 1, None))
        for name, part in vars(found).items():
            shape = (*features.shape[:2], *part.shape[2:])
            whole.setdefault(name, np.full(shape, np.nan, np.float32))[:, first:stop] = part
    return Predictions(**whole)


def _loss(predictions: Predictions, labels: dict[str, torch.Tensor]) -> float:
    """Sum the five tasks' losses, as in training without their learned weights."""
    roots = np.sqrt(np.asarray(TARGETS.horizons, dtype=np.float32))[:, None]
    volatility = predictions.volatility / TARGETS.primary_horizon**0.5
    scaled = replace(predictions, volatility=volatility, quantiles=predictions.quantiles / roots)
    forecast = Forecast(*(part.nan_to_num().transpose(0, 1) for part in forecast_tensors(scaled)))
    with torch.no_grad():
        mask = torch.ones(forecast.direction.shape[:2], dtype=torch.bool)
        return float(sum(multi_task_losses(forecast, labels, mask, TARGETS.quantiles).values()))


def stretches(regimes: np.ndarray, regime: int, first: int) -> list[int]:
    """Return where stretches of a regime begin that have room for support, query and labels."""
    edges = np.flatnonzero(np.diff(regimes.astype(int), prepend=-1, append=-1))
    need = LONGEST + QUERY_BARS + TARGETS.primary_horizon
    return [int(a) for a, b in pairwise(edges) if regimes[a] == regime and a >= first and b - a >= need]


def by_knobs(arena: Arena, start: int, shots: int, *, timed: bool = False) -> tuple[float, bool, float]:
    """Return the loss after adaptation as it is offered, whether it was accepted, and its seconds.

    Where `timed` the support is forecast anew, as it is in use, and the seconds count that.
    """
    config, now = AdaptationConfig(), start + shots
    learner = build_learner(TARGETS, config, arena.arrays)
    began = time.perf_counter()
    seen = arena.predictions.on_bars(slice(start, now + 1))
    if timed:
        features = arena.features[:, start - LOOKBACK + 1 : now + 1]
        seen = _in_sigmas(arena.trained.ensemble, features).on_bars(slice(LOOKBACK - 1, None))
    ones = np.ones(seen.volatility.shape, np.float32)
    x, y = support_set(seen, ones, arena.known_returns(start, now), TARGETS, config.prior_labels)
    adapter, outcome = adapt(learner, x, y, TARGETS, caution=config.caution)
    seconds = time.perf_counter() - began
    return arena.loss(now, adapter), outcome.accepted, seconds


def by_fine_tuning(arena: Arena, start: int, shots: int, rate: float) -> float:
    """Return the loss after as many gradient steps on all weights of all members, by Adam, over chunks as in training."""
    now, ensemble = start + shots, arena.trained.ensemble
    chunk = torch.tensor(arena.features[None, :, start - LOOKBACK + 1 : now + 1])
    labels, mask = _known_labels(arena, start, now), torch.ones(1, chunk.shape[1], shots + 1, dtype=torch.bool)
    members = []
    for member in ensemble.members:
        tuned: Forecaster = copy.deepcopy(member).eval()
        optimizer = torch.optim.Adam(tuned.parameters(), rate)
        for _ in range(AdaptationConfig().num_inner_steps):
            optimizer.zero_grad()
            dense = tuned.dense(chunk.nan_to_num(), ~chunk.isnan())
            forecast = Forecast(*(part[:, :, LOOKBACK - 1 :] for part in dense))
            loss = forecast_loss(TARGETS.quantiles)(forecast, (labels, mask))
            loss.backward()
            optimizer.step()
        members.append(tuned)
    predictions = _in_sigmas(replace(ensemble, members=members), arena.features[:, now - LOOKBACK + 1 : now + QUERY_BARS])
    return _loss(predictions.on_bars(slice(LOOKBACK - 1, None)), arena.query(now)[1])


def _known_labels(arena: Arena, start: int, now: int) -> dict[str, torch.Tensor]:
    """Return all labels that are known at the close of bar `now`, `[1, asset, origin, ...]`; the others are missing."""
    labels = {name: value[start : now + 1].clone() for name, value in arena.labels.items()}
    origins = torch.arange(start, now + 1)
    open_ = origins + TARGETS.primary_horizon > now
    for name in ("direction", "regime"):
        labels[name][open_] = -1
    for name in ("volatility", "position_size"):
        labels[name][open_] = float("nan")
    for index, horizon in enumerate(TARGETS.horizons):
        labels["returns"][origins + horizon > now, :, index] = float("nan")
    return {name: value.transpose(0, 1)[None] for name, value in labels.items()}


def tuned_rate(trained: Trained, arrays: AdapterArrays, tries: int = 12) -> float:
    """Return the rate of fine-tuning that does best on stretches of the training market."""
    edges = np.flatnonzero(np.diff(trained.regimes.astype(int))) + 1
    room = len(trained.regimes) - LONGEST - QUERY_BARS - TARGETS.primary_horizon
    starts = [int(edge) for edge in edges if 1300 < edge < room][-tries:]
    arena = Arena.of(trained, trained.panel, arrays, starts, trained.data.features)
    losses = [np.mean([by_fine_tuning(arena, start, 25, rate) for start in starts]) for rate in RATES]
    return RATES[int(np.argmin(losses))]


def told_beliefs(arrays: AdapterArrays) -> str:
    """Return how much of usual and of large surprises is believed, per knob."""
    trust = arrays[f"{ADAPTER_PREFIX}trust"]
    shares = (f"{name} {usual:.0%} to {beyond:.0%}" for name, (usual, beyond) in zip(KNOBS, trust, strict=True))
    return "believed of usual to large surprises: " + ", ".join(shares)


@dataclass(frozen=True)
class Guess:
    """What an oracle knows of shifts of a regime.

    Attributes:
        spread: Standard deviation of the drifts, in sigmas per bar, among regimes.
        correlation: Between the returns of two assets.
    """

    spread: float = 0.05
    correlation: float = 0.3

    def drift(self, residuals: np.ndarray) -> float:
        """Return the posterior mean of a normal drift given one-bar residuals `[asset, bar]` of unit variance in sigmas.

        The mean of n bars of N assets with correlation c has variance (1 + (N - 1) c) / (n N).
        """
        assets, bars = residuals.shape
        noise = (1 + (assets - 1) * self.correlation) / (assets * bars)
        return float(np.nanmean(residuals) * self.spread**2 / (self.spread**2 + noise))


def by_truth(arena: Arena, starts: Sequence[int], shots: int, guess: Guess | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of two oracles at each stretch, by the learned effects of the knobs.

    The first one knows the regime: drift and volatility that are best on all other stretches (in two halves). The second one
    does not, but knows the volatility, how drifts spread among regimes and how noise is correlated: drift is the posterior
    mean given the support. The first is out of reach for what sees the support only, the second is how far it could get.
    """
    guess, base = guess or Guess(), build_learner(TARGETS, AdaptationConfig(), arena.arrays).base_model
    assert isinstance(base, ForecastAdapter)
    nows = [start + shots for start in starts]
    volatility = [[arena.loss(now, base.turned(Knobs(0.0, one, 0.0))) for now in nows] for one in VOLATILITIES]
    loudness = [VOLATILITIES[best] for best in _best_elsewhere(np.array(volatility))]
    drift = [
        [arena.loss(now, base.turned(Knobs(one, loud, 0.0))) for now, loud in zip(nows, loudness, strict=True)] for one in DRIFTS
    ]
    losses = np.array(drift)
    known = losses[_best_elsewhere(losses), np.arange(len(nows))]
    believed = []
    for start, now, loud in zip(starts, nows, loudness, strict=True):
        seen = arena.predictions.quantiles[:, start:now, 0, base.middle]
        residuals = arena.known_returns(start, now)[:, :-1, 0] - seen
        believed.append(arena.loss(now, base.turned(Knobs(guess.drift(residuals), loud, 0.0))))
    return known, np.array(believed)


def _best_elsewhere(losses: np.ndarray) -> np.ndarray:
    """Return which row is best on the other half of the columns, for each column of `[choice, stretch]`."""
    even = np.arange(losses.shape[1]) % 2 == 0
    if even.all():
        return np.zeros(losses.shape[1], int) + losses.mean(axis=1).argmin()
    return np.where(even, losses[:, ~even].mean(axis=1).argmin(), losses[:, even].mean(axis=1).argmin())
