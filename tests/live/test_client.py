"""Clients of a served model: typed answers, refusals with their field, and patience with an overloaded service."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from cryptoml.errors import DataError
from cryptoml.live.client import AsyncServiceClient, RefusedError, ServiceClient, UnavailableError, _Retries
from cryptoml.live.predictor import Predictor
from tests.live.served import served

STOP = 2300


@pytest.fixture(scope="module")
def address(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(trained.path, tmp_path_factory.mktemp("state")) as url:
        yield url


@pytest.fixture
def as_of(trained: Any) -> pd.Timestamp:
    return trained.panel.timestamps[STOP]


def test_answers_equal_the_predictors(address: str, trained: Any, as_of: pd.Timestamp) -> None:
    expected = Predictor(trained.path).predict(trained.frames(STOP))
    with ServiceClient(address) as client:
        assert client.model().symbols == list(trained.panel.symbols)
        assert client.models().serving == client.model().version
        for symbol, frame in trained.frames(STOP).items():
            taken = client.put_candles(symbol, frame)
            assert taken.added + taken.unchanged == STOP
            assert client.candle_status(symbol).last_bar == frame["timestamp"].iloc[-1]
        answer = client.predict([], as_of=as_of)
        np.testing.assert_allclose(
            [one.direction["UP"] for one in answer.predictions], [one.direction["UP"] for one in expected], atol=1e-6
        )
        given = client.signals(trained.frames(STOP), as_of=as_of)
        assert [one.action for one in given.signals] == [one.signal["action"] for one in expected]
        learned = client.adapt(["BTC/USDT"], last_bars=50)
        assert [one.id for one in client.adaptations().adaptations] == [learned.id]
        client.remove_adaptation(learned.id)
        assert client.adaptations().adaptations == []


def test_the_asynchronous_one_answers_the_same(address: str, trained: Any, as_of: pd.Timestamp) -> None:
    async def ask() -> tuple[Any, Any]:
        async with AsyncServiceClient(address) as client:
            frames = trained.frames(STOP)
            return await asyncio.gather(client.model(), client.predict(frames, as_of=as_of))

    model, answer = asyncio.run(ask())
    with ServiceClient(address) as client:
        assert client.model() == model
        assert client.predict(trained.frames(STOP), as_of=as_of) == answer


def test_refusals_carry_status_and_field(address: str, trained: Any) -> None:
    with ServiceClient(address) as client:
        with pytest.raises(RefusedError, match="FOOUSDT") as caught:
            client.signals(["BTCUSDT", "FOOUSDT"])
        assert (caught.value.status, caught.value.field) == (422, "/symbols/1")
        with pytest.raises(RefusedError) as caught:
            client.promote("other")
        assert caught.value.status == 409
    with pytest.raises(DataError, match="http address"):
        ServiceClient("localhost:8000")


class Busy(httpx.BaseTransport):
    """A service that is overloaded, or out of reach, a number of times."""

    def __init__(self, times: int, status: int | None) -> None:
        self.left, self.status, self.asked = times, status, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        self.left -= 1
        if self.left >= 0 and self.status is None:
            raise httpx.ConnectError("refused")
        if self.left >= 0 and self.status == 500:
            return httpx.Response(500, text="Internal Server Error")
        if self.left >= 0:
            return httpx.Response(self.status or 0, headers={"retry-after": "0"}, json={"detail": "busy"})
        return httpx.Response(200, json={"serving": "v", "versions": []})


@pytest.mark.parametrize("status", [503, 429, 500, None])
def test_it_tries_again_and_then_gives_up(status: int | None) -> None:
    for times, succeeds in ((3, True), (9, False)):
        client, busy = ServiceClient("http://service", attempts=4, longest_wait_s=0.01), Busy(times, status)
        client._http._transport = busy
        if succeeds:
            assert client.models().serving == "v"
        else:
            with pytest.raises(UnavailableError):
                client.models()
        assert busy.asked == 4


def test_it_never_comes_back_before_the_service_asks() -> None:
    retries = _Retries("http://service", 4, 5.0)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    for asked, least in (("1", 1.0), ("5", 5.0), (later, 1.5), ("soon", 0.0), ("0", 0.0)):
        answer = httpx.Response(503, headers={"retry-after": asked})
        assert retries.again(0, answer)
        assert all(retries.wait(attempt, answer) >= least for attempt in range(4) for _ in range(50))
    assert not retries.again(0, httpx.Response(503, headers={"retry-after": "6"}))


class HalfDead(httpx.BaseTransport):
    """Of two hosts one answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        if request.url.host == "dead":
            time.sleep(0.05)
            raise httpx.ConnectTimeout("silent")
        return httpx.Response(200, json={"serving": "v", "versions": []})


def test_threads_that_lose_a_host_together_all_turn_to_the_next() -> None:
    client, hosts = ServiceClient(["http://dead", "http://alive"], attempts=3, longest_wait_s=0.01), HalfDead()
    client._http._transport = hosts
    with ThreadPoolExecutor(4) as pool:
        found = [one.serving for one in pool.map(lambda _: client.models(), range(12))]
    assert found == ["v"] * 12
    assert hosts.asked.count("dead") <= 4
    with pytest.raises(DataError, match="at least one"):
        ServiceClient([])
