"""A local HTTP server that answers as Binance's spot endpoints do, faults included."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd

HOUR = 3_600_000
SYMBOLS = {"BTCUSDT": ("BTC", "USDT"), "ETHUSDT": ("ETH", "USDT")}


def milliseconds(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").timestamp() * 1000)


class ExchangeServer(ThreadingHTTPServer):
    """Hourly candles of two markets from `listed` to `now`; the last one is still open.

    Attributes:
        faults: What to answer to the next kline requests, first one first: "429", "418", "drop", "halt" (500).
        requests: Start times of the kline requests that were answered with candles, in milliseconds.
        page: Most candles per answer.
        holes: Bar opens without a candle.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.listed, self.now = milliseconds("2023-01-01"), milliseconds("2023-01-05 10:30")
        self.faults: list[str] = []
        self.requests: list[int] = []
        self.page = 40
        self.holes: set[int] = set()

    @property
    def options(self) -> dict[str, Any]:
        """Settings that point ccxt's binance client here."""
        address = f"http://127.0.0.1:{self.server_port}/api/v3"
        return {
            "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False},
            "urls": {"api": {"public": address}},
            "timeout": 5000,
            "rateLimit": 1,
        }

    def klines(self, since: int, limit: int) -> list[list[Any]]:
        first = max(-(-since // HOUR) * HOUR, self.listed)
        stamps = [stamp for stamp in range(first, self.now + 1, HOUR) if stamp not in self.holes]
        return [_kline(stamp) for stamp in stamps[: min(limit, self.page)]]


def close_at(stamp: int) -> float:
    return 100.0 + (stamp // HOUR) % 50


def _kline(stamp: int) -> list[Any]:
    close = close_at(stamp)
    prices = [str(close), str(close + 1), str(close - 1), str(close)]
    return [stamp, *prices, "12.5", stamp + HOUR - 1, "1250.0", 7, "6.0", "600.0", "0"]


def _market(name: str, base: str, quote: str) -> dict[str, Any]:
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
        {"filterType": "NOTIONAL", "minNotional": "5"},
    ]
    assets = {"baseAsset": base, "quoteAsset": quote, "baseAssetPrecision": 8, "quotePrecision": 8}
    return {
        "symbol": name,
        "status": "TRADING",
        **assets,
        "isSpotTradingAllowed": True,
        "permissions": ["SPOT"],
        "filters": filters,
    }


class _Handler(BaseHTTPRequestHandler):
    server: ExchangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        match parts.path.rpartition("/")[2]:
            case "exchangeInfo":
                self._answer(200, {"symbols": [_market(name, *assets) for name, assets in SYMBOLS.items()]})
            case "time":
                self._answer(200, {"serverTime": self.server.now})
            case "klines":
                self._klines(query)
            case _:
                self._answer(404, {"code": -1, "msg": "unknown path"})

    def _klines(self, query: dict[str, str]) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif fault in ("429", "418"):
            self._answer(int(fault), {"code": -1003, "msg": "Too many requests"}, {"Retry-After": "0"})
        elif fault == "halt":
            self._answer(400, {"code": -1100, "msg": "Illegal characters found"})
        else:
            since = int(query["startTime"])
            self.server.requests.append(since)
            self._answer(200, self.server.klines(since, int(query.get("limit", 500))))

    def _answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Stay quiet."""


@contextmanager
def running_exchange() -> Iterator[ExchangeServer]:
    with ExchangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
