"""A freqtrade user without a network: a folder of candles, strategies and settings, and an exchange on loopback."""

import json
import os
import signal
import site
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import ccxt
import pandas as pd

from tests.conftest import REPOSITORY

__all__ = ["FreqtradeUser", "loopback_exchange"]

STRATEGIES = """
import logging
import sys
sys.path.extend({paths!r})
from cryptoml.live.freqtrade import CryptomlStrategy

class Follower(CryptomlStrategy):
    cryptoml_bundle = {bundle!r}
    can_short = True

class Spot(Follower):
    can_short = False

class Served(CryptomlStrategy):
    cryptoml_endpoint = {endpoint!r}
    can_short = True

class Teller(Spot):
    def populate_entry_trend(self, dataframe, metadata):
        newest = dataframe.iloc[-1]
        size = newest["cryptoml_position_size"]
        logging.getLogger("teller").info("%s %s %s %.6f", metadata["pair"], newest["date"], newest["cryptoml_action"], size)
        return super().populate_entry_trend(dataframe, metadata)

class Leaker(Follower):
    def populate_indicators(self, dataframe, metadata):
        known = super().populate_indicators(dataframe, metadata)
        known["cryptoml_action"] = known["cryptoml_action"].shift(-1).fillna("HOLD")
        return known
"""


@dataclass(frozen=True)
class FreqtradeUser:
    """A `user_data` folder and the freqtrade that works on it.

    Attributes:
        executable: freqtrade, in an environment of its own with the same Python version as this one.
        folder: `user_data`.
        exchange: Address of the loopback exchange.
        pairs: Symbols to trade, such as `BTCUSDT`.
        trading_mode: `futures` or `spot`.
    """

    executable: Path
    folder: Path
    exchange: str
    pairs: tuple[str, ...]
    trading_mode: str = "futures"

    def write_candles(self, symbol: str, candles: pd.DataFrame, funding: pd.DataFrame | None = None) -> None:
        """Write candles in freqtrade's format: of spot, and of futures with mark and funding rates where these are given."""
        data, base = self.folder / "data" / "binance", symbol.removesuffix("USDT")
        (data / "futures").mkdir(parents=True, exist_ok=True)
        dated = candles.rename(columns={"timestamp": "date"}).reset_index(drop=True)
        dated.to_feather(data / f"{base}_USDT-1h.feather")
        if funding is None:
            return
        folder, stem = data / "futures", f"{base}_USDT_USDT-1h"
        rates = funding.assign(date=funding["timestamp"].dt.floor("h"))[["date", "funding_rate"]].reset_index(drop=True)
        dated.to_feather(folder / f"{stem}-futures.feather")
        dated.to_feather(folder / f"{stem}-mark.feather")
        rates.to_feather(folder / f"{stem}-funding_rate.feather")

    def write_strategies(self, bundle: Path, endpoint: str = "") -> None:
        """Write the strategies of the documentation, one that tells its decisions, and one that looks a bar ahead."""
        folder = self.folder / "strategies"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(REPOSITORY), *site.getsitepackages()]  # behind freqtrade's own: cryptoml as if installed there
        (folder / "follower.py").write_text(STRATEGIES.format(paths=paths, bundle=str(bundle), endpoint=endpoint))

    def run(self, command: str, strategy: str, timerange: str, *options: str) -> str:
        """Run a command of freqtrade and return its log; errors that it swallows in callbacks count as failures."""
        done = subprocess.run(
            [*self._command(command, strategy), "--timerange", timerange, *options],
            capture_output=True,
            text=True,
            timeout=280,
            env=self._environment,
        )
        log = done.stdout + done.stderr
        (self.folder / f"{command}-{strategy}.log").write_text(log)
        assert done.returncode == 0, log[-6000:]
        assert " - ERROR - " not in log, log[-6000:]
        return log

    def watch(self, strategy: str, done: Callable[[str], bool], timeout_s: float) -> str:
        """Start a dry run, let it live until its log says enough, and return that."""
        path = self.folder / "trade.log"
        with path.open("w") as log:
            database = f"sqlite:///{self.folder / 'dry.sqlite'}"
            command = [*self._command("trade", strategy), "--db-url", database]
            bot = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self._environment)
        deadline = time.monotonic() + timeout_s
        while bot.poll() is None and time.monotonic() < deadline and not done(path.read_text()):
            time.sleep(0.5)
        bot.send_signal(signal.SIGINT)
        try:
            bot.wait(60)
        except subprocess.TimeoutExpired:
            bot.kill()
            bot.wait()
        return path.read_text()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}

    def _command(self, command: str, strategy: str) -> list[str]:
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))
        options = ["--config", config, "--userdir", self.folder, "--strategy", strategy]
        return [str(part) for part in (self.executable, command, *options)]

    def trades(self, strategy: str) -> pd.DataFrame:
        """Return the trades of the last backtest."""
        results = self.folder / "backtest_results"
        name = json.loads((results / ".last_result.json").read_text())["latest_backtest"]
        with zipfile.ZipFile(results / name) as archive:
            content = json.loads(archive.read(name.replace(".zip", ".json")))
        trades = pd.DataFrame(content["strategy"][strategy]["trades"])
        return trades.assign(open_date=pd.to_datetime(trades["open_date"]), close_date=pd.to_datetime(trades["close_date"]))

    def _config(self) -> dict[str, Any]:
        addresses = {name: f"{self.exchange}/{name}" for name in ccxt.binance().urls["api"]}
        futures = self.trading_mode == "futures"
        suffix, kind = ("/USDT:USDT", "linear") if futures else ("/USDT", "spot")
        price = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
        return {
            "dry_run": True,
            "initial_state": "running",
            "dry_run_wallet": 100_000,
            "max_open_trades": -1,
            "stake_currency": "USDT",
            "stake_amount": 100,
            "tradable_balance_ratio": 1.0,
            "trading_mode": self.trading_mode,
            "margin_mode": "isolated" if futures else "",
            "fee": 0.0005,
            "entry_pricing": price,
            "exit_pricing": price,
            "pairlists": [{"method": "StaticPairList"}],
            "internals": {"process_throttle_secs": 1, "heartbeat_interval": 5},
            "exchange": {
                "name": "binance",
                "pair_whitelist": [f"{pair.removesuffix('USDT')}{suffix}" for pair in self.pairs],
                "enable_ws": False,
                "ccxt_config": {"options": {"fetchMarkets": {"types": [kind]}}, "urls": {"api": addresses}},
                "ccxt_async_config": {},
            },
        }


@contextmanager
def loopback_exchange(symbols: tuple[str, ...], candles: Mapping[str, pd.DataFrame] | None = None) -> Iterator[str]:
    """Serve the lists of markets that freqtrade insists on, and candles and a book of those given; all else is answered 404."""
    futures, spot = (
        {"timezone": "UTC", "serverTime": 0, "symbols": [kind(name) for name in symbols]} for kind in (_future, _spot)
    )

    def answer(address: str) -> Any:
        path, _, query = address.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        frame = (candles or {}).get(asked.get("symbol", ""))
        if path.endswith("/exchangeInfo"):
            return futures if "/fapi" in path else spot
        if path.endswith("/klines") and frame is not None:
            return _klines(frame, int(asked.get("startTime", 0)), int(asked.get("limit", 500)))
        if path.endswith("/depth") and frame is not None:
            close = float(frame["close"].iloc[-1])
            return {"lastUpdateId": 1, "bids": [[str(close * 0.9999), "10"]], "asks": [[str(close * 1.0001), "10"]]}
        return None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(self.path)
            body = b"" if found is None else json.dumps(found).encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _klines(frame: pd.DataFrame, since_ms: int, limit: int) -> list[list[Any]]:
    """Return rows in Binance's form, from an instant on, or the newest."""
    opens = frame["timestamp"].dt.as_unit("ms").astype("int64")
    rows = frame[opens >= since_ms].head(limit) if since_ms else frame.tail(limit)
    hour = 3_600_000
    return [
        [int(stamp), *(str(value) for value in values), int(stamp) + hour - 1, "0", 1, "0", "0", "0"]
        for stamp, *values in zip(opens[rows.index], *(rows[name] for name in CANDLES), strict=True)
    ]


def _spot(symbol: str) -> dict[str, Any]:
    return {
        **_market(symbol),
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": ["SPOT"],
        "filters": [*_FILTERS, {"filterType": "NOTIONAL", "minNotional": "5", "maxNotional": "9000000"}],
    }


def _future(symbol: str) -> dict[str, Any]:
    return {
        **_market(symbol),
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "marginAsset": "USDT",
        "timeInForce": ["GTC", "IOC"],
        "filters": [*_FILTERS, {"filterType": "MIN_NOTIONAL", "notional": "5"}],
    }


def _market(symbol: str) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT",
        "pricePrecision": 5,
        "quantityPrecision": 5,
        "orderTypes": ["LIMIT", "MARKET", "STOP"],
    }


_LOT = {"minQty": "0.00001", "maxQty": "100000", "stepSize": "0.00001"}
_FILTERS = (
    {"filterType": "PRICE_FILTER", "minPrice": "0.00001", "maxPrice": "1000000", "tickSize": "0.00001"},
    {"filterType": "LOT_SIZE", **_LOT},
    {"filterType": "MARKET_LOT_SIZE", **_LOT},
)
CANDLES = ("open", "high", "low", "close", "volume")
