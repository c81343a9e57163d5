"""Metrics of the application for Prometheus, beside those that Serve counts itself; they carry deployment and replica as tags."""

import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from weakref import WeakMethod

from ray.serve.metrics import Counter, Gauge, Histogram

__all__ = ["count_adaptation", "keep_reporting", "observe_answer", "observe_batch", "set_data_age", "set_drift", "set_refused"]

_LOG = logging.getLogger(__name__)
REPORT_SECONDS = 5.0

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_LATENCIES_MS = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_GAINS = (1e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def observe_batch(stage: str, size: int) -> None:
    """Note how many requests were answered together."""
    _histogram("cryptoml_batch_size", "Requests answered together", _BATCH_SIZES, ("stage",)).observe(size, {"stage": stage})


def observe_answer(route: str, status: int, milliseconds: float) -> None:
    """Note an answer of the interface."""
    tags = {"route": route, "status": str(status)}
    _counter("cryptoml_requests", "Answers of the interface", ("route", "status")).inc(1, tags)
    latency = _histogram("cryptoml_latency_ms", "Time to answer", _LATENCIES_MS, ("route",))
    latency.observe(milliseconds, {"route": route})


def count_adaptation(accepted: bool, gain: float | None) -> None:
    """Note an adaptation and by how much it lowered the loss on held-back bars."""
    tags = {"outcome": "accepted" if accepted else "rolled_back"}
    _counter("cryptoml_adaptations", "Adaptations to new regimes", ("outcome",)).inc(1, tags)
    if gain is not None:
        _histogram("cryptoml_adaptation_gain", "Loss before less loss after, held-back bars", _GAINS, ()).observe(gain)


def set_data_age(kept: int, stale: int, newest_age_seconds: float | None) -> None:
    """Note of how many symbols bars are kept, how many are stale, and how old the newest bar is."""
    _gauge("cryptoml_kept_symbols", "Symbols with kept bars").set(kept)
    _gauge("cryptoml_stale_symbols", "Symbols whose newest kept bar is too old").set(stale)
    if newest_age_seconds is not None:
        _gauge("cryptoml_data_age_seconds", "Age of the newest kept bar's close").set(newest_age_seconds)


def set_drift(share: float) -> None:
    """Note which share of the inputs lies outside what training saw."""
    _gauge("cryptoml_input_drift", "Share of inputs at the newest bar beyond 3 deviations of training").set(share)


def keep_reporting(report: Callable[[], None]) -> None:
    """Call a method every few seconds, as long as its object lives.

    Ray's exporter forgets a gauge that nobody sets for a while.
    """
    method = WeakMethod(report)

    def run() -> None:
        while (alive := method()) is not None:
            try:
                alive()
            except Exception as error:
                if "futures after" in str(error) and "shutdown" in str(error):  # the process ends
                    return
                _LOG.exception("gauges could not be set")
            del alive
            time.sleep(REPORT_SECONDS)

    threading.Thread(target=run, name="gauges", daemon=True).start()


def set_refused(number: int) -> None:
    """Note how many requests a proxy refused since it started."""
    _gauge("cryptoml_proxy_refused", "Requests refused at the proxy since it started").set(number)


@cache
def _counter(name: str, description: str, tags: tuple[str, ...]) -> Counter:
    return Counter(name, description, tag_keys=tags)  # type: ignore[arg-type]


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description)


@cache
def _histogram(name: str, description: str, boundaries: tuple[float, ...], tags: tuple[str, ...]) -> Histogram:
    return Histogram(name, description, boundaries=list(boundaries), tag_keys=tags)  # type: ignore[arg-type]
