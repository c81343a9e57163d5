"""Training speed of our Temporal Fusion Transformer against neuralforecast's and pytorch-forecasting's, on one thread.

python -m benchmarks.tft_speed

One shape for all: batch 64, 60 past bars, 50 inputs, 5 horizons, hidden width 160, 4 heads. A step is forward, pinball loss,
backward and Adam; the fastest of several counts, in turns with the peers, so that other work on the machine disturbs all
alike. Dense training counts the forecast origins with all 60 bars before them. The peers run in an environment of their own,
see `benchmarks/peers/__init__.py`; those that are missing are skipped.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from benchmarks.bars import Bar, report
from benchmarks.peers import PEERS, ask, missing
from cryptoml.models.tft import TemporalFusionTransformer
from cryptoml.training.losses import pinball_loss

__all__ = ["SpeedArguments", "dense_rate", "main", "windowed_rate"]

BATCH, PAST, INPUTS, HORIZONS, HIDDEN, HEADS = 64, 60, 50, 5, 160, 4
QUANTILES = (0.1, 0.5, 0.9)
CHUNKS, CHUNK_BARS = 4, 560
WINDOWED = {"pytorch-forecasting": 1.0, "neuralforecast": 2.0}
"""Windows per second that ours must reach, as a multiple of each peer's."""
DENSE = {"pytorch-forecasting": 30.0}
"""Likewise for origins per second of dense training."""


@dataclass(frozen=True)
class SpeedArguments:
    """Time a training step of three Temporal Fusion Transformers.

    Exit code: 0 every bar is met or no peer is there, 1 one is missed.
    """

    steps: int = 4
    """Steps per round, of which the fastest counts."""
    rounds: int = 2
    """Rounds of all networks in turn."""
    peer_python: str = ".venv-bench/bin/python"
    """Interpreter that has the peers."""


def windowed_rate(steps: int) -> float:
    """Windows per second of training on windows."""
    model, x = _model(), torch.randn(BATCH, PAST, INPUTS)
    return BATCH / _step_seconds(model, lambda: model(x)[0], torch.randn(BATCH, HORIZONS), steps)


def dense_rate(steps: int) -> float:
    """Forecast origins per second of dense training."""
    model, x, origins = _model(), torch.randn(CHUNKS, CHUNK_BARS, INPUTS), CHUNK_BARS - PAST + 1
    target = torch.randn(CHUNKS, origins, HORIZONS)
    return CHUNKS * origins / _step_seconds(model, lambda: model.dense(x, first_origin=PAST - 1), target, steps)


def _model() -> TemporalFusionTransformer:
    torch.manual_seed(0)
    return TemporalFusionTransformer(INPUTS, HIDDEN, HEADS, QUANTILES, num_horizons=HORIZONS, lookback=PAST).train()


def _step_seconds(model: TemporalFusionTransformer, forecast: Callable[[], Tensor], target: Tensor, steps: int) -> float:
    optimizer, seconds = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(steps):
        began = time.perf_counter()
        optimizer.zero_grad()
        pinball_loss(forecast(), target, QUANTILES).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(arguments: SpeedArguments) -> int:
    """Run the benchmark and return the exit code."""
    torch.set_num_threads(1)
    reasons = {peer: missing(arguments.peer_python, peer) for peer in PEERS}
    sys.stdout.writelines(f"skipped {reason}\n" for reason in reasons.values() if reason)
    peers = [peer for peer, reason in reasons.items() if reason is None]
    rates = dict.fromkeys(["windowed", "dense", *peers], 0.0)
    for _ in range(arguments.rounds):
        fresh = {"windowed": windowed_rate(arguments.steps), "dense": dense_rate(arguments.steps)}
        fresh |= {peer: BATCH / ask(arguments.peer_python, peer, "speed", str(arguments.steps))["step_seconds"] for peer in peers}
        rates = {name: max(rate, fresh[name]) for name, rate in rates.items()}
    bars = [Bar(name, rate, note="origins per second") for name, rate in rates.items()]
    for kind, limits in (("windowed", WINDOWED), ("dense", DENSE)):
        bars += [Bar(f"{kind} / {peer}", rates[kind] / rates[peer], least=limits.get(peer)) for peer in peers]
    return report("Temporal Fusion Transformer, training on one thread", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(SpeedArguments)))
