"""Adaptation to regimes that a model has not seen, against none and against plain fine-tuning, and its time on a CPU.

python -m benchmarks.adaptation --regimes BEAR --models runs/adaptation

A model is trained on the built-in market with one regime left out, which then comes. Adapted on the first bars of each
stretch of it, with the labels known by then, the model is judged on the bars that follow. Four more regimes are part of no
built-in market: a crash, a mania, a calm, and one in which nothing foretells returns any more.

Fine-tuning takes as many gradient steps, on all weights of all members, by Adam, at the rate that did best on stretches of
the training market. Two oracles say what is there to gain: one knows the regime, one only how regimes differ. Intervals are
of the mean over stretches, by bootstrap, at 95%; a stretch counts once.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.adaptation_methods import Arena, by_fine_tuning, by_knobs, by_truth, stretches, told_beliefs, tuned_rate
from benchmarks.bars import Bar, report
from benchmarks.regime_markets import LOOKBACK, Trained, Unseen, draw_market, held_out_market, train, unseen_regimes
from cryptoml.training.adaptation import AdaptationConfig, AdapterArrays

__all__ = ["AdaptationArguments", "Interval", "Row", "compare", "interval", "judge", "main"]

SHOTS = (10, 25, 50)
TIMED = 5


@dataclass(frozen=True)
class AdaptationArguments:
    """Train on markets without one regime each, adapt to it, and print the losses. Exit code 1 where a bar is missed."""

    train_bars: int = 9000
    """Bars of the market to learn from."""
    test_bars: int = 60_000
    """Bars of the market in which the unseen regime comes."""
    epochs: int = 25
    """Epochs of training at most."""
    stretches: int = 60
    """Stretches of the unseen regime to adapt in, at most."""
    fine_tuned: int = 60
    """Stretches on which fine-tuning is tried, at most: it is slow."""
    regimes: tuple[str, ...] = ()
    """Names of those to run; all by default."""
    models: Path | None = None
    """Folder to keep the trained models in, and to take them from."""
    seed: int = 0
    """Seed of markets and models."""


class Interval(NamedTuple):
    """A mean over stretches with its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def interval(differences: Sequence[float] | np.ndarray) -> Interval:
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
    knowing: Interval
    guessing: Interval
    accepted: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.regime:9} {self.shots:3} bars  {self.count:3} stretches  loss {self.unadapted:.3f}  adapted {self.knobs}  "
            f"fine-tuned {self.fine_tuned}  adapted - fine-tuned {self.knobs_over_fine_tuned}  knowing it {self.knowing}  "
            f"guessing it {self.guessing}  accepted {self.accepted:.0%}  {self.seconds:.2f} s"
        )


def judge(name: str, arena: Arena, starts: Sequence[int], shots: int, rate: float, fine_tuned: int) -> Row:
    """Adapt at every stretch with `shots` bars of support."""
    before = np.array([arena.loss(one + shots) for one in starts])
    found = [by_knobs(arena, one, shots) for one in starts]
    after = np.array([loss for loss, _, _ in found])
    few = slice(0, fine_tuned)
    tuned = np.array([by_fine_tuning(arena, one, shots, rate) for one in starts[few]])
    knowing, guessing = by_truth(arena, starts, shots)
    return Row(
        name,
        shots,
        len(starts),
        float(before.mean()),
        interval(after - before),
        interval(tuned - before[few]),
        interval(after[few] - tuned),
        interval(knowing - before),
        interval(guessing - before),
        float(np.mean([accepted for _, accepted, _ in found])),
        max(by_knobs(arena, one, shots, timed=True)[2] for one in starts[:TIMED]),
    )


def compare(unseen: Unseen, trained: Trained, arrays: AdapterArrays, rate: float, arguments: AdaptationArguments) -> list[Row]:
    """Adapt at every stretch of the unseen regime."""
    panel, regimes = draw_market(unseen.market, arguments.seed + 1)
    starts = stretches(regimes, unseen.left_out, trained.engineer.max_lookback + LOOKBACK)[: arguments.stretches]
    arena = Arena.of(trained, panel, arrays, starts)
    rows = []
    for shots in SHOTS:
        rows.append(judge(unseen.name, arena, starts, shots, rate, arguments.fine_tuned))
        _say(str(rows[-1]))
    return rows


def main(arguments: AdaptationArguments) -> int:
    """Run the benchmark and return the exit code."""
    torch.set_num_threads(1)
    wanted = [one for one in unseen_regimes(arguments.test_bars) if one.name in arguments.regimes or not arguments.regimes]
    rows: list[Row] = []
    for left_out in sorted({one.left_out for one in wanted}):
        began = time.perf_counter()
        market = held_out_market(left_out, arguments.train_bars)
        trained = train(market, arguments.seed, arguments.epochs, arguments.models and arguments.models / str(left_out))
        arrays = trained.rehearse(AdaptationConfig())
        rate = tuned_rate(trained, arrays)
        _say(
            f"prepared without {left_out} in {time.perf_counter() - began:.0f} s, fine-tuning at {rate:g}; {told_beliefs(arrays)}"
        )
        for unseen in wanted:
            if unseen.left_out == left_out:
                rows += compare(unseen, trained, arrays, rate, arguments)
    return report("Adaptation: upper end of the interval of the difference in loss", bars(rows))


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return what must hold: lower losses beyond noise, in time."""
    found = []
    for row in rows:
        name = f"{row.regime} {row.shots}: adapted"
        found.append(Bar(f"{name} - unadapted", row.knobs.high, most=0.0, note=f"{row.knobs}"))
        over = row.knobs_over_fine_tuned
        found.append(Bar(f"{name} - fine-tuned", over.high, most=0.0, note=f"{over}"))
    return [*found, Bar("seconds of an adaptation", max(row.seconds for row in rows), most=2.0)]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(AdaptationArguments)))
