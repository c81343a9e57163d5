"""The door: who may come in, with what, and what they are told otherwise."""

import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from cryptoml.data.storage import open_storage
from serve.access import Access
from serve.api import create_app
from serve.arrow import ARROW
from serve.audit import AuditLog
from serve.keys import Role, create_key
from serve.service import remote_service
from serve.settings import Limits

JSON = {"content-type": "application/json"}


async def in_parts() -> AsyncIterator[bytes]:
    for _ in range(2):
        yield b"x" * 600


def test_health(client: Any, today: Any) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["symbols"] == list(today.frames)


def test_clock_of_the_service_is_the_default(client: Any, body: dict[str, Any]) -> None:
    del body["as_of"]
    signals = client.post("/v1/signals", json=body).json()["signals"]
    assert {(one["action"], one["refusal"]) for one in signals} == {("HOLD", "too_little_history")}


def change(body: dict[str, Any], column: str, values: Any) -> dict[str, Any]:
    body["history"]["BTCUSDT"][column] = values
    return body


BAD = {
    "nan": ("close", [10.0, float("nan"), 10.0], "/history/BTCUSDT/close/1"),
    "text": ("close", [10.0, "ten", 10.0], "/history/BTCUSDT/close/1"),
    "quoted": ("close", ["10.0", 10.0, 10.0], "/history/BTCUSDT/close/0"),
    "truth value": ("close", [10.0, 10.0, True], "/history/BTCUSDT/close/2"),
    "quoted volume": ("volume", [1.0, "1", 1.0], "/history/BTCUSDT/volume/1"),
    "seconds": ("timestamp", [1704067200, 1704070800, 1704074400], "/history/BTCUSDT/timestamp/0"),
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
    answer = client.post("/v1/signals", content=content, headers=JSON)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "errors"}
    assert problem["errors"][0]["field"] == field


def test_unknown_symbols(client: Any, body: dict[str, Any]) -> None:
    body["history"]["FOOUSDT"] = body["history"]["BTCUSDT"]
    answer = client.post("/v1/signals", json=body)
    assert answer.status_code == 422
    assert "FOOUSDT" in answer.json()["detail"]
    named = client.post("/v1/signals", json={"symbols": ["BTCUSDT", "FOOUSDT"]})
    assert (named.status_code, named.json()["errors"][0]["field"]) == (422, "/symbols/1")
    candles = body["history"]["BTCUSDT"]
    assert client.put("/v1/candles/FOOUSDT", json=candles).status_code == 404
    assert client.get("/v1/candles/FOOUSDT/status").status_code == 404
    assert client.post("/v1/adaptations", json={"symbols": ["FOOUSDT"]}).status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 422), (b"a=1", "application/x-www-form-urlencoded", 415), (b"", "application/json", 422),
     (b"no arrow", ARROW, 422), (b"", "", 415)],
)  # fmt: skip
def test_body_that_is_not_what_it_says(client: Any, content: bytes, kind: str, status: int) -> None:
    for method, path in (("POST", "/v1/signals"), ("PUT", "/v1/candles/BTCUSDT")):
        answer = client.request(method, path, content=content, headers={"content-type": kind})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("declared", [True, False])
def test_huge_body(service: Any, connect: Callable[..., Any], declared: bool) -> None:
    client = connect(create_app(service, limits=Limits(body_bytes=1024)))
    content = b"x" * 2000 if declared else in_parts()
    answer = client.post("/v1/signals", content=content, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


def arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def altered(frame: pd.DataFrame, column: str, row: int, value: Any) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize("kind", ["json", "arrow"])
def test_bars_that_cannot_be_kept(client: Any, today: Any, columns: Callable[..., Any], kind: str) -> None:
    def put(frame: pd.DataFrame) -> tuple[int, str]:
        if kind == "arrow":
            answer = client.put("/v1/candles/BTCUSDT", content=arrow(frame), headers={"content-type": ARROW})
        else:
            answer = client.put("/v1/candles/BTCUSDT", content=json.dumps(columns(frame)), headers=JSON)
        assert answer.status_code < 500
        return answer.status_code, answer.json().get("errors", [{}])[0].get("field", "")

    good = today.tail("BTCUSDT", 60)
    hour = pd.Timedelta(hours=1)
    assert put(altered(good, "close", 3, float("nan"))) == (422, "/close/3")
    assert put(altered(good, "high", 4, 1e-3)) == (422, "/high/4")
    assert put(good.assign(timestamp=good["timestamp"] + pd.Timedelta(minutes=7)).iloc[:-1]) == (422, "/timestamp/0")
    assert put(good.iloc[::4].reset_index(drop=True))[0] == 422
    assert put(good.assign(timestamp=good["timestamp"] + hour)) == (422, "/timestamp/59")
    assert put(good.assign(timestamp=good["timestamp"] + 100 * hour))[0] == 422
    assert put(good.iloc[::-1])[0] == 422
    assert client.get("/v1/candles/BTCUSDT/status").json()["bars"] == 0
    assert put(good)[0] == 200
    assert put(good)[0] == 200
    assert put(altered(good, "close", 59, good["close"].iloc[59] * 0.9999)) == (409, "/close/59")
    assert put(good.assign(timestamp=good["timestamp"] - 10 * hour)) != (200, "")
    assert client.get("/v1/candles/BTCUSDT/status").json()["bars"] == 60
    kept = client.get("/v1/candles/BTCUSDT", params={"bars": 60}).json()
    assert kept["close"] == good["close"].tolist()


def test_declared_timeframe_must_be_the_models(client: Any, today: Any, columns: Callable[..., Any]) -> None:
    body = columns(today.tail("BTCUSDT", 1)) | {"timeframe": "4h"}
    answer = client.put("/v1/candles/BTCUSDT", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "/timeframe")
    assert client.put("/v1/candles/BTCUSDT", json=body | {"timeframe": "60m"}).status_code == 200


def test_unknown_path_and_method(client: Any) -> None:
    assert client.get("/v1/nothing").json()["status"] == 404
    assert client.get("/v1/signals").json()["status"] == 405


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/model", "/v1/candles/BTCUSDT/status", "/v1/nothing"])
def test_head_is_get_without_the_body(client: Any, path: str) -> None:
    whole, head = client.get(path), client.request("HEAD", path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert {**head.headers} == {**whole.headers}


@pytest.fixture
def keys(tmp_path: Path) -> dict[Role, str]:
    return {role: create_key(tmp_path / "keys.json", f"a {role}", role) for role in Role}


@pytest.fixture
def guarded(service: Any, connect: Callable[..., Any], tmp_path: Path, keys: dict[Role, str]) -> Callable[[str | None], Any]:
    limits = Limits(requests_per_second=0.001, burst=20)
    access = Access(str(tmp_path / "keys.json"), limits, AuditLog(open_storage(tmp_path / "state")))
    app = create_app(service, access, limits)
    return lambda key: connect(app, key)


def test_keys_open_what_their_role_includes(guarded: Callable[..., Any], keys: dict[Role, str], today: Any) -> None:
    version = today.bundle.created_at
    asks = {
        Role.READ: lambda client: client.get("/v1/models"),
        Role.WRITE: lambda client: client.delete("/v1/adaptations/nothing"),
        Role.ADMIN: lambda client: client.post(f"/v1/models/{version}/promote"),
    }
    for role, key in keys.items():
        for needed, ask in asks.items():
            refused = ask(guarded(key)).status_code == 403
            assert refused is not role.includes(needed)
    for key in (None, "cml_00000000_" + "A" * 43, "secret"):
        for ask in asks.values():
            answer = ask(guarded(key))
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (401, "Authorization")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded(None).get("/healthz").status_code == 200
    assert guarded(None).get("/v1/models", headers={"X-API-Key": keys[Role.READ]}).status_code == 200


def test_admin_actions_are_written_down(guarded: Callable[..., Any], keys: dict[Role, str], tmp_path: Path) -> None:
    guarded(keys[Role.ADMIN]).post("/v1/models/v1/promote", json={"reason": "because"})
    (entry,) = AuditLog(open_storage(tmp_path / "state")).entries()
    assert (entry["name"], entry["action"], entry["version"], entry["reason"]) == ("a admin", "promote", "v1", "because")
    assert "started on one bundle" in entry["outcome"]
    assert keys[Role.ADMIN] not in json.dumps(entry)


def test_refused_keys_are_written_down_but_cannot_fill_the_log(
    keys: dict[Role, str], tmp_path: Path, service: Any, connect: Callable[..., Any]
) -> None:
    log = AuditLog(open_storage(tmp_path / "state"))
    access = Access(str(tmp_path / "keys.json"), audit=log)
    app = create_app(service, access)
    connect(app, keys[Role.READ]).post("/v1/models/v1/promote")
    for _ in range(40):
        connect(app, "cml_guess").get("/v1/models")
    entries = log.entries()
    assert (entries[0]["name"], entries[0]["role"], entries[0]["path"]) == ("a read", "read", "/v1/models/v1/promote")
    assert {(one["action"], one["key"], one["method"]) for one in entries[1:]} == {("refuse_key", None, "GET")}
    assert len(entries) <= 25
    assert "cml_guess" not in json.dumps(entries)


def test_a_damaged_file_of_keys_shows_in_the_health(
    service: Any, connect: Callable[..., Any], keys: dict[Role, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.keys._REREAD_SECONDS", 0.0)
    app = create_app(service, Access(str(tmp_path / "keys.json")))
    assert connect(app).get("/healthz").json() == {"status": "ok"}
    (tmp_path / "keys.json").write_text("{")
    assert connect(app, keys[Role.READ]).get("/v1/models").status_code == 200
    health = connect(app).get("/healthz")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert "cannot be read" in health.json()["keys"]
    assert str(tmp_path) not in health.text


def test_a_key_that_asks_too_fast_waits(guarded: Callable[..., Any], keys: dict[Role, str]) -> None:
    answers = [guarded(keys[Role.READ]).get("/v1/model") for _ in range(21)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    assert answers[-1].headers["retry-after"]
    assert guarded(keys[Role.WRITE]).get("/v1/model").status_code == 200


class Broken:
    """A handle whose calls all fail in one way."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self

    async def remote(self, *_: Any) -> None:
        raise self._error


@pytest.mark.parametrize("error", [BackPressureError(num_queued_requests=9, max_queued_requests=8), RayActorError()])
def test_overload_and_dead_replicas_are_503(connect: Callable[..., Any], body: dict[str, Any], error: Exception) -> None:
    answer = connect(create_app(remote_service(Broken(error)))).post("/v1/signals", json=body)  # type: ignore[arg-type]
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


def test_unexpected_error_tells_no_secrets(connect: Callable[..., Any], body: dict[str, Any]) -> None:
    broken = remote_service(Broken(RuntimeError("secret at /home/somebody")))  # type: ignore[arg-type]
    answer = connect(create_app(broken)).post("/v1/signals", json=body)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "secret" not in answer.text


def test_answers_carry_security_headers(client: Any) -> None:
    for path in ("/v1/models", "/healthz", "/docs", "/v1/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


def test_description_names_every_body(client: Any) -> None:
    described = client.get("/openapi.json").json()
    names = described["components"]["schemas"]
    text = json.dumps(described)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(names)
    assert {"application/json", ARROW} == set(described["paths"]["/v1/signals"]["post"]["requestBody"]["content"])


def test_clocks_may_differ_a_little(service: Any, connect: Callable[..., Any], today: Any, columns: Callable[..., Any]) -> None:
    ahead = timedelta(hours=1) - (datetime.now(UTC) - datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    patient = connect(create_app(service, limits=Limits(clock_skew_seconds=ahead.total_seconds() + 5)))
    strict = connect(create_app(service))
    frame = today.tail("BTCUSDT", 1)
    early = columns(frame.assign(timestamp=frame["timestamp"] + pd.Timedelta(hours=1)))
    assert strict.put("/v1/candles/BTCUSDT", json=early).status_code == 422
    assert patient.put("/v1/candles/BTCUSDT", json=early).status_code == 200
