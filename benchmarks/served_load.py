"""Clients that ask a served model, in closed loops and at a given rate, and what they saw."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

__all__ = ["Seen", "ask", "send"]

TIMEOUT_SECONDS = 60.0


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        seconds: For how long they asked.
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


def ask(address: str, clients: int, seconds: float, symbols: Sequence[str]) -> Seen:
    """Let some clients ask for one symbol's signal each, the next time as soon as they are answered.

    Args:
        address: Of the service.
        clients: How many ask at once.
        seconds: For how long.
        symbols: Taken in turn.
    """
    return asyncio.run(_ask(address, clients, seconds, symbols))


async def _ask(address: str, clients: int, seconds: float, symbols: Sequence[str]) -> Seen:
    seen = Seen()
    async with _http(address, clients) as http:
        began = time.perf_counter()

        async def client(number: int) -> None:
            while time.perf_counter() - began < seconds:
                await _once(http, symbols[number % len(symbols)], seen)
                number += clients

        await asyncio.gather(*(client(number) for number in range(clients)))
        seen.seconds = time.perf_counter() - began
    return seen


def send(address: str, rate: float, seconds: float, symbols: Sequence[str]) -> Seen:
    """Send requests at a steady rate, whether or not the ones before are answered.

    Args:
        address: Of the service.
        rate: Requests per second.
        seconds: For how long.
        symbols: Taken in turn.
    """
    return asyncio.run(_send(address, rate, seconds, symbols))


async def _send(address: str, rate: float, seconds: float, symbols: Sequence[str]) -> Seen:
    seen, tasks = Seen(), []
    async with _http(address, 1000) as http:
        began = time.perf_counter()
        for number in range(max(1, int(rate * seconds))):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(_once(http, symbols[number % len(symbols)], seen)))
        await asyncio.gather(*tasks)
        seen.seconds = time.perf_counter() - began
    return seen


def _http(address: str, connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(base_url=address, timeout=TIMEOUT_SECONDS, limits=limits)


async def _once(http: httpx.AsyncClient, symbol: str, seen: Seen) -> None:
    sent = time.perf_counter()
    try:
        answer = await http.post("/v1/signals", json={"symbols": [symbol]})
    except httpx.TransportError:
        seen.failed += 1
        return
    taken = time.perf_counter() - sent
    if answer.status_code == 200:
        seen.accepted.append(taken)
    elif answer.status_code == 503:
        seen.refused.append(taken)
        seen.unpromised += "retry-after" not in answer.headers
    else:
        seen.failed += 1
