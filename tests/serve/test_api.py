"""The HTTP interface over a model that only remembers."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from serve.api import create_app
from serve.problems import ModelUnavailableError


@pytest.fixture
def client(fake_model: Any, connect: Callable[..., Any]) -> Any:
    return connect(create_app(fake_model))


async def in_parts() -> AsyncIterator[bytes]:
    for _ in range(2):
        yield b"x" * 600


def test_health_and_readiness(client: Any) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["symbols"] == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize(("path", "key"), [("/v1/predict", "predictions"), ("/v1/signals", "signals")])
def test_answers_each_symbol(client: Any, fake_model: Any, body: dict[str, Any], path: str, key: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert [row["symbol"] for row in answer.json()[key]] == ["BTCUSDT"]
    assert answer.json()["model"]["version"] == "fake"
    frames, now = fake_model.asked[-1]
    assert now == datetime(2024, 1, 1, 3, tzinfo=UTC)
    assert frames["BTCUSDT"]["timestamp"].is_monotonic_increasing
    assert frames["BTCUSDT"]["close"].tolist() == [10.0, 10.0, 10.0]


def test_clock_of_the_service_is_the_default(client: Any, fake_model: Any, body: dict[str, Any]) -> None:
    del body["as_of"]
    before = datetime.now(UTC)
    assert client.post("/v1/signals", json=body).status_code == 200
    assert before <= fake_model.asked[-1][1] <= datetime.now(UTC)


def change(body: dict[str, Any], column: str, values: Any) -> dict[str, Any]:
    body["history"]["BTCUSDT"][column] = values
    return body


BAD = {
    "nan": ("close", [10.0, float("nan"), 10.0], "/history/BTCUSDT/close/1"),
    "text": ("close", [10.0, "ten", 10.0], "/history/BTCUSDT/close/1"),
    "zero price": ("open", [10.0, 0.0, 10.0], "/history/BTCUSDT/open/1"),
    "negative volume": ("volume", [1.0, 1.0, -1.0], "/history/BTCUSDT/volume/2"),
    "short column": ("high", [11.0], "/history/BTCUSDT"),
    "unordered": ("timestamp", ["2024-01-01T01:00Z", "2024-01-01T00:00Z", "2024-01-01T02:00Z"], "/history/BTCUSDT"),
    "naive": ("timestamp", ["2024-01-01T00:00", "2024-01-01T01:00", "2024-01-01T02:00"], "/history/BTCUSDT/timestamp/0"),
    "unknown column": ("closing", [1.0, 1.0, 1.0], "/history/BTCUSDT/closing"),
    "year 9999": ("timestamp", ["2024-01-01T00:00Z", "2024-01-01T01:00Z", "9999-01-01T02:00Z"], "/history/BTCUSDT/timestamp/2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_names_the_field(client: Any, body: dict[str, Any], name: str) -> None:
    column, values, field = BAD[name]
    content = json.dumps(change(body, column, values))  # JSON as some clients write it, with NaN
    answer = client.post("/v1/signals", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "errors"}
    assert problem["errors"][0]["field"] == field


def test_unknown_symbol(client: Any, body: dict[str, Any]) -> None:
    body["history"]["FOOUSDT"] = body["history"]["BTCUSDT"]
    answer = client.post("/v1/signals", json=body)
    assert answer.status_code == 422
    assert "FOOUSDT" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 422), (b"a=1", "application/x-www-form-urlencoded", 422), (b"", "application/json", 422)],
)
def test_body_that_is_not_json(client: Any, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/signals", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("declared", [True, False])
def test_huge_body(fake_model: Any, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    monkeypatch.setattr("serve.api.MAX_BODY_BYTES", 1000)
    client = connect(create_app(fake_model))
    content = b"x" * 2000 if declared else in_parts()
    answer = client.post("/v1/signals", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["status"] == 413
    assert not fake_model.asked


def test_unknown_path_and_method(client: Any) -> None:
    assert client.get("/v1/nothing").json()["status"] == 404
    assert client.get("/v1/signals").json()["status"] == 405


def test_busy_model_asks_to_come_back(client: Any, fake_model: Any, body: dict[str, Any], monkeypatch: Any) -> None:
    async def busy(*_: Any) -> None:
        raise ModelUnavailableError("busy")

    monkeypatch.setattr(fake_model, "predict", busy)
    answer = client.post("/v1/signals", json=body)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


def test_unexpected_error_tells_no_secrets(client: Any, fake_model: Any, body: dict[str, Any], monkeypatch: Any) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret at /home/somebody")

    monkeypatch.setattr(fake_model, "predict", broken)
    answer = client.post("/v1/signals", json=body)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
