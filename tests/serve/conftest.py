"""A small model behind the HTTP interface, and bodies to send."""

import asyncio
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import ray.serve.multiplex
from fastapi import FastAPI
from ray import serve
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import ReplicaContext
from ray.serve.schema import ReplicaRank

from cryptoml.models.bundle import Bundle
from serve.api import create_app
from serve.app import AppArgs
from serve.deployments import Adapter, Features, member_deployment
from serve.service import Service, remote_service

trained = runpy.run_path(str(Path(__file__).parents[1] / "live" / "conftest.py"))["trained"]
HOUR = pd.Timedelta(hours=1)


@pytest.fixture(autouse=True, scope="session")
def replica_context() -> Iterator[None]:
    """Serve's batching and multiplexing ask which replica they are in, which its local testing mode does not say."""
    config = DeploymentConfig(max_ongoing_requests=1000)
    replica = ReplicaID("local", DeploymentID("Local", "test"))
    rank = ReplicaRank(rank=0, node_rank=0, local_rank=0)
    context = ReplicaContext(replica_id=replica, servable_object=None, _deployment_config=config, rank=rank, world_size=1)
    controller = SimpleNamespace(record_request_routing_info=lambda info: None)
    ray.serve.multiplex._get_global_client = lambda: controller  # for good: multiplexing asks on, and would start a cluster
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.serve.context._INTERNAL_REPLICA_CONTEXT", context)
        yield


def candle_columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a candle frame as the body of a request."""
    columns = {name: frame[name].tolist() for name in ("open", "high", "low", "close", "volume")}
    return {"timestamp": [stamp.isoformat() for stamp in frame["timestamp"]], **columns}


class Client:
    """Sends requests to an application in this process, each in an event loop of its own."""

    def __init__(self, app: FastAPI, key: str | None = None) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://test", headers=self._headers) as client:
            return await client.request(method, path, **options)


@dataclass(frozen=True)
class Today:
    """The trained bundle's candles, moved so that the last one closed just now; and what is forecast of them offline."""

    path: Path
    bundle: Bundle
    frames: Mapping[str, pd.DataFrame]
    probabilities: np.ndarray
    quantiles: np.ndarray

    def tail(self, symbol: str, number: int) -> pd.DataFrame:
        """Return a symbol's newest candles."""
        return self.frames[symbol].tail(number).reset_index(drop=True)


@pytest.fixture(scope="session")
def today(trained: Any) -> Today:
    """Hours and weekdays are kept, since features read them: whole weeks are added, and bars after now are cut."""
    now = pd.Timestamp.now("UTC").floor("h")
    last = trained.panel.timestamps[-1]
    weeks = pd.Timedelta(weeks=-(-(now - last) // pd.Timedelta(weeks=1)))
    stop = trained.panel.num_bars - int((last + weeks - (now - HOUR)) // HOUR)
    frames = {}
    for symbol, frame in trained.frames(stop).items():
        frames[symbol] = frame.assign(timestamp=frame["timestamp"] + weeks)
    return Today(
        trained.path, trained.bundle, frames, trained.offline.probabilities[:, stop - 1], trained.offline.quantiles[:, stop - 1]
    )


def local_service(args: AppArgs, name: str, members: int = 2) -> Service:
    """Return the whole application but its ingress, in this process."""
    bound = [member_deployment(number).bind(args, number, members) for number in range(members)]
    app = Features.bind(args, bound, Adapter.bind(args))
    return remote_service(serve.run(app, name=name, _local_testing_mode=True))


@pytest.fixture
def start(connect: Callable[..., Client], tmp_path: Path) -> Callable[[AppArgs], Client]:
    """Return a client of a service started with these settings; its state is the test's own."""

    def started(args: AppArgs) -> Client:
        name = f"{tmp_path.name}-{len(serving)}"
        serving.append(name)
        return connect(create_app(local_service(args.model_copy(update={"state": str(tmp_path / "state")}), name)))

    serving: list[str] = []
    return started


@pytest.fixture
def service(today: Today, tmp_path: Path) -> Service:
    """A service of its own, without bars."""
    return local_service(AppArgs(bundle=str(today.path), state=str(tmp_path / "state")), tmp_path.name)


@pytest.fixture
def client(service: Service) -> Client:
    return Client(create_app(service))


@pytest.fixture
def filled(client: Client, today: Today) -> Client:
    """The client of a service that keeps all bars."""
    for symbol, frame in today.frames.items():
        assert client.put(f"/v1/candles/{symbol}", json=candle_columns(frame)).status_code == 200
    return client


@pytest.fixture
def connect() -> Callable[..., Client]:
    return Client


@pytest.fixture(scope="session")
def launch() -> Callable[[AppArgs, str], Service]:
    return local_service


@pytest.fixture(scope="session")
def columns() -> Callable[[pd.DataFrame], dict[str, Any]]:
    return candle_columns


@pytest.fixture
def body() -> dict[str, Any]:
    stamps = pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC")
    frame = pd.DataFrame({"timestamp": stamps, "open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 1.0})
    return {"history": {"BTCUSDT": candle_columns(frame)}, "as_of": "2024-01-01T03:00:00Z"}
