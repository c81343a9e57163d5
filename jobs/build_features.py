"""Features of a lake, as partitioned Parquet files, on Ray.

python -m jobs.build_features --lake LAKE --out FEATURES --timeframe 1h --symbols BTC/USDT ETH/USDT

Runs on a private Ray cluster on this machine, or on the one that RAY_ADDRESS names.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import tyro

from cryptoml.data.storage import open_storage
from cryptoml.errors import ConfigError
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.store import FeatureLakeReport, build_feature_lake, category_table, describe_features
from jobs.command_line import begin_result, run, say, write_result

__all__ = ["FeaturesArguments", "main"]


@dataclass(frozen=True)
class FeaturesArguments:
    """Compute the features of a lake's candles and tables; running it again computes only what is missing or has changed.

    Writes OUT/features/timeframe=1h/symbol=BTCUSDT/*.parquet, OUT/cross_section/timeframe=1h/*.parquet,
    OUT/features/timeframe=1h/_status.csv with one row per file, and OUT/result.json. A file that cannot be built is named,
    and the others go on.

    Exit code: 0 all is up to date, 1 some files failed, 2 nothing could be done, 130 interrupted.
    """

    lake: str
    """Lake of candles: a folder or s3://bucket/prefix?endpoint_override=..."""
    out: str
    """Where the features go: a folder or s3:// address that every node of the cluster reaches."""
    timeframe: str = "1h"
    """Length of a bar."""
    symbols: tuple[str, ...] = ()
    """Markets, such as BTC/USDT ETH/USDT; the cross-section is taken over these. All by default."""
    include: tuple[str, ...] = ()
    """Features by name, with * for any text, such as 'momentum_rsi_*'; all by default."""
    categories: tuple[str, ...] = ()
    """Categories of features, such as price volume cross_section; all by default."""
    chunk_bars: int | None = None
    """Bars of one symbol per task and file; 50,000 by default, or twice the longest lookback where that is more."""
    retries: int = 1
    """How often a failed file is tried again."""
    engine: Literal["ray", "local"] = "ray"
    """ray: side by side on Ray; local: one after the other in this process."""
    describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Then read all features and print their number and the share of missing values, by category and one by one."""


def main(arguments: FeaturesArguments) -> int:
    """Run the job, print one status row per file, and return the exit code."""
    for name, least in (("chunk_bars", 1), ("retries", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, was {value}")
    engineer = _engineer(arguments)
    open_storage(arguments.out).require_bucket()
    begin_result(arguments.out, "build_features")
    report = _build(arguments, engineer)
    say(report.to_text())
    _record(arguments.out, report)
    if arguments.describe:
        sys.stdout.write(_description(arguments.out, engineer))
    return 1 if report.failed else 0


def _record(out: str, report: FeatureLakeReport) -> None:
    """Write OUT/result.json."""
    files = Counter(status.outcome for status in report.statuses)
    failed = [{"symbol": status.symbol, "path": status.path, "error": status.error} for status in report.failed]
    rows = sum(status.rows for status in report.statuses)
    write_result(out, "build_features", int(bool(failed)), complete=not failed, files=dict(files), rows=rows, failed=failed)


def _description(out: str, engineer: AdvancedFeatureEngineer) -> str:
    features = describe_features(out, engineer)
    longest = f"{len(features)} features; the longest lookback is {engineer.max_lookback} bars of {engineer.config.timeframe}"
    tables = [table.to_string(index=False, float_format="%.4f") for table in (category_table(features), features)]
    return f"\n{longest}\n\nShare of missing values by category\n{tables[0]}\n\nand by feature\n{tables[1]}\n"


def _engineer(arguments: FeaturesArguments) -> AdvancedFeatureEngineer:
    return AdvancedFeatureEngineer(
        {
            "timeframe": arguments.timeframe,
            "include": arguments.include or None,
            "categories": arguments.categories or None,
        }
    )


def _build(arguments: FeaturesArguments, engineer: AdvancedFeatureEngineer) -> FeatureLakeReport:
    build = partial(
        build_feature_lake,
        arguments.lake,
        arguments.out,
        engineer,
        symbols=arguments.symbols,
        chunk_bars=arguments.chunk_bars,
        retries=arguments.retries,
    )
    if arguments.engine == "local":
        return build()
    from cryptoml.distributed.cluster import cluster
    from cryptoml.distributed.features import run_on_ray

    with cluster():
        return build(run=run_on_ray)


if __name__ == "__main__":
    sys.exit(run(main, FeaturesArguments))
