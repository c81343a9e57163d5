"""Candles from an exchange's public API, through ccxt (extra `exchange`).

Pages are requested oldest first under the exchange's own rate limit; network faults and "too many requests" are retried
a bounded number of times; the bar that is still open is left out.
"""

import difflib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError, DataError

__all__ = ["RetryConfig", "check_markets", "download_candles", "exchange_now", "open_exchange"]

PAGE_BARS = 500  # where ccxt does not say how many bars the exchange gives at once
LONGEST_WAIT_SECONDS = 120.0
COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class RetryConfig(BaseModel):
    """How often and how long to wait for an exchange that does not answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_attempts: int = Field(default=5, ge=1, description="Attempts per request before giving up.")
    backoff_seconds: float = Field(default=1.0, ge=0.0, description="Wait before the second attempt; it doubles from then on.")


def open_exchange(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return ccxt's client of an exchange, rate limit on; no request is made yet.

    Args:
        name: ccxt's id, such as "binance" or "kraken".
        options: Further settings of the ccxt client, merged into its own (`options`, `urls`, `timeout`, ...).

    Raises:
        ConfigError: ccxt is not installed, the exchange is unknown, or its client refuses the options.
    """
    ccxt = _ccxt()
    if name not in ccxt.exchanges:
        raise ConfigError(f"exchange must be one that ccxt knows{_nearest(name, ccxt.exchanges)}, was {name!r}")
    try:
        exchange = getattr(ccxt, name)({"enableRateLimit": True, **(options or {})})
    except (ccxt.BaseError, TypeError, AttributeError) as error:
        raise ConfigError(f"exchange options are not accepted by {name}: {error}") from error
    if not exchange.has["fetchOHLCV"]:
        raise ConfigError(f"exchange {name} offers no candles")
    return exchange


def check_markets(exchange: Any, symbols: Sequence[str], timeframe: str, retry: RetryConfig | None = None) -> None:
    """Load the exchange's markets and check that it has the symbols and the timeframe.

    Raises:
        ConfigError: A symbol or the timeframe is unknown; the message names the nearest or all known ones.
        DataError: The exchange cannot be reached.
    """
    known = exchange.timeframes or {}
    if timeframe not in known or timeframe != timeframe.lower():
        usable = [name for name in known if name == name.lower()]  # "1M" is a month, which is no fixed length
        raise ConfigError(f"timeframe of {exchange.id} must be one of {', '.join(usable)}, was {timeframe!r}")
    markets = _call(exchange, exchange.load_markets, retry or RetryConfig(), "load its markets")
    for symbol in symbols:
        if symbol not in markets:
            raise ConfigError(f"symbol {symbol!r} is not traded on {exchange.id}{_nearest(symbol, markets)}")


def exchange_now(exchange: Any, retry: RetryConfig | None = None) -> pd.Timestamp:
    """Return the exchange's clock, or this machine's where the exchange tells no time."""
    if not exchange.has.get("fetchTime"):
        return pd.Timestamp.now(tz="UTC")
    return _from_milliseconds(_call(exchange, exchange.fetch_time, retry or RetryConfig(), "tell its time"))


def download_candles(
    exchange: Any,
    symbol: str,
    timeframe: str,
    since: pd.Timestamp,
    until: pd.Timestamp,
    *,
    retry: RetryConfig | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the closed candles with open in `[since, until)`, a page at a time, oldest first.

    A stretch without trades, or before the listing, is stepped over page by page.

    Args:
        exchange: From `open_exchange`, markets loaded.
        symbol: ccxt's name of the market, such as "BTC/USDT" or, for the perpetual, "BTC/USDT:USDT".
        timeframe: One of the exchange's.
        since: First bar open, UTC.
        until: The exchange's time now, or an earlier instant: bars that close after it are left out.
        retry: How to treat faults.

    Yields:
        Columns timestamp (bar open, UTC), open, high, low, close, volume (base asset); sorted, unique across pages.

    Raises:
        DataError: The exchange answers with an error, or not at all after the attempts of `retry`.
    """
    step = _milliseconds(parse_timeframe(timeframe))
    limit = exchange.feature_value(symbol, "fetchOHLCV", "limit", PAGE_BARS) or PAGE_BARS
    cursor, stop = _to_milliseconds(since), _to_milliseconds(until)
    while cursor + step <= stop:
        request = _Page(exchange, symbol, timeframe, cursor, limit)
        answer = _call(exchange, request, retry or RetryConfig(), f"give candles of {symbol}")
        rows = {row[0]: row for row in answer if row[0] is not None and row[0] >= cursor}
        closed = [rows[stamp] for stamp in sorted(rows) if stamp + step <= stop]
        if closed:
            yield _frame(closed)
        if rows and not closed:
            return
        cursor = closed[-1][0] + step if closed else cursor + limit * step


class _Page:
    """One request for candles, to be called once or again."""

    def __init__(self, exchange: Any, symbol: str, timeframe: str, since: int, limit: int) -> None:
        self.exchange = exchange
        self.arguments = (symbol, timeframe, since, limit)

    def __call__(self) -> list[list[Any]]:
        return self.exchange.fetch_ohlcv(*self.arguments)


def _call(exchange: Any, request: Callable[[], _Answer], retry: RetryConfig, action: str) -> _Answer:
    ccxt = _ccxt()
    for attempt in range(1, retry.max_attempts + 1):
        try:
            return request()
        except ccxt.NetworkError as error:
            reason = _one_line(error)
            if attempt == retry.max_attempts:
                raise DataError(f"{exchange.id} did not {action} in {attempt} attempts: {reason}") from error
            wait = _wait_seconds(exchange, retry, attempt)
            _log.warning("%s did not %s (%s); attempt %d follows in %.1f s", exchange.id, action, reason, attempt + 1, wait)
            time.sleep(wait)
        except ccxt.BaseError as error:
            raise DataError(f"{exchange.id} refused to {action}: {_one_line(error)}") from error
    raise AssertionError("the last attempt returns or raises")


def _wait_seconds(exchange: Any, retry: RetryConfig, attempt: int) -> float:
    """Return the doubled wait with jitter, or what the exchange asked for by `Retry-After` if that is longer."""
    backoff = retry.backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
    asked = str((exchange.last_response_headers or {}).get("Retry-After", ""))
    return min(max(backoff, float(asked) if asked.isdigit() else 0.0), LONGEST_WAIT_SECONDS)


def _ccxt() -> ModuleType:
    try:
        import ccxt
    except ImportError as error:
        raise ConfigError("downloading needs ccxt: pip install 'cryptoml[exchange]'") from error
    return ccxt


def _nearest(name: str, known: Any) -> str:
    by_lower = {str(entry).lower(): str(entry) for entry in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(by_lower[entry] for entry in close)})" if close else ""


def _frame(rows: list[list[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([row[: len(COLUMNS)] for row in rows], columns=list(COLUMNS))
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="ms", utc=True).dt.as_unit("us")
    return frame.astype(dict.fromkeys(COLUMNS[1:], "float64"))


def _one_line(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    reason = " ".join(str(error).split())
    refused = isinstance(cause, OSError) and "refused" in str(cause).lower()
    return f"{reason} (connection refused)" if refused else reason[:300]


def _milliseconds(span: pd.Timedelta) -> int:
    return span // pd.Timedelta(milliseconds=1)


def _to_milliseconds(stamp: pd.Timestamp) -> int:
    return _milliseconds(stamp - pd.Timestamp(0, tz="UTC"))


def _from_milliseconds(stamp: int) -> pd.Timestamp:
    return pd.Timestamp(stamp, unit="ms", tz="UTC")
