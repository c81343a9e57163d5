"""What the name of a data file says: market, timeframe and kind of content."""

import re
from dataclasses import dataclass
from pathlib import PurePath

from cryptoml.data.schema import normalise_symbol
from cryptoml.errors import ConfigError, DataError

__all__ = ["SUFFIXES", "FileName", "has_readable_suffix", "parse_file_name"]

SUFFIXES = (".csv.gz", ".json.gz", ".csv", ".json", ".zip", ".parquet", ".feather")

_VENUES = frozenset(
    {"binance", "binanceus", "bitfinex", "bitstamp", "bybit", "coinbase", "gateio", "huobi", "kraken", "kucoin", "okx"}
)
_NO_SYMBOL = frozenset(
    {"aggtrades", "book", "coinm", "depth", "depth20", "fundingrate", "futures", "orderbook", "spot", "trades", "usdm"}
)
_NOT_CANDLES = frozenset({"aggtrades", "funding_rate", "fundingrate", "index", "mark", "premiumindex", "trades"})
_TIMEFRAME = re.compile(r"(?:^|[-_])(?P<timeframe>[1-9]\d*(?:mo|[smhdwM]))(?=[-_.]|$)")
_DATES = re.compile(r"[-_]\d{4}-\d{2}(?:-\d{2})?$")


@dataclass(frozen=True)
class FileName:
    """Parts of a file's name.

    Attributes:
        symbol: Market in the lake's spelling, None where the name has none.
        timeframe: Length of a bar, None where the name has none.
        kind: Lower-case text behind symbol and timeframe, such as `futures`, `mark`, `funding_rate`; empty for plain candles.
    """

    symbol: str | None
    timeframe: str | None
    kind: str = ""

    @property
    def holds_candles(self) -> bool:
        """Whether the file can hold candles of a traded market: mark and index prices, funding and trades are none."""
        return self.kind not in _NOT_CANDLES


def has_readable_suffix(path: PurePath) -> bool:
    """Return whether a source reads files with this ending; hidden files are left alone."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith((".", "_"))


def parse_file_name(path: PurePath) -> FileName:
    """Return what `symbol=...` and `timeframe=...` folders and the file's own name say.

    Known forms: `BTC_USDT-1h.feather`, `futures/XRP_USDT_USDT-1h-futures.json.gz`, `BTCUSDT-1h-2021-01.zip`,
    `Binance_BTCUSDT_1h.csv`, `BTCUSDT.parquet`, `symbol=BTCUSDT/timeframe=1h/part-0.parquet`.

    Raises:
        DataError: The timeframe is in months, which have no fixed length.
    """
    folders = dict(part.split("=", 1) for part in path.parts[:-1] if "=" in part)
    stem = _DATES.sub("", _stem(path))
    match = _TIMEFRAME.search(stem)
    timeframe = folders.get("timeframe") or (match["timeframe"] if match else None)
    if timeframe and timeframe.endswith(("M", "mo")):
        raise DataError(f"{path}: timeframe must be at most weeks long, was {timeframe}: months have no fixed length")
    head = stem[: match.start()] if match else stem
    kind = stem[match.end() :].strip("-_").lower() if match else _kind_behind(stem)
    return FileName(_symbol(folders.get("symbol", head)), timeframe, kind)


def _stem(path: PurePath) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _kind_behind(stem: str) -> str:
    """Return the kind in a name without timeframe: `BTCUSDT-fundingRate`, `btcusdt_usdm_trades`."""
    last = re.split(r"[-_]", stem)[-1].lower()
    return last if last in _NOT_CANDLES else ""


def _symbol(text: str) -> str | None:
    words = [word for word in re.split(r"[-_/:]", text) if word and word.lower() not in _NO_SYMBOL]
    if len(words) > 1 and words[0].lower() in _VENUES:
        words = words[1:]
    try:
        return normalise_symbol("-".join(words)) if words else None
    except ConfigError:
        return None
