"""The application in this process: what is served is what is computed offline, whichever way the bars came."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cryptoml.models.registry import Registry
from serve.arrow import ARROW
from serve.settings import AppArgs

HOUR = pd.Timedelta(hours=1)


def arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def directions(answer: Any) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    return [list(one["direction"].values()) for one in answer.json()["predictions"]]


def test_history_in_the_body_equals_offline(client: Any, trained: Any, columns: Callable[..., Any]) -> None:
    stop = 2300
    history = {symbol: columns(frame) for symbol, frame in trained.frames(stop).items()}
    as_of = trained.panel.timestamps[stop].isoformat()
    answer = client.post("/v1/predict", json={"history": history, "as_of": as_of})
    np.testing.assert_allclose(directions(answer), trained.offline.probabilities[:, stop - 1], atol=1e-6)
    whole = pd.concat([frame.assign(symbol=symbol) for symbol, frame in trained.frames(stop).items()])
    same = client.post("/v1/predict", content=arrow(whole), headers={"content-type": ARROW}, params={"as_of": as_of})
    np.testing.assert_allclose(directions(same), directions(answer), atol=1e-7)


def test_kept_bars_equal_offline(filled: Any, today: Any) -> None:
    answer = filled.post("/v1/predict", json={"symbols": []})
    np.testing.assert_allclose(directions(answer), today.probabilities, atol=1e-6)
    one = filled.post("/v1/predict", json={"symbols": ["ETH/USDT"]}).json()
    assert [row["symbol"] for row in one["predictions"]] == ["ETHUSDT"]
    found = [list(levels.values()) for levels in one["predictions"][0]["quantiles"].values()]
    np.testing.assert_allclose(found, today.quantiles[1], atol=1e-6)


def test_bars_that_come_one_by_one_equal_those_that_came_at_once(client: Any, today: Any, columns: Callable[..., Any]) -> None:
    late = "SOLUSDT"
    for symbol, frame in today.frames.items():
        client.put(f"/v1/candles/{symbol}", json=columns(frame.iloc[:-3]))
    for bar in (-3, -2, -1):
        for symbol, frame in today.frames.items():
            if symbol != late or bar != -1:
                client.put(f"/v1/candles/{symbol}", content=arrow(frame.iloc[[bar]]), headers={"content-type": ARROW})
        answer = client.post("/v1/predict", json={"symbols": []})
        assert answer.status_code == 200
    history = {symbol: columns(frame.iloc[:-1] if symbol == late else frame) for symbol, frame in today.frames.items()}
    expected = client.post("/v1/predict", json={"history": history})
    np.testing.assert_allclose(directions(answer), directions(expected), atol=1e-6)


def test_an_earlier_instant_sees_earlier_bars_only(filled: Any, today: Any, columns: Callable[..., Any]) -> None:
    stop = -20
    as_of = today.frames["BTCUSDT"]["timestamp"].iloc[stop].isoformat()
    kept = filled.post("/v1/predict", json={"symbols": ["BTCUSDT", "ETHUSDT", "SOLUSDT"], "as_of": as_of})
    history = {symbol: columns(frame.iloc[:stop]) for symbol, frame in today.frames.items()}
    given = filled.post("/v1/predict", json={"history": history, "as_of": as_of})
    np.testing.assert_allclose(directions(kept), directions(given), atol=1e-6)


def test_answers_as_arrow(filled: Any, today: Any) -> None:
    answer = filled.post("/v1/signals", json={"symbols": []}, headers={"accept": ARROW})
    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.content).read_all().to_pandas()
    assert table["symbol"].tolist() == list(today.frames)
    np.testing.assert_allclose(table[["p_down", "p_sideways", "p_up"]].to_numpy(), today.probabilities, atol=1e-6)


def test_stale_and_short_histories_hold(client: Any, today: Any, columns: Callable[..., Any]) -> None:
    client.put("/v1/candles/BTCUSDT", json=columns(today.frames["BTCUSDT"].iloc[:-5]))
    client.put("/v1/candles/ETHUSDT", json=columns(today.frames["ETHUSDT"].tail(50)))
    rows = {row["symbol"]: row for row in client.post("/v1/signals", json={"symbols": []}).json()["signals"]}
    assert {name: (row["action"], row["refusal"]) for name, row in rows.items()} == {
        "BTCUSDT": ("HOLD", "stale"),
        "ETHUSDT": ("HOLD", "too_little_history"),
    }
    status = client.get("/v1/candles/BTCUSDT/status").json()
    assert (status["fresh"], status["enough"]) == (False, True)


def test_readiness_follows_the_data(client: Any, today: Any, columns: Callable[..., Any]) -> None:
    assert client.get("/readyz").json()["symbols"] == list(today.frames)
    client.put("/v1/candles/BTCUSDT", json=columns(today.frames["BTCUSDT"].iloc[:-5]))
    assert client.get("/readyz").status_code == 503
    client.put("/v1/candles/BTCUSDT", json=columns(today.tail("BTCUSDT", 5)))
    assert client.get("/readyz").status_code == 200


def test_bars_survive_their_service(filled: Any, today: Any, start: Callable[..., Any]) -> None:
    answer = start(AppArgs(bundle=str(today.path))).post("/v1/predict", json={"symbols": []})
    np.testing.assert_allclose(directions(answer), today.probabilities, atol=1e-6)


def test_explanations_and_what_the_page_shows(filled: Any, today: Any) -> None:
    one = filled.post("/v1/signals", json={"symbols": ["BTCUSDT"], "explain": True}).json()["signals"][0]
    shares = [abs(top["contribution"]) for top in one["top_features"]]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1 + 1e-6
    overview = filled.get("/v1/symbols").json()
    assert [row["signal"]["symbol"] for row in overview["symbols"]] == list(today.frames)
    depth = filled.get("/v1/symbols/BTCUSDT", params={"bars": 30}).json()
    assert len(depth["close"]) == 30
    assert len(depth["regimes"]) == 48
    assert all(abs(sum(look["weights"]) - 1) < 1e-5 for look in depth["attention"])
    graph = filled.get("/v1/graph").json()
    np.testing.assert_allclose(np.sum(graph["weights"], axis=1), 1, atol=1e-5)


def wilder(frame: pd.DataFrame, factor: float = 3.0, bars: int = 60) -> pd.DataFrame:
    steps = np.diff(np.log(frame["close"].to_numpy()))
    steps[-bars:] *= factor
    close = frame["close"].iloc[0] * np.exp(np.append(0.0, np.cumsum(steps)))
    share = close / frame["close"].to_numpy()
    moved = frame.assign(**{name: frame[name] * share for name in ("open", "high", "low", "close")})
    return moved.assign(high=moved[["open", "high", "close"]].max(axis=1), low=moved[["open", "low", "close"]].min(axis=1))


def test_adaptation_moves_its_symbols_until_it_is_removed(client: Any, today: Any, columns: Callable[..., Any]) -> None:
    for symbol, frame in today.frames.items():
        client.put(f"/v1/candles/{symbol}", json=columns(wilder(frame)))
    made = client.post("/v1/adaptations", json={"symbols": ["BTCUSDT", "ETHUSDT"], "last_bars": 50})
    assert made.status_code == 201, made.text
    found = made.json()
    assert found["status"] == "accepted"
    assert found["loss_after"] < found["loss_before"]
    assert client.get("/v1/adaptations").json()["adaptations"] == [found]
    assert client.get(f"/v1/adaptations/{found['id']}").json() == found

    def volatility(**extra: Any) -> dict[str, tuple[float, str | None]]:
        answer = client.post("/v1/predict", json={"symbols": [], **extra})
        assert answer.status_code == 200, answer.text
        return {one["symbol"]: (one["volatility"], one["adaptation"]) for one in answer.json()["predictions"]}

    plain, active, named = volatility(adaptation="none"), volatility(), volatility(adaptation=found["id"])
    assert active == named
    assert active["SOLUSDT"] == plain["SOLUSDT"]
    assert active["BTCUSDT"][1] == found["id"]
    assert active["BTCUSDT"][0] > plain["BTCUSDT"][0]
    assert client.delete(f"/v1/adaptations/{found['id']}").status_code == 204
    assert volatility() == plain
    assert client.get(f"/v1/adaptations/{found['id']}").status_code == 404
    assert client.post("/v1/predict", json={"symbols": [], "adaptation": found["id"]}).status_code == 404


@pytest.fixture
def registered(
    today: Any, tmp_path: Path, start: Callable[..., Any], columns: Callable[..., Any]
) -> tuple[Any, Registry, list[str]]:
    """A client of a service on a registry of two versions, the first of which serves; it keeps all bars."""
    registry = Registry(tmp_path / "registry")
    other = replace(today.bundle, ensemble=replace(today.bundle.ensemble, weights=(0.1, 0.9)), created_at="2024-04-01T00:00:00Z")
    versions = [registry.add(bundle) for bundle in (today.bundle, other)]
    registry.promote(versions[0])
    client = start(AppArgs(registry=str(tmp_path / "registry")))
    for symbol, frame in today.frames.items():
        client.put(f"/v1/candles/{symbol}", json=columns(frame))
    return client, registry, versions


def test_promotion_and_rollback(registered: tuple[Any, Registry, list[str]]) -> None:
    client, registry, (first, second) = registered
    before = client.post("/v1/predict", json={"symbols": []}).json()
    assert before["model"]["version"] == first
    assert client.post(f"/v1/models/{second}/promote", json={"reason": "better"}).json()["version"] == second
    after = client.post("/v1/predict", json={"symbols": []}).json()
    assert after["model"]["version"] == second
    assert after["predictions"][0]["direction"] != before["predictions"][0]["direction"]
    assert registry.champion() == second
    assert client.post("/v1/models/rollback").json()["version"] == first
    assert client.post("/v1/predict", json={"symbols": []}).json()["predictions"] == before["predictions"]
    assert client.post("/v1/models/rollback").status_code == 409
    assert client.post("/v1/models/nothing/promote").status_code == 404
    assert [one["serving"] for one in client.get("/v1/models").json()["versions"]] == [True, False]


def test_damaged_version_is_refused_and_the_old_one_goes_on(registered: tuple[Any, Registry, list[str]], tmp_path: Path) -> None:
    client, _, (first, second) = registered
    weights = tmp_path / "registry" / "versions" / second / "members" / "0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    answer = client.post(f"/v1/models/{second}/promote")
    assert answer.status_code == 409
    assert str(tmp_path) not in answer.text
    assert client.post("/v1/predict", json={"symbols": []}).json()["model"]["version"] == first


def test_version_that_cannot_answer_never_becomes_champion(registered: tuple[Any, Registry, list[str]], today: Any) -> None:
    client, registry, (first, _) = registered
    names = today.bundle.feature_names
    unknown = replace(today.bundle, feature_names=("moon_phase", *names[1:]), created_at="2024-05-01T00:00:00Z")
    answer = client.post(f"/v1/models/{registry.add(unknown)}/promote")
    assert answer.status_code == 409
    assert "moon_phase" in answer.json()["detail"]
    assert registry.champion() == first
    assert [event.kind for event in registry.history()].count("promoted") == 1
    assert client.post("/v1/predict", json={"symbols": []}).json()["model"]["version"] == first


def test_one_bundle_cannot_be_changed(client: Any) -> None:
    version = client.get("/v1/models").json()["serving"]
    assert client.post(f"/v1/models/{version}/promote").status_code == 409
