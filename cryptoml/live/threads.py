"""Work in threads of its own kind, awaited by an event loop."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run_in"]

T = TypeVar("T")


async def run_in(pool: ThreadPoolExecutor, work: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Run work in a thread of `pool`, so that what waits there holds up no forecast.

    Where it can be stopped, cancelling sets `stop` and waits for the thread, so that what it held is free again.
    """
    job = pool.submit(contextvars.copy_context().run, work)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
            while not job.done():
                await asyncio.sleep(0.02)
        raise
