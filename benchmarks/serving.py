"""What a served ensemble costs over the bare model, and how it bears load, overload and a flood of bars.

One real Ray Serve on this machine a part, clients on loopback, each part bounded to minutes: `--parts latency batching`.
Latencies and ratios are of one run; the client shares the machine with what it measures. A service remembers the forecast of
the bars that it keeps until they change; here every batch of requests is forecast anew, unless a row says otherwise.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro

from benchmarks.bars import Bar, report
from benchmarks.served_load import Seen, ask, send
from benchmarks.served_model import BASE, CONTEXT, frames_until_now, save_served_bundle
from benchmarks.served_process import Service, service
from cryptoml.live.client import AsyncServiceClient, ServiceClient
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import load_bundle

__all__ = ["ServingArguments", "main"]

Part = Literal["latency", "batching", "replay", "overload", "autoscaling"]
RAMP = ((1, 5), (32, 40), (0, 45))
"""Clients, and for how many seconds at most."""
QUICK_SCALING = {"upscale_delay_s": 1, "downscale_delay_s": 3, "metrics_interval_s": 0.5, "look_back_period_s": 2}
ANEW = {"remember": False}
MINUTES = 30
WARM_UP = 10
OVERLOAD = 3.0
CLIENTS = 16
"""Clients of a service that takes no more requests at once, before it is overloaded."""
RECOVERY_SECONDS = 5.0


@dataclass(frozen=True)
class ServingArguments:
    """Measure the served ensemble.

    Attributes:
        parts: What to measure.
        assets: Symbols of the model under load.
        replayed: Symbols of the model whose bars are replayed.
        seconds: Length of each load.
    """

    parts: tuple[Part, ...] = ("latency", "batching", "replay", "overload", "autoscaling")
    assets: int = 12
    replayed: int = 200
    seconds: float = 10.0


def measure_latency(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Compare a request with the bare model on the same bars, and its tail at 70% of the peak load."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    predictor, symbols = Predictor(bundle), list(frames)
    with service(folder / "latency", {"bundle": str(bundle), "batching": ANEW}) as running:
        _fill(running, frames, stop=-1)
        ask(running.address, 1, 2.0, symbols)
        fresh = _seconds_after_new_bars(running, frames)
        bare, single = [], Seen()
        for _ in range(10):  # in turn, so that both see the same machine
            bare.append(_seconds_of(lambda: predictor.predict(frames)))
            single.accepted += ask(running.address, 1, arguments.seconds / 10, symbols).accepted
        with ServiceClient(running.address) as client:
            served, offline = client.predict([]), predictor.predict(frames)
        loops = [ask(running.address, clients, arguments.seconds, symbols) for clients in (8, 32)]
        peak = max(loops, key=lambda seen: seen.rate)
        seventy = send(running.address, 0.7 * peak.rate, arguments.seconds, symbols)
    pairs = zip(served.predictions, offline, strict=True)
    difference = max(abs(one.direction[name] - two.direction[name]) for one, two in pairs for name in one.direction)
    bare_ms, model_ms = np.median(bare) * 1e3, _model_ms(bundle, frames)
    return [
        Bar("served less offline, largest probability", difference, most=1e-6),
        Bar("one request less the bare predict, p50 ms", single.quantile_ms(0.5) - bare_ms, most=12.0,
            note=f"{single.quantile_ms(0.5):.1f} less {bare_ms:.1f} ms"),
        Bar("one request less the members alone, p50 ms", single.quantile_ms(0.5) - model_ms, note=f"{model_ms:.1f} ms"),
        Bar("first answer after new bars of all symbols, ms", fresh * 1e3),
        Bar("p99 over p50 at 70% of the peak", seventy.quantile_ms(0.99) / seventy.quantile_ms(0.5), most=4.0,
            note=f"p50 {seventy.quantile_ms(0.5):.1f} ms, peak {peak.rate:.0f}/s"),
        Bar("failed requests", sum(one.failed for one in (*loops, single, seventy)), most=0),
        Bar("refused at 70% of the peak", len(seventy.refused), note=f"of {len(seventy.accepted) + len(seventy.refused)}"),
    ]  # fmt: skip


def _seconds_after_new_bars(running: Service, frames: dict[str, pd.DataFrame]) -> float:
    """Put the newest bar of every symbol, then ask at once."""
    _fill(running, {symbol: frame.iloc[[-1]] for symbol, frame in frames.items()})
    with ServiceClient(running.address) as client:
        return _seconds_of(lambda: client.signals([next(iter(frames))]))


def _model_ms(bundle: Path, frames: dict[str, pd.DataFrame]) -> float:
    """Time what is left of a forecast when the features are known: the members and their combination."""
    question, ensemble = Predictor(bundle).question(frames), load_bundle(bundle).ensemble
    work = [_seconds_of(lambda: ensemble.predict(question.features, question.sigma, CONTEXT)) for _ in range(20)]
    return float(np.median(work) * 1e3)


def _seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_batching(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Compare 32 clients of a service that answers them together with those of one that answers them one by one."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    rates = {}
    for size in (1, 32):
        with service(folder / f"batch-{size}", {"bundle": str(bundle), "batching": ANEW | {"max_size": size}}) as running:
            _fill(running, frames)
            ask(running.address, 32, 2.0, list(frames))
            rates[size] = ask(running.address, 32, arguments.seconds, list(frames)).rate
    with service(folder / "remembering", {"bundle": str(bundle)}) as running:
        _fill(running, frames)
        ask(running.address, 32, 2.0, list(frames))
        remembering = ask(running.address, 32, arguments.seconds, list(frames)).rate
        alone = ask(running.address, 1, arguments.seconds, list(frames)).quantile_ms(0.5)
    note = f"{rates[1]:.0f}/s to {rates[32]:.0f}/s at concurrency 32"
    return [
        Bar("throughput with batches over batch size 1", rates[32] / rates[1], least=3.0, note=note),
        Bar("answers per second where forecasts are remembered", remembering),
        Bar("one request where forecasts are remembered, p50 ms", alone),
    ]


def measure_overload(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Send what the service can take, then three times as much, then little."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    symbols = list(frames)
    with service(folder / "overload", {"bundle": str(bundle), "batching": ANEW}, max_ongoing=CLIENTS) as running:
        _fill(running, frames)
        ask(running.address, CLIENTS, 2.0, symbols)
        before = ask(running.address, CLIENTS, arguments.seconds, symbols)
        flood = send(running.address, OVERLOAD * before.rate, arguments.seconds, symbols)
        recovery = _recovery_seconds(running, symbols)
    refused = np.quantile(flood.refused, 0.99) * 1e3 if flood.refused else float("nan")
    return [
        Bar("refused at 3 times capacity", len(flood.refused), least=1,
            note=f"{len(flood.accepted)} accepted, capacity {before.rate:.0f}/s"),
        Bar("refusals, p99 ms", refused, most=100.0),
        Bar("refusals without Retry-After", flood.unpromised, most=0),
        Bar("p99 of accepted under overload over before", flood.quantile_ms(0.99) / before.quantile_ms(0.99), most=2.0,
            note=f"before {before.quantile_ms(0.99):.0f} ms"),
        Bar("recovery, s", recovery, most=RECOVERY_SECONDS),
        Bar("failed requests", before.failed + flood.failed, most=0),
    ]  # fmt: skip


def _recovery_seconds(running: Service, symbols: Sequence[str]) -> float:
    """Return when a few clients are no longer refused; infinite where that takes too long."""
    began = time.perf_counter()
    while time.perf_counter() - began < RECOVERY_SECONDS:
        if not ask(running.address, 4, 0.3, symbols).refused:
            return time.perf_counter() - began
    return float("inf")


def measure_replay(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Put 30 minutes of every symbol as fast as they are taken, ask for all signals after each; count bars, watch memory."""
    bundle = save_served_bundle(folder / "minutes", arguments.replayed, "1m")
    frames = frames_until_now(arguments.replayed, BASE + MINUTES, "1m")
    with service(folder / "replay", {"bundle": str(bundle), "max_age_bars": 4 * MINUTES}) as running:
        _fill(running, frames, stop=BASE)
        sizes, began = [], time.perf_counter()
        held = 0
        for minute in range(BASE, BASE + MINUTES):
            held += asyncio.run(_put_and_ask(running, {symbol: frame.iloc[[minute]] for symbol, frame in frames.items()}))
            sizes.append(running.megabytes())
        seconds = time.perf_counter() - began
        with ServiceClient(running.address, timeout_s=60) as client:
            kept = sum(client.candle_status(symbol).bars for symbol in frames)
    growth = {name: 100 * (sizes[-1][name] / sizes[WARM_UP - 1][name] - 1) for name in sizes[-1]}
    most = max(growth, key=lambda name: growth[name])
    total = sum(sizes[-1].values())
    return [
        Bar("lost bars", (BASE + MINUTES) * len(frames) - kept, most=0, note=f"{MINUTES * len(frames) / seconds:.0f} bars/s"),
        Bar("replica memory after warm-up, most growth %", growth[most], most=5.0, note=f"{most}; {total:.0f} MB in all"),
        Bar("symbols without a forecast", held, most=0, note=f"of {MINUTES * len(frames)}"),
    ]


async def _put_and_ask(running: Service, rows: dict[str, pd.DataFrame]) -> int:
    """Put a bar of each symbol and return how many of them have no forecast then."""
    gate = asyncio.Semaphore(16)
    async with AsyncServiceClient(running.address, timeout_s=60) as client:

        async def put(symbol: str, frame: pd.DataFrame) -> None:
            async with gate:
                await client.put_candles(symbol, frame)

        await asyncio.gather(*(put(symbol, frame) for symbol, frame in rows.items()))
        answer = await client.signals([])
    return sum(one.refusal is not None for one in answer.signals)


def measure_autoscaling(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Let the load rise and fall, adapt once, and count the replicas each second."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    features = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4, **QUICK_SCALING}
    adapter = {"min_replicas": 0, "max_replicas": 2, "downscale_to_zero_delay_s": 3, **QUICK_SCALING}
    scaling = {"Features": features, "Adapter": adapter}
    with service(
        folder / "scaling",
        {"bundle": str(bundle), "batching": ANEW},
        {name: {"autoscaling_config": one} for name, one in scaling.items()},
    ) as running:
        _fill(running, frames)
        trace: dict[str, list[int]] = {name: [] for name in scaling}
        failed = 0
        for clients, rounds in RAMP:
            for _ in range(rounds):
                failed += _one_second(running, clients, list(frames))
                for name, counts in trace.items():
                    counts.append(running.replicas(name))
                if clients == 0 and trace["Features"][-1] == 1 and trace["Adapter"][-1] == 0:
                    break
            if clients > 1:
                adapting = _seconds_of(lambda: _adapt(running, list(frames)))
                trace["Adapter"].append(running.replicas("Adapter"))
    told = {name: "replicas by second: " + " ".join(map(str, counts)) for name, counts in trace.items()}
    return [
        Bar("most replicas of Features under load", max(trace["Features"]), least=2, note=told["Features"]),
        Bar("replicas of Features when the load is gone", trace["Features"][-1], most=1),
        Bar("replicas of Adapter while it adapts", max(trace["Adapter"]), least=1, note=told["Adapter"]),
        Bar("replicas of Adapter when nobody adapts", trace["Adapter"][-1], most=0),
        Bar("adapting from no replica, s", adapting),
        Bar("failed requests", failed, most=0),
    ]


def _one_second(running: Service, clients: int, symbols: Sequence[str]) -> int:
    """Let some clients ask for a second and return how many requests failed."""
    if clients:
        return ask(running.address, clients, 1.0, symbols).failed
    time.sleep(1.0)
    return 0


def _adapt(running: Service, symbols: Sequence[str]) -> None:
    with ServiceClient(running.address, timeout_s=120) as client:
        client.remove_adaptation(client.adapt(symbols).id)


def _fill(running: Service, frames: dict[str, pd.DataFrame], stop: int | None = None) -> None:
    with ServiceClient(running.address, timeout_s=60) as client:
        for symbol, frame in frames.items():
            client.put_candles(symbol, frame.iloc[:stop])


MEASURES: dict[Part, Callable[[ServingArguments, Path], list[Bar]]] = {
    "latency": measure_latency,
    "batching": measure_batching,
    "replay": measure_replay,
    "overload": measure_overload,
    "autoscaling": measure_autoscaling,
}


def main(arguments: ServingArguments) -> int:
    """Run the parts, print a table for each as it is done, and return 1 where a bar was missed."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            began = time.perf_counter()
            bars = MEASURES[part](arguments, Path(folder))
            load = os.getloadavg()[1]
            title = f"A served ensemble, {part}: {time.perf_counter() - began:.0f} s, load {load:.1f} on {os.cpu_count()} cores"
            missed |= report(title, bars)
            sys.stdout.flush()
    return missed


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(ServingArguments, prog="python -m benchmarks.serving")))
