"""Overload: what is too much is refused before it costs anything, and what was taken is answered."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware

from serve.door import Door, at_the_door, node_environment
from serve.limits import Admission


class Slow:
    """An application whose answers wait for the test."""

    def __init__(self) -> None:
        self.gate, self.asked = asyncio.Event(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if not scope["path"].startswith("/healthz"):
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def test_what_is_too_much_is_refused_at_once_and_told_when_to_come_back() -> None:
    async def scenario() -> None:
        slow = Slow()
        transport = httpx.ASGITransport(Admission(slow, max_ongoing=3))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            waiting = [asyncio.create_task(http.post("/v1/signals", json={})) for _ in range(3)]
            while slow.asked < 3:
                await asyncio.sleep(0)
            refused = [await http.post("/v1/signals", json={}) for _ in range(5)]
            assert (await http.get("/healthz")).status_code == 200
            slow.gate.set()
            assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 3
            assert (await http.post("/v1/signals", json={})).status_code == 200
        for one in refused:
            assert (one.status_code, one.json()["status"], one.headers["retry-after"]) == (503, 503, "1")
            assert one.headers["content-type"] == "application/problem+json"
            assert one.headers["x-content-type-options"] == "nosniff"
        assert refused[0].headers == refused[4].headers

    asyncio.run(scenario())


def test_a_proxy_finds_its_door_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = node_environment(7)
    module, _, name = environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is at_the_door
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (found,) = at_the_door()
    assert isinstance(found, Middleware)
    assert (found.cls, found.kwargs) == (Door, {"max_ongoing": 7})


def test_the_image_sets_the_environment() -> None:
    image = (Path(__file__).parents[2] / "cluster" / "Dockerfile").read_text()
    for name, value in node_environment().items():
        assert f"{name}={value}" in image
