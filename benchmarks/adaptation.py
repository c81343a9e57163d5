"""Adaptation to regimes that a model has not seen, against none and against plain fine-tuning, and its time on a CPU.

python -m benchmarks.adaptation

A model is trained on the built-in market with one regime left out, which then comes. Adapted on the first bars of each
stretch of it, with the labels known by then, the model is judged on the bars that follow. Four more regimes are part of no
built-in market: a crash, a mania, a calm, and one in which nothing foretells returns any more.

Fine-tuning takes as many gradient steps, on all weights of all members, by Adam, at the rate that did best on stretches of
the training market. Intervals are of the mean over stretches, by bootstrap, at 95%; a stretch counts once.
"""

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.bars import Bar, report
from benchmarks.regime_markets import LOOKBACK, TARGETS, Trained, Unseen, draw_market, held_out_market, train, unseen_regimes
from cryptoml.features.targets import Targets, make_targets
from cryptoml.models.adapter import forecast_tensors
from cryptoml.models.ensemble import Ensemble
from cryptoml.models.forecaster import Forecast, Forecaster
from cryptoml.training.adaptation import AdaptationConfig, adapt, build_learner, support_weights
from cryptoml.training.chunks import normalised_labels
from cryptoml.training.losses import multi_task_losses
from cryptoml.training.tasks import forecast_loss

__all__ = ["AdaptationArguments", "main"]

SHOTS = (10, 25, 50)
QUERY_BARS = 96
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
TUNED_ON = 12


@dataclass(frozen=True)
class AdaptationArguments:
    """Train on markets without one regime each, adapt to it, and print the losses. Exit code 1 where a bar is missed."""

    train_bars: int = 9000
    """Bars of the market to learn from."""
    test_bars: int = 30_000
    """Bars of the market in which the unseen regime comes."""
    epochs: int = 25
    """Epochs of training at most."""
    fine_tuned: int = 24
    """Stretches on which fine-tuning is tried: it is slow."""
    regimes: tuple[str, ...] = ()
    """Names of those to run; all by default."""
    seed: int = 0
    """Seed of markets and models."""


class Interval(NamedTuple):
    """A mean over stretches with its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True, eq=False)
class Arena:
    """Forecasts of a test market, time first, normalised."""

    trained: Trained
    features: np.ndarray
    forecast: Forecast
    labels: dict[str, torch.Tensor]

    @classmethod
    def of(cls, trained: Trained, features: np.ndarray, targets: Targets) -> "Arena":
        return cls(trained, features, _normalised(trained.ensemble, features), _labels(targets))

    def part(self, start: int, stop: int) -> tuple[Forecast, dict[str, torch.Tensor]]:
        """Return forecasts and labels of some origins."""
        return Forecast(*(part[start:stop] for part in self.forecast)), {n: v[start:stop] for n, v in self.labels.items()}

    def known(self, start: int, now: int) -> dict[str, torch.Tensor]:
        """Return the labels of `[start, now)` that are known by the close of bar `now - 1`; the others are missing."""
        labels = {name: value.clone() for name, value in self.part(start, now)[1].items()}
        origins = torch.arange(start, now)
        open_ = origins + TARGETS.primary_horizon >= now
        for name in ("direction", "regime"):
            labels[name][open_] = -1
        for name in ("volatility", "position_size"):
            labels[name][open_] = float("nan")
        for index, horizon in enumerate(TARGETS.horizons):
            labels["returns"][origins + horizon >= now, :, index] = float("nan")
        return labels


def _normalised(ensemble: Ensemble, features: np.ndarray) -> Forecast:
    found = ensemble.predict(features, np.ones(features.shape[:2]), LOOKBACK)
    roots = np.sqrt(np.asarray(TARGETS.horizons, dtype=np.float32))
    found = replace(found, volatility=found.volatility / TARGETS.primary_horizon**0.5, quantiles=found.quantiles / roots[:, None])
    return Forecast(*(part.nan_to_num().transpose(0, 1).contiguous() for part in forecast_tensors(found)))


def _labels(targets: Targets) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(value) for name, value in vars(targets).items() if isinstance(value, np.ndarray)}
    return {name: value.transpose(0, 1).contiguous() for name, value in normalised_labels(tensors, TARGETS).items()}


def stretches(regimes: np.ndarray, regime: int, first: int) -> list[int]:
    """Return where stretches of a regime begin that have room for support, labels and query."""
    edges = np.flatnonzero(np.diff(regimes.astype(int), prepend=-1, append=-1))
    need = SHOTS[-1] + QUERY_BARS + TARGETS.primary_horizon
    return [int(a) for a, b in pairwise(edges) if regimes[a] == regime and a >= first and b - a >= need]


def _loss(forecast: Forecast, labels: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        mask = torch.ones(forecast.direction.shape[:2], dtype=torch.bool)
        return float(sum(multi_task_losses(forecast, labels, mask, TARGETS.quantiles).values()))


def by_knobs(arena: Arena, start: int, shots: int) -> tuple[float, bool, float]:
    """Return the loss after adaptation as it is offered, whether it was accepted, and its seconds, forecasts included."""
    config, now = AdaptationConfig(), start + shots
    learner = build_learner(TARGETS, config, arena.trained.arrays)
    began = time.perf_counter()
    x = _normalised(arena.trained.ensemble, arena.features[:, start - LOOKBACK + 1 : now])
    x = Forecast(*(part[LOOKBACK - 1 :] for part in x))
    labels = arena.known(start, now)
    weights = support_weights(~labels["returns"].isnan(), TARGETS.horizons, config.prior_labels)
    adapter, outcome = adapt(learner, x, (labels, weights), TARGETS.quantiles)
    seconds = time.perf_counter() - began
    query, truth = arena.part(now, now + QUERY_BARS)
    with torch.no_grad():
        return _loss(adapter(*query), truth), outcome.accepted, seconds


def by_fine_tuning(arena: Arena, start: int, shots: int, rate: float) -> float:
    """Return the loss after gradient steps on all weights."""
    now, ensemble = start + shots, arena.trained.ensemble
    windows = torch.tensor(np.stack([arena.features[:, o - LOOKBACK + 1 : o + 1] for o in range(start, now)]))
    labels, mask = arena.known(start, now), torch.ones(shots, windows.shape[1], dtype=torch.bool)
    members = []
    for member in ensemble.members:
        tuned: Forecaster = copy.deepcopy(member).eval()
        optimizer = torch.optim.Adam(tuned.parameters(), rate)
        for _ in range(AdaptationConfig().num_inner_steps):
            optimizer.zero_grad()
            loss = forecast_loss(TARGETS.quantiles)(tuned(windows.nan_to_num(), ~windows.isnan()), (labels, mask))
            loss.backward()
            optimizer.step()
        members.append(tuned)
    query = _normalised(replace(ensemble, members=members), arena.features[:, now - LOOKBACK + 1 : now + QUERY_BARS])
    return _loss(Forecast(*(part[LOOKBACK - 1 :] for part in query)), arena.part(now, now + QUERY_BARS)[1])


def tuned_rate(trained: Trained) -> float:
    """Return the rate of fine-tuning that does best on stretches of the training market."""
    arena = Arena.of(trained, trained.data.features, trained.data.targets)
    edges = np.flatnonzero(np.diff(trained.regimes.astype(int))) + 1
    room = len(trained.regimes) - SHOTS[-1] - QUERY_BARS - TARGETS.primary_horizon
    starts = [int(edge) for edge in edges if 1300 < edge < room][-TUNED_ON:]
    losses = [np.mean([by_fine_tuning(arena, start, SHOTS[1], rate) for start in starts]) for rate in RATES]
    return RATES[int(np.argmin(losses))]


def interval(differences: Sequence[float]) -> Interval:
    """Return mean and bootstrap interval."""
    values, rng = np.asarray(differences), np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(4000, len(values)))].mean(axis=1)
    return Interval(float(values.mean()), *(float(one) for one in np.quantile(means, (0.025, 0.975))))


@dataclass(frozen=True)
class Row:
    """One line of the table: losses with `shots` bars of support, differences to no adaptation below 0 where better."""

    regime: str
    shots: int
    count: int
    unadapted: float
    knobs: Interval
    fine_tuned: Interval
    knobs_over_fine_tuned: Interval
    accepted: float
    seconds: float


def compare(unseen: Unseen, trained: Trained, rate: float, arguments: AdaptationArguments) -> list[Row]:
    """Adapt at every stretch of the unseen regime."""
    panel, regimes = draw_market(unseen.market, arguments.seed + 1)
    arena = Arena.of(trained, trained.scaled(panel), make_targets(panel, TARGETS))
    starts = stretches(regimes, unseen.left_out, trained.engineer.max_lookback + LOOKBACK)
    rows = []
    for shots in SHOTS:
        before = np.array([_loss(*arena.part(one + shots, one + shots + QUERY_BARS)) for one in starts])
        found = [by_knobs(arena, one, shots) for one in starts]
        after = np.array([loss for loss, _, _ in found])
        few = slice(0, arguments.fine_tuned)
        tuned = np.array([by_fine_tuning(arena, one, shots, rate) for one in starts[few]])
        rows.append(
            Row(
                unseen.name,
                shots,
                len(starts),
                float(before.mean()),
                interval(after - before),
                interval(tuned - before[few]),
                interval(after[few] - tuned),
                float(np.mean([accepted for _, accepted, _ in found])),
                max(seconds for _, _, seconds in found),
            )
        )
        _print(rows[-1], rate)
    return rows


def _print(row: Row, rate: float) -> None:
    sys.stdout.write(
        f"{row.regime:9} {row.shots:3} bars  {row.count:3} stretches  loss {row.unadapted:.3f}  adapted {row.knobs}  "
        f"fine-tuned at {rate:g} {row.fine_tuned}  adapted - fine-tuned {row.knobs_over_fine_tuned}  "
        f"accepted {row.accepted:.0%}  {row.seconds:.2f} s\n"
    )
    sys.stdout.flush()


def main(arguments: AdaptationArguments) -> int:
    """Run the benchmark and return the exit code."""
    torch.set_num_threads(1)
    wanted = [one for one in unseen_regimes(arguments.test_bars) if one.name in arguments.regimes or not arguments.regimes]
    rows: list[Row] = []
    for left_out in sorted({one.left_out for one in wanted}):
        began = time.perf_counter()
        config = held_out_market(left_out, arguments.train_bars)
        trained = train(config, arguments.seed, arguments.epochs, AdaptationConfig())
        rate = tuned_rate(trained)
        sys.stdout.write(f"trained without {left_out} in {time.perf_counter() - began:.0f} s, fine-tuning at {rate:g}\n")
        sys.stdout.flush()
        for unseen in wanted:
            if unseen.left_out == left_out:
                rows += compare(unseen, trained, rate, arguments)
    bars = []
    for row in rows:
        bars.append(Bar(f"{row.regime} {row.shots}: adapted - unadapted", row.knobs.high, most=0.0, note=f"{row.knobs}"))
        bars.append(
            Bar(
                f"{row.regime} {row.shots}: adapted - fine-tuned",
                row.knobs_over_fine_tuned.high,
                most=0.0,
                note=f"{row.knobs_over_fine_tuned}",
            )
        )
    bars.append(Bar("seconds of an adaptation", max(row.seconds for row in rows), most=2.0))
    return report("Adaptation: upper end of the interval of the difference in loss", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(AdaptationArguments)))
