"""Bring market data into a lake, from an exchange or from files.

python -m jobs.ingest_data --lake LAKE --exchange binance --symbols BTC/USDT ETH/USDT --timeframe 1h --since 2021-01-01
python -m jobs.ingest_data --lake LAKE --files FOLDER BTCUSDT-1h.csv
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from cryptoml.data.batches import FileKind, FilesConfig
from cryptoml.data.exchange import open_exchange
from cryptoml.data.ingest import IngestReport, ingest_exchange, ingest_files
from cryptoml.data.lake import Lake
from cryptoml.data.storage import open_storage
from cryptoml.errors import ConfigError
from jobs.command_line import begin_result, run, say, write_result

__all__ = ["IngestConfig", "main"]


@dataclass(frozen=True)
class IngestConfig:
    """Bring market data into a lake, from an exchange or from files; running it again adds only what is missing.

    Writes LAKE/result.json: rows added, replaced and refused, and the health of every symbol.

    Exit code: 0 all went well, 1 some sources failed, 2 nothing could be done.
    """

    lake: str = "lake"
    """Folder or s3://bucket/prefix?endpoint_override=... of the lake."""
    exchange: str | None = None
    """Exchange to download candles from, by ccxt's name (binance, kraken, ...); needs cryptoml[exchange]."""
    symbols: tuple[str, ...] = ()
    """Markets to download: BTC/USDT spot, BTC/USDT:USDT perpetual."""
    since: str = "2021-01-01"
    """First bar to download, UTC."""
    until: str | None = None
    """End of the download, UTC; the exchange's time now if not given."""
    exchange_options: Path | None = None
    """JSON file with settings for the ccxt client (urls, options, timeout, ...)."""
    files: tuple[Path, ...] = ()
    """Files and folders to ingest: CSV, Parquet, Feather, freqtrade's feather and json.gz, Binance zips."""
    kind: FileKind = "candles"
    """Table that the data goes to."""
    timeframe: str | None = None
    """Length of a bar such as 1h; needed for a download, and for files that do not say."""
    symbol: str | None = None
    """Market of the files where they do not say."""
    asset: str | None = None
    """Base asset of on-chain files where they do not say."""
    venue: str | None = None
    """Name of the other venue, for venue_candles; the exchange's name if not given."""
    assume_timezone: str | None = None
    """Zone of timestamps in files that carry none, such as UTC."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let rows of files replace differing ones in the lake."""


def main(config: IngestConfig) -> int:
    """Run the ingest, print its report to stdout, and return the exit code."""
    report = _ingest(config)
    say(report.to_text())
    write_result(config.lake, "ingest_data", report.exit_code, **report.to_dict())
    return report.exit_code


def _ingest(config: IngestConfig) -> IngestReport:
    open_storage(config.lake).require_bucket()
    begin_result(config.lake, "ingest_data")
    if (config.exchange is None) == (not config.files):
        raise ConfigError("give either --exchange with --symbols and --timeframe, or --files")
    if config.exchange is None:
        return ingest_files(Lake(config.lake), config.files, _files_config(config), overwrite=config.overwrite)
    if config.kind not in ("candles", "venue_candles"):
        raise ConfigError(f"--exchange downloads --kind candles or venue_candles, was {config.kind}")
    if not config.symbols or config.timeframe is None:
        raise ConfigError("--exchange needs --symbols, such as BTC/USDT, and --timeframe, such as 1h")
    exchange = open_exchange(config.exchange, _read_options(config.exchange_options))
    since = _instant("since", config.since)
    until = _instant("until", config.until) if config.until else None
    venue = config.venue or config.exchange if config.kind == "venue_candles" else None
    return ingest_exchange(Lake(config.lake), exchange, config.symbols, config.timeframe, since, until=until, venue=venue)


def _files_config(config: IngestConfig) -> FilesConfig:
    if (config.venue is None) == (config.kind == "venue_candles"):
        raise ConfigError("--kind venue_candles and --venue, such as kraken, go together for files")
    if config.asset is not None and config.kind != "onchain":
        raise ConfigError(f"--asset goes with --kind onchain, was {config.kind}; give --symbol")
    return FilesConfig(
        kind=config.kind,
        symbol=config.asset or config.symbol,
        timeframe=config.timeframe,
        venue=config.venue,
        assume_timezone=config.assume_timezone,
    )


def _read_options(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        options = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"exchange-options {path} cannot be read as JSON: {error}") from error
    if not isinstance(options, dict):
        raise ConfigError(f"exchange-options {path} must hold a JSON object, was {type(options).__name__}")
    return options


def _instant(name: str, text: str) -> pd.Timestamp:
    try:
        stamp = pd.Timestamp(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be a time such as 2021-01-01, was {text!r}") from error
    return stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")


if __name__ == "__main__":
    sys.exit(run(main, IngestConfig))
