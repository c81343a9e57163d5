"""A small model behind the HTTP interface, and bodies to send."""

import asyncio
import runpy
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from fastapi import FastAPI

from cryptoml.live.prediction import Prediction, Refusal
from serve.requests import ModelInfo

trained = runpy.run_path(str(Path(__file__).parents[1] / "live" / "conftest.py"))["trained"]
INFO = ModelInfo(version="fake", timeframe="1h", horizon_bars=24, history_bars=3, symbols=["BTCUSDT", "ETHUSDT"])


class FakeModel:
    """Holds everything it knows; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[str, pd.DataFrame], datetime]] = []

    async def predict(self, frames: Mapping[str, pd.DataFrame], now: datetime) -> tuple[ModelInfo, list[Prediction]]:
        self.asked.append((frames, now))
        return INFO, [self._one(symbol) for symbol in frames]

    async def info(self) -> ModelInfo:
        return INFO

    def _one(self, symbol: str) -> Prediction:
        signal = {
            "action": "HOLD",
            "position_size": 0.0,
            "confidence": None,
            "stop_loss_pct": None,
            "take_profit_pct": None,
            "market_regime": "UNKNOWN",
            "predicted_volatility": None,
            "expected_edge": None,
            "reasoning": "HOLD",
        }
        refusal = None if symbol in INFO.symbols else Refusal.NEVER_TRAINED
        return Prediction(symbol, None, None, 24, signal, refusal=refusal)


def candle_columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a candle frame as the body of a request."""
    columns = {name: frame[name].tolist() for name in ("open", "high", "low", "close", "volume")}
    return {"timestamp": [stamp.isoformat() for stamp in frame["timestamp"]], **columns}


class Client:
    """Sends requests to an application in this process, each in an event loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, **options))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def connect() -> Callable[[FastAPI], Client]:
    return Client


@pytest.fixture
def fake_model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def columns() -> Callable[[pd.DataFrame], dict[str, Any]]:
    return candle_columns


@pytest.fixture
def body() -> dict[str, Any]:
    stamps = pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC")
    frame = pd.DataFrame({"timestamp": stamps, "open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 1.0})
    return {"history": {"BTCUSDT": candle_columns(frame)}, "as_of": "2024-01-01T03:00:00Z"}
