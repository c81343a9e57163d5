"""A freqtrade user without a network: a folder of candles, strategies and settings, and an exchange on loopback."""

import json
import os
import site
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ccxt
import pandas as pd

from tests.conftest import REPOSITORY

__all__ = ["FreqtradeUser", "loopback_exchange"]

STRATEGIES = """
import sys
sys.path.extend({paths!r})
from cryptoml.live.freqtrade import CryptomlStrategy

class Follower(CryptomlStrategy):
    cryptoml_bundle = {bundle!r}
    can_short = True

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
    """

    executable: Path
    folder: Path
    exchange: str
    pairs: tuple[str, ...]

    def write_candles(self, symbol: str, candles: pd.DataFrame, funding: pd.DataFrame) -> None:
        """Write futures and mark candles and funding rates in freqtrade's format."""
        folder = self.folder / "data" / "binance" / "futures"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{symbol.removesuffix('USDT')}_USDT_USDT-1h"
        dated = candles.rename(columns={"timestamp": "date"}).reset_index(drop=True)
        rates = funding.assign(date=funding["timestamp"].dt.floor("h"))[["date", "funding_rate"]].reset_index(drop=True)
        dated.to_feather(folder / f"{stem}-futures.feather")
        dated.to_feather(folder / f"{stem}-mark.feather")
        rates.to_feather(folder / f"{stem}-funding_rate.feather")

    def write_strategies(self, bundle: Path) -> None:
        """Write the strategy of the documentation, and one that looks a bar ahead."""
        folder = self.folder / "strategies"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(REPOSITORY), *site.getsitepackages()]  # behind freqtrade's own: cryptoml as if installed there
        (folder / "follower.py").write_text(STRATEGIES.format(paths=paths, bundle=str(bundle)))

    def run(self, command: str, strategy: str, timerange: str, *options: str) -> str:
        """Run a command of freqtrade and return its log; errors that it swallows in callbacks count as failures."""
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))
        arguments = [
            str(self.executable),
            command,
            "--config",
            str(config),
            "--userdir",
            str(self.folder),
            "--strategy",
            strategy,
        ]
        arguments += ["--timerange", timerange, *options]
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        )
        log = done.stdout + done.stderr
        (self.folder / f"{command}-{strategy}.log").write_text(log)
        assert done.returncode == 0, log[-6000:]
        assert " - ERROR - " not in log, log[-6000:]
        return log

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
        price = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
        return {
            "dry_run": True,
            "dry_run_wallet": 100_000,
            "max_open_trades": -1,
            "stake_currency": "USDT",
            "stake_amount": 100,
            "tradable_balance_ratio": 1.0,
            "trading_mode": "futures",
            "margin_mode": "isolated",
            "fee": 0.0005,
            "entry_pricing": price,
            "exit_pricing": price,
            "pairlists": [{"method": "StaticPairList"}],
            "exchange": {
                "name": "binance",
                "pair_whitelist": [f"{pair.removesuffix('USDT')}/USDT:USDT" for pair in self.pairs],
                "ccxt_config": {"options": {"fetchMarkets": {"types": ["linear"]}}, "urls": {"api": addresses}},
                "ccxt_async_config": {},
            },
        }


@contextmanager
def loopback_exchange(symbols: tuple[str, ...]) -> Iterator[str]:
    """Serve the list of markets that freqtrade insists on; every other question is answered 404."""
    body = json.dumps({"timezone": "UTC", "serverTime": 0, "symbols": [_market(symbol) for symbol in symbols]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.split("?")[0].endswith("/exchangeInfo")
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body) if known else 0))
            self.end_headers()
            self.wfile.write(body if known else b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _market(symbol: str) -> dict[str, Any]:
    lot = {"minQty": "0.00001", "maxQty": "100000", "stepSize": "0.00001"}
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": 5,
        "quantityPrecision": 5,
        "orderTypes": ["LIMIT", "MARKET", "STOP"],
        "timeInForce": ["GTC", "IOC"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.00001", "maxPrice": "1000000", "tickSize": "0.00001"},
            {"filterType": "LOT_SIZE", **lot},
            {"filterType": "MARKET_LOT_SIZE", **lot},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
    }
