"""The deployments in this process: what goes through a handle comes back as the predictor says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from cryptoml.live.predictor import Predictor
from serve.api import create_app
from serve.app import AppArgs, build
from serve.deployments import Model, RemoteModel

STOP = 2300


@pytest.fixture(scope="module")
def handle(trained: Any) -> DeploymentHandle:
    return serve.run(Model.bind(str(trained.path)), name="model", _local_testing_mode=True)


@pytest.fixture
def client(handle: DeploymentHandle, connect: Callable[..., Any]) -> Any:
    return connect(create_app(RemoteModel(handle)))


@pytest.fixture
def whole_body(trained: Any, columns: Callable[..., Any]) -> dict[str, Any]:
    history = {symbol: columns(frame) for symbol, frame in trained.frames(STOP).items()}
    return {"history": history, "as_of": (trained.panel.timestamps[STOP]).isoformat()}


def test_served_equals_offline(client: Any, trained: Any, whole_body: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json=whole_body)
    assert answer.status_code == 200, answer.text
    for row, one in enumerate(answer.json()["predictions"]):
        assert one["symbol"] == trained.panel.symbols[row]
        assert one["refusal"] is None
        np.testing.assert_allclose(list(one["direction"].values()), trained.offline.probabilities[row, STOP - 1], atol=1e-6)
        np.testing.assert_allclose(list(one["quantiles"]["24"].values()), trained.offline.quantiles[row, STOP - 1, 2], atol=1e-6)


def test_signals_are_those_of_the_predictor(client: Any, trained: Any, whole_body: dict[str, Any]) -> None:
    served = client.post("/v1/signals", json=whole_body).json()["signals"]
    expected = Predictor(trained.path).predict(trained.frames(STOP))
    assert [one["action"] for one in served] == [one.signal["action"] for one in expected]
    assert [one["stop_loss_pct"] for one in served] == pytest.approx([one.signal["stop_loss_pct"] for one in expected], abs=1e-6)


def test_ready_tells_the_model(client: Any, trained: Any) -> None:
    info = client.get("/readyz").json()
    assert info["symbols"] == list(trained.panel.symbols)
    assert trained.bundle.data_fingerprint[:8] in info["version"]


def test_clock_makes_old_candles_stale(client: Any, whole_body: dict[str, Any]) -> None:
    del whole_body["as_of"]
    signals = client.post("/v1/signals", json=whole_body).json()["signals"]
    assert {(one["action"], one["refusal"]) for one in signals} == {("HOLD", "stale")}


def test_candles_of_the_future_are_refused(client: Any, whole_body: dict[str, Any]) -> None:
    whole_body["as_of"] = "2024-02-01T00:00:00Z"
    answer = client.post("/v1/signals", json=whole_body)
    assert answer.status_code == 422
    assert "after 2024-02-01" in answer.json()["detail"]


def test_another_timeframe_is_refused(client: Any, whole_body: dict[str, Any]) -> None:
    for columns in whole_body["history"].values():
        for name, values in columns.items():
            columns[name] = values[::4]
    answer = client.post("/v1/signals", json=whole_body)
    assert answer.status_code == 422
    assert "mixes timeframes" in answer.json()["detail"]


@pytest.mark.parametrize("error", [BackPressureError(num_queued_requests=9, max_queued_requests=8), RayActorError()])
def test_overload_and_dead_replicas_are_503(connect: Callable[..., Any], whole_body: dict[str, Any], error: Exception) -> None:
    class Broken:
        def __getattr__(self, name: str) -> "Broken":
            return self

        async def remote(self, *_: Any) -> None:
            raise error

    answer = connect(create_app(RemoteModel(Broken()))).post("/v1/signals", json=whole_body)  # type: ignore[arg-type]
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_application_is_built(trained: Any) -> None:
    app = build(AppArgs(bundle=str(trained.path)))
    assert serve.run(app, name="whole", _local_testing_mode=True) is not None
