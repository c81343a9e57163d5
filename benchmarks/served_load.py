"""Clients that ask a served model, in closed loops and at a given rate, and what they saw."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop

from benchmarks.http_pool import Pool

__all__ = ["Seen", "ask", "send"]

TIMEOUT_SECONDS = 60.0


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        seconds: For how long they asked.
        cpu_seconds: What the clients themselves took of the machine meanwhile.
        accepted: Latency of each answered request, seconds.
        refused: Latency of each 503, seconds.
        failed: Other answers and lost connections.
        unpromised: 503 without Retry-After.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0
    unpromised: int = 0

    @property
    def rate(self) -> float:
        """Accepted requests per second."""
        return len(self.accepted) / self.seconds

    @property
    def cores(self) -> float:
        """Cores that the clients kept busy."""
        return self.cpu_seconds / self.seconds

    def quantile_ms(self, level: float) -> float:
        """Quantile of the accepted latencies."""
        return float(np.quantile(self.accepted, level) * 1e3) if self.accepted else float("nan")


def ask(address: str, clients: int, seconds: float, symbols: Sequence[str]) -> Seen:
    """Let some clients ask for one symbol's signal each, the next time as soon as they are answered.

    Args:
        address: Of the service.
        clients: How many ask at once.
        seconds: For how long.
        symbols: Taken in turn.
    """

    async def in_loops(once: Once) -> None:
        began = time.perf_counter()

        async def client(number: int) -> None:
            while time.perf_counter() - began < seconds:
                await once(number)
                number += clients

        await asyncio.gather(*(client(number) for number in range(clients)))

    return _seen(address, symbols, in_loops)


def send(address: str, rate: float, seconds: float, symbols: Sequence[str]) -> Seen:
    """Send requests at a steady rate, whether or not the ones before are answered.

    A request counts from the instant it was due: where the clients themselves fall behind, it shows.

    Args:
        address: Of the service.
        rate: Requests per second.
        seconds: For how long.
        symbols: Taken in turn.
    """

    async def steadily(once: Once) -> None:
        began = time.perf_counter()
        tasks = []
        for number in range(max(1, int(rate * seconds))):
            due = began + number / rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.append(asyncio.create_task(once(number, due)))
        await asyncio.gather(*tasks)

    return _seen(address, symbols, steadily)


class Once:
    """Ask once and note what came back."""

    def __init__(self, pool: Pool, symbols: Sequence[str], seen: Seen) -> None:
        self._pool, self._seen = pool, seen
        self._bodies = [json.dumps({"symbols": [symbol]}).encode() for symbol in symbols]

    async def __call__(self, number: int, due: float | None = None) -> None:
        """Ask for the symbol whose turn it is; the latency counts from `due`, from now where None."""
        sent, seen = due or time.perf_counter(), self._seen
        try:
            answer = await self._pool.post("/v1/signals", self._bodies[number % len(self._bodies)], TIMEOUT_SECONDS)
        except OSError:
            seen.failed += 1
            return
        taken = time.perf_counter() - sent
        if answer.status == 200:
            seen.accepted.append(taken)
        elif answer.status == 503:
            seen.refused.append(taken)
            seen.unpromised += b"retry-after" not in answer.headers
        else:
            seen.failed += 1


def _seen(address: str, symbols: Sequence[str], load: Callable[[Once], Awaitable[None]]) -> Seen:
    seen = Seen()

    async def run() -> None:
        pool = Pool(address)
        began, cpu = time.perf_counter(), time.process_time()
        await load(Once(pool, symbols, seen))
        seen.seconds, seen.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        pool.close()

    uvloop.run(run())
    return seen
