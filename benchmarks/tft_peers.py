"""Temporal Fusion Transformers on ETTh1: ours, neuralforecast's and pytorch-forecasting's, the same wall time on one thread each.

python -m benchmarks.tft_peers

All three read 96 hours of the same seven series and the calendar, have hidden width 32 and 4 heads, train on the same rows,
validate as they go and end with their best weights; validation counts as training time. Peers scale each window as they do
by default. Ours trains densely, so it scales each bar by the 96 bars up to it, and forecasts the change from the last bar.
The peers run in an environment of their own, see `benchmarks/peers/__init__.py`; those that are missing are skipped.
"""

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks import etth1
from benchmarks.bars import Bar, report
from benchmarks.peers import PEERS, ask, missing
from cryptoml.models.tft import TemporalFusionTransformer
from cryptoml.training.losses import pinball_loss

__all__ = ["PeersArguments", "Series", "main", "pinball", "prepare", "train"]

CHUNK, BATCH, RATE, DROPOUT = 120, 4, 5e-3, 0.1
"""Bars of a chunk, chunks of a step, learning rate at the start (it falls to 0), and the fraction dropped.

The best of a few by validation loss.
"""


@dataclass(frozen=True)
class PeersArguments:
    """Train three Temporal Fusion Transformers on ETTh1 for the same time; ours must not lose by pinball loss.

    Exit code: 0 every bar is met or the data is absent, 1 one is missed.
    """

    data: str = "../shared/data/benchmarks/ETTh1.csv"
    """The ETTh1 table."""
    seconds: float = 120.0
    """Training time of each."""
    seeds: int = 1
    """Runs of each, averaged."""
    peer_python: str = ".venv-bench/bin/python"
    """Interpreter that has the peers."""


@dataclass(frozen=True)
class Series:
    """The whole series as our network sees it; all values in standard deviations of the training rows but the inputs.

    Attributes:
        inputs: series and their hourly changes, scaled by the bars up to each.
        known: calendar.
        target: the target at the HORIZON bars that follow each; NaN beyond the end.
        level: the target at each bar.
        scale: deviation of the target over the bars up to each.
    """

    inputs: Float[Tensor, "time feature"]
    known: Float[Tensor, "time known"]
    target: Float[Tensor, "time horizon"]
    level: Float[Tensor, " time"]
    scale: Float[Tensor, " time"]

    def forecast(
        self, model: TemporalFusionTransformer, first: Int[Tensor, " chunk"], bars: int, skipped: int
    ) -> Float[Tensor, "chunk origin horizon quantile"]:
        """Forecast from the bars of chunks that begin at `first`, but the `skipped` ones that lack history.

        Where a chunk runs beyond the end of the series, the last row stands in.
        """
        rows = (first[:, None] + torch.arange(bars + etth1.HORIZON)).clamp(max=len(self.level) - 1)
        changes = model.dense(self.inputs[rows[:, :bars]], known_future=self.known[rows], first_origin=skipped)
        level, scale = (part[rows[:, skipped:bars], None, None] for part in (self.level, self.scale))
        return level + scale * changes


def prepare(frame: pd.DataFrame) -> Series:
    """Scale every bar by what was known at it."""
    values = frame[list(etth1.COLUMNS)]
    window = values.rolling(etth1.HISTORY, min_periods=2)
    deviation = window.std().clip(lower=0.05).bfill()
    inputs = pd.concat([(values - window.mean().bfill()) / deviation, values.diff().fillna(0.0) / deviation], axis=1)
    level, scale = values[etth1.TARGET], deviation[etth1.TARGET]
    target = np.stack([level.shift(-step) for step in range(1, etth1.HORIZON + 1)], axis=1)
    parts = (inputs, frame[list(etth1.CALENDAR)], target, level, scale)
    return Series(*(torch.tensor(np.asarray(part), dtype=torch.float32) for part in parts))


def train(series: Series, seconds: float, seed: int) -> TemporalFusionTransformer:
    """Train for `seconds`, validating every 25 steps; return the network with the best weights."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    model = TemporalFusionTransformer(
        series.inputs.shape[1],
        hidden_size=32,
        num_horizons=etth1.HORIZON,
        lookback=etth1.HISTORY,
        known_future_size=len(etth1.CALENDAR),
        dropout=DROPOUT,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    best, weights, step = float("inf"), copy.deepcopy(model.state_dict()), 0
    while (spent := time.perf_counter() - began) < seconds:
        optimizer.param_groups[0]["lr"] = RATE * (1 - spent / seconds)
        _step(model, optimizer, series)
        step += 1
        if step % 25 == 0 and (loss := pinball(model, series, etth1.VALIDATION)) < best:
            best, weights = loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    sys.stderr.write(f"ours: {step} steps, best validation loss {best:.5f}\n")
    return model


def _step(model: TemporalFusionTransformer, optimizer: torch.optim.Optimizer, series: Series) -> None:
    """Learn from every origin of a few random chunks of the training rows that has a whole history in its chunk."""
    skipped = etth1.HISTORY - 1
    first = torch.randint(0, etth1.TRAIN.stop - CHUNK - etth1.HORIZON + 1, (BATCH,))
    origins = first[:, None] + torch.arange(skipped, CHUNK)
    loss = pinball_loss(series.forecast(model.train(), first, CHUNK, skipped), series.target[origins], etth1.QUANTILES)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def pinball(model: TemporalFusionTransformer, series: Series, rows: slice) -> float:
    """Pinball loss over every window of HORIZON rows within `rows`, forecast in chunks as in training."""
    skipped, origins = etth1.HISTORY - 1, rows.stop - rows.start - etth1.HORIZON + 1
    first = torch.arange(0, origins, CHUNK - skipped) + rows.start - 1 - skipped
    forecast = series.forecast(model.eval(), first, CHUNK, skipped).flatten(0, 1)[:origins]
    return etth1.pinball(series.level.numpy(), forecast.numpy(), rows)


def main(arguments: PeersArguments) -> int:
    """Run the benchmark and return the exit code."""
    path = Path(arguments.data).resolve()
    if not path.is_file():
        sys.stdout.write(f"skipped: no ETTh1 file at {path}\n")
        return 0
    torch.set_num_threads(1)
    frame = etth1.read_etth1(path)
    series, seeds = prepare(frame), range(arguments.seeds)
    ours = [pinball(train(series, arguments.seconds, seed), series, etth1.TEST) for seed in seeds]
    bars = [Bar("ours", float(np.mean(ours)), note=_spread(ours))]
    for peer in PEERS:
        if reason := missing(arguments.peer_python, peer):
            sys.stdout.write(f"skipped {reason}\n")
            continue
        results = [ask(arguments.peer_python, peer, "etth1", str(path), str(arguments.seconds), str(seed)) for seed in seeds]
        theirs = [result["pinball"] for result in results]
        bars.append(Bar(peer, float(np.mean(theirs)), note=_spread(theirs)))
        bars.append(Bar(f"ours / {peer}", float(np.mean(ours) / np.mean(theirs)), most=1.0))
    return report(f"ETTh1, test pinball loss after {arguments.seconds:g} s on one thread", bars)


def _spread(values: list[float]) -> str:
    return f"runs {min(values):.5f} to {max(values):.5f}"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(PeersArguments)))
