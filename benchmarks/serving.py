"""What a served ensemble costs over the bare model, and how it bears load, overload and a flood of bars.

One real Ray Serve on this machine, closed loops on loopback, each part bounded. Latencies and ratios are of one run.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import pandas as pd
import tyro
import yaml

from benchmarks.bars import Bar, report
from benchmarks.served_model import BASE, frames_until_now, save_served_bundle
from cryptoml.live.client import ServiceClient
from cryptoml.live.predictor import Predictor

__all__ = ["ServingArguments", "main"]

PARTS = ("latency", "batching", "overload", "replay", "autoscaling")
READY_SECONDS = 300.0


@dataclass(frozen=True)
class ServingArguments:
    """Measure the served ensemble.

    Attributes:
        parts: Which of latency, batching, overload, replay and autoscaling to run; all by default.
        assets: Symbols of the model under load.
        replayed: Symbols of the model whose bars are replayed.
        seconds: Length of each closed loop.
    """

    parts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    assets: int = 12
    replayed: int = 200
    seconds: float = 10.0


@dataclass
class Loop:
    """What a closed loop saw.

    Attributes:
        seconds: How long it ran.
        accepted: Latency of each answered request, seconds.
        refused: Latency of each 503, seconds.
        failed: Other answers and lost connections.
        unpromised: 503 without Retry-After.
    """

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0
    unpromised: int = 0

    @property
    def rate(self) -> float:
        """Accepted requests per second."""
        return len(self.accepted) / self.seconds

    def quantile_ms(self, level: float) -> float:
        """Quantile of the accepted latencies."""
        return float(np.quantile(self.accepted, level) * 1e3) if self.accepted else float("nan")


@contextmanager
def service(bundle: Path, state: Path, **settings: Any) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run the application on a private Ray of this machine, and give its address and its process."""
    port = _free_port()
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "serve.run", "--bundle", str(bundle), "--state", str(state), "--port", str(port), *options]
    with _running(command, port) as running:
        yield running


@contextmanager
def scaling_service(bundle: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run it from a config file, as `serve run` does, with one to three replicas of the feature deployment."""
    port, folder = _free_port(), folder.resolve()
    scaling = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4, "upscale_delay_s": 1, "downscale_delay_s": 3}
    scaling |= {"metrics_interval_s": 0.5, "look_back_period_s": 2}
    application = {
        "name": "cryptoml",
        "import_path": "serve.app:build",
        "route_prefix": "/",
        "args": {"bundle": str(bundle.resolve()), "state": str(folder / "scaling")},
        "deployments": [{"name": "Features", "autoscaling_config": scaling, "ray_actor_options": {"num_cpus": 0}}],
    }
    config = folder / "scaling.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}))
    with _running([str(Path(sys.executable).with_name("serve")), "run", str(config)], port) as running:
        yield running


@contextmanager
def _running(command: list[str], port: int) -> Iterator[tuple[str, subprocess.Popen]]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets want a short path
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command,
        env=environment | {"RAY_TMPDIR": str(folder), "PYTHONPATH": os.getcwd()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(address, process)
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ask(address: str, clients: int, seconds: float, symbols: list[str], *, wait: float = 0.0) -> Loop:
    """Let some clients ask for one symbol's signal each, again and again.

    Args:
        address: Of the service.
        clients: How many ask at once.
        seconds: For how long.
        symbols: Taken in turn.
        wait: Pause of a client after a refusal, as Retry-After asks; 0 for none.
    """
    return asyncio.run(_ask(address, clients, seconds, symbols, wait))


async def _ask(address: str, clients: int, seconds: float, symbols: list[str], wait: float) -> Loop:
    loop, limits = Loop(), httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as http:
        began = time.perf_counter()

        async def client(number: int) -> None:
            while time.perf_counter() - began < seconds:
                await _once(http, symbols[number % len(symbols)], loop)
                number += clients
                if wait and loop.refused:
                    await asyncio.sleep(wait * (0.5 + number % 8 / 8))

        await asyncio.gather(*(client(number) for number in range(clients)))
        loop.seconds = time.perf_counter() - began
    return loop


async def _once(http: httpx.AsyncClient, symbol: str, loop: Loop) -> None:
    sent = time.perf_counter()
    try:
        answer = await http.post("/v1/signals", json={"symbols": [symbol]})
    except httpx.TransportError:
        loop.failed += 1
        return
    taken = time.perf_counter() - sent
    if answer.status_code == 200:
        loop.accepted.append(taken)
    elif answer.status_code == 503:
        loop.refused.append(taken)
        loop.unpromised += "retry-after" not in answer.headers
    else:
        loop.failed += 1


def measure_latency(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Compare a request with the bare model on the same bars, and its tail at 70% of the peak load."""
    bundle = save_served_bundle(folder / "model", arguments.assets)
    frames, predictor = frames_until_now(arguments.assets), Predictor(bundle)
    with service(bundle, folder / "latency") as (address, _):
        _fill(address, frames)
        ask(address, 1, 2.0, list(frames))
        bare, single = [], Loop()
        for _ in range(10):  # in turn, so that both see the same machine
            began = time.perf_counter()
            predictor.predict(frames)
            bare.append(time.perf_counter() - began)
            part = ask(address, 1, arguments.seconds / 10, list(frames))
            single.accepted += part.accepted
        with ServiceClient(address) as client:
            served, offline = client.predict([]), predictor.predict(frames)
        peak = max((ask(address, clients, arguments.seconds, list(frames)) for clients in (8, 32)), key=lambda loop: loop.rate)
        seventy = asyncio.run(_paced(address, 0.7 * peak.rate, arguments.seconds, list(frames)))
    pairs = zip(served.predictions, offline, strict=True)
    difference = max(abs(one.direction[name] - two.direction[name]) for one, two in pairs for name in one.direction)
    bare_ms = float(np.median(bare) * 1e3)
    return [
        Bar("served less offline, largest probability", difference, most=1e-6),
        Bar("one request less the bare predict, p50 ms", single.quantile_ms(0.5) - bare_ms, most=12.0,
            note=f"bare {bare_ms:.1f} ms"),
        Bar("p99 over p50 at 70% of the peak", seventy.quantile_ms(0.99) / seventy.quantile_ms(0.5), most=4.0,
            note=f"p50 {seventy.quantile_ms(0.5):.1f} ms, peak {peak.rate:.0f}/s"),
        Bar("failed requests", single.failed + seventy.failed + peak.failed, most=0),
    ]  # fmt: skip


async def _paced(address: str, rate: float, seconds: float, symbols: list[str]) -> Loop:
    """Send requests at a steady rate; at most 64 are in work."""
    loop, gate = Loop(), asyncio.Semaphore(64)
    async with httpx.AsyncClient(base_url=address, timeout=30) as http:

        async def one(number: int) -> None:
            async with gate:
                await _once(http, symbols[number % len(symbols)], loop)

        began, tasks = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
        loop.seconds = time.perf_counter() - began
    return loop


def measure_batching(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Compare 32 clients of a service that answers them together with those of one that answers them one by one."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    rates = {}
    for size in (1, 32):
        with service(bundle, folder / f"batch-{size}", batch_size=size) as (address, _):
            _fill(address, frames)
            ask(address, 32, 2.0, list(frames))
            rates[size] = ask(address, 32, arguments.seconds, list(frames)).rate
    note = f"{rates[1]:.0f}/s to {rates[32]:.0f}/s at concurrency 32"
    return [Bar("throughput with batches over batch size 1", rates[32] / rates[1], least=3.0, note=note)]


def measure_overload(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Send three times what the service takes at once, then what it takes."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    with service(bundle, folder / "overload", max_ongoing=32) as (address, _):
        _fill(address, frames)
        ask(address, 32, 2.0, list(frames))
        before = ask(address, 32, arguments.seconds, list(frames))
        flood = ask(address, 96, arguments.seconds, list(frames), wait=1.0)
        recovered, began = False, time.perf_counter()
        while not recovered and time.perf_counter() - began < 5.0:
            recovered = not ask(address, 4, 0.3, list(frames)).refused
        recovery = time.perf_counter() - began
    refused = float(np.quantile(flood.refused, 0.99) * 1e3) if flood.refused else float("nan")
    return [
        Bar("refused at 3 times capacity", len(flood.refused), least=1),
        Bar("refusals, p99 ms", refused, most=100.0),
        Bar("refusals without Retry-After", flood.unpromised, most=0),
        Bar("p99 of accepted under overload over before", flood.quantile_ms(0.99) / before.quantile_ms(0.99), most=2.0,
            note=f"before {before.quantile_ms(0.99):.0f} ms"),
        Bar("recovery, s", recovery if recovered else float("inf"), most=5.0),
        Bar("failed requests", before.failed + flood.failed, most=0),
    ]  # fmt: skip


def measure_replay(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Put 30 bars of every symbol as fast as they are taken; count what is kept, and watch the replicas' memory."""
    bundle = save_served_bundle(folder / "wide", arguments.replayed, light=True)
    frames = frames_until_now(arguments.replayed, bars=BASE + 30)
    with service(bundle, folder / "replay") as (address, process), ServiceClient(address, timeout_s=60) as client:
        for symbol, frame in frames.items():
            client.put_candles(symbol, frame.iloc[:BASE])
        sizes, began = [], time.perf_counter()
        for bar in range(BASE, BASE + 30):
            for symbol, frame in frames.items():
                client.put_candles(symbol, frame.iloc[[bar]])
            sizes.append(_replica_megabytes(process.pid))
        seconds = time.perf_counter() - began
        kept = sum(client.candle_status(symbol).bars for symbol in frames)
    warm = sizes[len(sizes) // 3]
    return [
        Bar("lost bars", (BASE + 30) * len(frames) - kept, most=0, note=f"{30 * len(frames) / seconds:.0f} bars/s"),
        Bar("replica memory after warm-up, growth %", 100 * (sizes[-1] / warm - 1), most=5.0, note=f"{warm:.0f} MB"),
    ]


def measure_autoscaling(arguments: ServingArguments, folder: Path) -> list[Bar]:
    """Let the load rise and fall, and count the replicas of the feature deployment each second."""
    bundle, frames = save_served_bundle(folder / "model", arguments.assets), frames_until_now(arguments.assets)
    with scaling_service(bundle, folder) as (address, process):
        _fill(address, frames)
        trace, failed = [], 0
        for clients, rounds in ((1, 5), (32, 40), (1, 40)):
            for _ in range(rounds):
                failed += ask(address, clients, 1.0, list(frames)).failed
                trace.append(_replicas(process.pid, "Features"))
                if clients == 1 and trace[-1] == 1 and max(trace) > 1:
                    break
    note = "replicas by second: " + " ".join(map(str, trace))
    return [
        Bar("most replicas under load", max(trace), least=2, note=note),
        Bar("replicas when the load is gone", trace[-1], most=1),
        Bar("failed requests", failed, most=0),
    ]


def _replicas(root: int, deployment: str) -> int:
    """Count the processes of a deployment's replicas."""
    name = f"ServeReplica:cryptoml:{deployment}".encode()
    return sum(name in _read(Path(f"/proc/{number}/cmdline")) for number in _family(root))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _fill(address: str, frames: dict[str, pd.DataFrame]) -> None:
    with ServiceClient(address, timeout_s=60) as client:
        for symbol, frame in frames.items():
            client.put_candles(symbol, frame)


def _replica_megabytes(root: int) -> float:
    """Return the resident memory of all replicas that the service started."""
    return sum(_resident_kb(number) for number in _family(root)) / 1024


def _family(root: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        text = _read(stat).decode(errors="replace")
        if text:
            parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    family, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family


def _resident_kb(number: int) -> int:
    lines = _read(Path(f"/proc/{number}/status")).decode(errors="replace").splitlines()
    is_replica = b"ServeReplica" in _read(Path(f"/proc/{number}/cmdline"))
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0) if is_replica else 0


def _wait_until_ready(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/healthz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"the service was not ready after {READY_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(arguments: ServingArguments) -> int:
    """Run the parts and return 1 where a bar was missed."""
    measures = dict(
        zip(PARTS, (measure_latency, measure_batching, measure_overload, measure_replay, measure_autoscaling), strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        bars = [bar for part in arguments.parts or PARTS for bar in measures[part](arguments, Path(folder))]
    return report("A served ensemble", bars)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(ServingArguments, prog="python -m benchmarks.serving")))
