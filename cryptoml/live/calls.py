"""What a service can be asked over HTTP, as requests that nobody has sent yet; shared by the client that blocks and the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import pandas as pd
from pydantic import BaseModel

from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.live.wire import (
    AdaptationAnswer,
    AdaptationsAnswer,
    ForecastAnswer,
    KeptStatus,
    ModelInfo,
    ModelsAnswer,
    SignalAnswer,
    TakenAnswer,
)

__all__ = ["Answer", "Call", "Calls", "History"]

Answer = TypeVar("Answer", bound=BaseModel)
History = Mapping[str, pd.DataFrame]
Source = Sequence[str] | History


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request, and what its answer is."""

    method: str
    path: str
    answer: type[Answer]
    body: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] | None = None


class Calls:
    """A method for everything that the service can be asked; the clients document them."""

    def model(self) -> Call[ModelInfo]:
        return Call("GET", "/v1/model", ModelInfo)

    def signals(self, source: Source, as_of: datetime | None, adaptation: str | None, explain: bool) -> Call[SignalAnswer]:
        return Call("POST", "/v1/signals", SignalAnswer, _question(source, as_of, adaptation, explain))

    def predict(self, source: Source, as_of: datetime | None, adaptation: str | None, explain: bool) -> Call[ForecastAnswer]:
        return Call("POST", "/v1/predict", ForecastAnswer, _question(source, as_of, adaptation, explain))

    def put_candles(self, symbol: str, candles: pd.DataFrame, timeframe: str | None) -> Call[TakenAnswer]:
        body = _columns(candles) | ({} if timeframe is None else {"timeframe": timeframe})
        return Call("PUT", f"/v1/candles/{_path(symbol)}", TakenAnswer, body)

    def candle_status(self, symbol: str) -> Call[KeptStatus]:
        return Call("GET", f"/v1/candles/{_path(symbol)}/status", KeptStatus)

    def adaptations(self) -> Call[AdaptationsAnswer]:
        return Call("GET", "/v1/adaptations", AdaptationsAnswer)

    def models(self) -> Call[ModelsAnswer]:
        return Call("GET", "/v1/models", ModelsAnswer)

    def rollback(self, reason: str) -> Call[ModelInfo]:
        return Call("POST", "/v1/models/rollback", ModelInfo, {"reason": reason})

    def adapt(
        self, symbols: Sequence[str], last_bars: int | None, history: History | None, regime: str | None
    ) -> Call[AdaptationAnswer]:
        given = {"last_bars": last_bars, "regime": regime, "history": None if history is None else _history(history)}
        body = {"symbols": list(symbols)} | {name: value for name, value in given.items() if value is not None}
        return Call("POST", "/v1/adaptations", AdaptationAnswer, body)

    def remove_adaptation(self, number: str) -> Call[BaseModel]:
        return Call("DELETE", f"/v1/adaptations/{quote(number, safe='')}", BaseModel)

    def promote(self, version: str, reason: str) -> Call[ModelInfo]:
        return Call("POST", f"/v1/models/{quote(version, safe='')}/promote", ModelInfo, {"reason": reason})


def _question(source: Source, as_of: datetime | None, adaptation: str | None, explain: bool) -> dict[str, Any]:
    asked: dict[str, Any] = {"history": _history(source)} if isinstance(source, Mapping) else {"symbols": list(source)}
    given = {"as_of": None if as_of is None else as_of.isoformat(), "adaptation": adaptation, "explain": explain or None}
    return asked | {name: value for name, value in given.items() if value is not None}


def _history(frames: History) -> dict[str, dict[str, list[Any]]]:
    return {symbol: _columns(frame) for symbol, frame in frames.items()}


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return candles as the body of a request; optional columns with missing values are left out."""
    stamps = frame["timestamp"] if "timestamp" in frame else frame.index.to_series()
    given = [name for name in CANDLE_FIELDS if name in frame and not frame[name].isna().any()]
    return {"timestamp": [stamp.isoformat() for stamp in stamps], **{name: frame[name].astype(float).tolist() for name in given}}


def _path(symbol: str) -> str:
    return quote(symbol.replace("/", "-"), safe="")
