"""Candles put to the test: what breaks a rule goes to quarantine, the rest is sorted, unique and on the grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.schema import CANDLES, parse_timeframe
from cryptoml.data.validation.health import SymbolHealth
from cryptoml.data.validation.quarantine import Fault, empty_quarantine, first_faults, quarantine_rows, to_numbers
from cryptoml.data.validation.timestamps import UTC_STAMP, timeframe_of, to_utc
from cryptoml.errors import DataError

__all__ = ["CandleCheck", "check_candles", "merge_checks"]

_PRICES = ("open", "high", "low", "close")
_VALUES = tuple(name for name in CANDLES.schema.names if name != "timestamp")
_REQUIRED = tuple(name for name in _VALUES if name not in CANDLES.nullable)
_AMOUNTS = tuple(name for name in _VALUES if name not in _PRICES)
_MONDAY = 4 * 86_400_000_000  # 1970-01-05, where weekly bars open; every other timeframe counts from 1970-01-01
_WEEK = 7 * 86_400_000_000


@dataclass(frozen=True)
class CandleCheck:
    """Candles of one symbol after the check.

    Attributes:
        good: Rows in the columns of `CANDLES`, sorted by timestamp, unique; absent optional values are null.
        quarantine: Rows put aside, in the columns of `QUARANTINE_COLUMNS`.
        health: Counts.
        origin: `source` and `row` of each row of `good`, so that checks can be merged.
    """

    good: pd.DataFrame
    quarantine: pd.DataFrame
    health: SymbolHealth
    origin: pd.DataFrame


def check_candles(frame: pd.DataFrame, *, symbol: str, timeframe: str, source: str, first_row: int = 0) -> CandleCheck:
    """Sort the rows of one symbol into good ones and quarantined ones.

    Each input row is kept, dropped as an identical copy of an earlier one, or quarantined with the first rule it breaks.
    Of rows with one timestamp and different values the first stands. Gaps and unordered rows are only counted. Rows
    after the present that a gap parts from those before it are an error of the feed; a series that runs past the present bar
    by bar is a simulation and may.

    Args:
        frame: `timestamp` (epochs, aware datetimes or ISO text), `open, high, low, close, volume`, and any of `quote_volume`,
            `num_trades`, `taker_buy_volume`, where NaN is allowed; numbers may be text. A column `row` gives row numbers.
        symbol: Market of the rows.
        timeframe: Length of a bar, such as "1h"; bars open on its grid (weeks on Monday).
        source: File or frame of the rows, for messages.
        first_row: Number of the first row in the source, where `frame` has no column `row`.

    Raises:
        DataError: A required column is missing, timestamps are timezone-naive, or a run of bars has another spacing.
    """
    missing = [name for name in ("timestamp", *_REQUIRED) if name not in frame]
    if missing:
        raise DataError(f"{source}: column {missing[0]!r} is missing; columns are {', '.join(map(str, frame.columns))}")
    step = parse_timeframe(timeframe) // pd.Timedelta(1, unit="us")
    rows = frame["row"].to_numpy(np.int64) if "row" in frame else first_row + np.arange(len(frame))
    stamps = to_utc(frame["timestamp"], source=source)
    micros = stamps.fillna(pd.Timestamp(0, tz="UTC")).astype("int64").to_numpy()
    readable = stamps.notna().to_numpy()
    _refuse_mixed(micros[readable], rows[readable], step, f"{source}: {symbol}")
    numbers, faults = _value_faults(frame, readable)
    faults.insert(0, Fault("future_leap", "timestamp", _leaps(micros, readable, step)))
    origin = _MONDAY if step % _WEEK == 0 else 0
    faults.append(Fault("misaligned", "timestamp", readable & ((micros - origin) % step != 0)))
    sound = first_faults(faults, len(frame)) < 0
    copies, conflicts = _repeated(micros, numbers, sound)
    faults.append(Fault("duplicate", "timestamp", conflicts))
    kept = np.flatnonzero(sound & ~copies & ~conflicts)
    kept = kept[np.argsort(micros[kept], kind="stable")]
    quarantine = quarantine_rows(frame, faults, rows=rows, stamps=stamps, symbol=symbol, source=source)
    return CandleCheck(
        good=_candle_frame(micros[kept], {name: values[kept] for name, values in numbers.items()}),
        quarantine=quarantine,
        health=SymbolHealth(
            symbol=symbol,
            timeframe=timeframe,
            rows_read=len(frame),
            rows_good=len(kept),
            duplicates=int(copies.sum()),
            unordered=_count_unordered(micros[readable]),
            sources=(source,),
            **_span_counts(micros[kept], step),
            quarantined=_reason_counts(quarantine),
        ),
        origin=pd.DataFrame({"source": pd.Series(source, index=range(len(kept)), dtype="str"), "row": rows[kept]}),
    )


def merge_checks(checks: Sequence[CandleCheck]) -> CandleCheck:
    """Join checks of one symbol from several batches or files, earlier ones first.

    Identical candles are kept once; where two differ at one timestamp the earlier check's stands and the other is quarantined,
    as are bars after the present that a gap of all batches together parts from those before it.

    Raises:
        DataError: The checks are of different symbols or timeframes, or there is none.
    """
    if not checks:
        raise DataError("candles of a symbol must come from at least one batch, there was none")
    if len(checks) == 1:
        return checks[0]
    _refuse_unlike(checks)
    first = checks[0].health
    step = parse_timeframe(first.timeframe) // pd.Timedelta(1, unit="us")
    good = pd.concat([check.good for check in checks], ignore_index=True)
    origin = pd.concat([check.origin for check in checks], ignore_index=True)
    micros = good["timestamp"].astype("int64").to_numpy()
    numbers = {name: good[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in _VALUES}
    copies, conflicts = _repeated(micros, numbers, np.ones(len(good), dtype=bool))
    leaps = _leaps(micros, ~copies & ~conflicts, step)
    kept = np.flatnonzero(~copies & ~conflicts & ~leaps)
    kept = kept[np.argsort(micros[kept], kind="stable")]
    put_aside = [
        _stamp_faults(good, origin, rows, first.symbol, reason)
        for rows, reason in ((conflicts, "duplicate"), (leaps, "future_leap"))
    ]
    quarantine = pd.concat([*(check.quarantine for check in checks), *put_aside])
    sources = tuple(dict.fromkeys(source for check in checks for source in check.health.sources))
    health = replace(
        first,
        rows_read=sum(check.health.rows_read for check in checks),
        rows_good=len(kept),
        duplicates=sum(check.health.duplicates for check in checks) + int(copies.sum()),
        unordered=sum(check.health.unordered for check in checks),
        sources=sources,
        **_span_counts(micros[kept], step),
        quarantined=_reason_counts(quarantine),
    )
    good, origin = good.iloc[kept].reset_index(drop=True), origin.iloc[kept].reset_index(drop=True)
    return CandleCheck(good, quarantine.reset_index(drop=True), health, origin)


def _value_faults(frame: pd.DataFrame, readable: np.ndarray) -> tuple[dict[str, np.ndarray], list[Fault]]:
    """Return the values as float64 [row] per column, and the faults that one row shows by itself."""
    numbers: dict[str, np.ndarray] = {}
    text, infinite = [], []
    for name in _VALUES:
        if name not in frame:
            numbers[name] = np.full(len(frame), np.nan)
            continue
        numbers[name], is_text = to_numbers(frame[name])
        text.append(Fault("not_a_number", name, is_text))
        unusable = ~np.isfinite(numbers[name]) if name in _REQUIRED else np.isinf(numbers[name])
        infinite.append(Fault("not_finite", name, unusable))
    present = [name for name in _AMOUNTS if name in frame]
    count = numbers["num_trades"]
    with np.errstate(invalid="ignore"):
        fraction = [Fault("not_whole", "num_trades", count != np.floor(count))] if "num_trades" in frame else []
        fraction = [fault._replace(broken=fault.broken & ~np.isnan(count)) for fault in fraction]
        signs = [Fault("non_positive_price", name, numbers[name] <= 0) for name in _PRICES]
        signs += [Fault("negative_volume", name, numbers[name] < 0) for name in present]
    unread = Fault("unreadable_timestamp", "timestamp", ~readable)
    return numbers, [unread, *text, *infinite, *fraction, *signs, *_range_faults(numbers)]


def _range_faults(numbers: dict[str, np.ndarray]) -> list[Fault]:
    high, low = numbers["high"], numbers["low"]
    outside = [Fault(f"{name}_outside_range", name, (numbers[name] < low) | (numbers[name] > high)) for name in ("open", "close")]
    return [Fault("high_below_low", "high", high < low), *outside]


def _repeated(micros: np.ndarray, numbers: dict[str, np.ndarray], sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bool [row] twice: identical copies of an earlier sound row, and rows that contradict one."""
    order = np.flatnonzero(sound)
    order = order[np.argsort(micros[order], kind="stable")]
    starts = np.append(True, np.diff(micros[order]) != 0)[: len(order)]
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))] if len(order) else order
    same = np.ones(len(order), dtype=bool)
    for values in numbers.values():
        left, right = values[order], values[first]
        same &= (left == right) | (np.isnan(left) & np.isnan(right))
    copies, conflicts = np.zeros(len(micros), dtype=bool), np.zeros(len(micros), dtype=bool)
    copies[order[~starts & same]] = True
    conflicts[order[~starts & ~same]] = True
    return copies, conflicts


def _leaps(micros: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
    """Return bool [row]: those of `rows` after the present, where a gap parts them from those before it."""
    stamps = np.unique(micros[rows])
    ahead = int(np.searchsorted(stamps, pd.Timestamp.now(tz="UTC").value // 1_000, side="right"))
    leaping = 0 < ahead < len(stamps) and stamps[ahead] - stamps[ahead - 1] > step
    return rows & (micros >= stamps[ahead]) if leaping else np.zeros_like(rows)


def _refuse_mixed(micros: np.ndarray, rows: np.ndarray, step: int, label: str) -> None:
    """Refuse a run of equal spacings that are not the timeframe's.

    Missing bars make other spacings too, but not in runs: if bars are absent independently of each other, one spacing beyond
    the timeframe's has a share of at most 1/4, so a run as long as here comes up in one series of a thousand.
    """
    stamps, position = np.unique(micros, return_index=True)
    spacings = np.diff(stamps)
    if not len(spacings):
        return
    starts = np.flatnonzero(np.append(True, np.diff(spacings) != 0))
    lengths = np.diff(np.append(starts, len(spacings)))
    shortest = ceil(log(1_000 * len(stamps)) / log(4))
    runs = np.flatnonzero((spacings[starts] != step) & (lengths >= shortest))
    if len(runs):
        start, length = starts[runs[0]], lengths[runs[0]]
        wrong, right = (timeframe_of(gap / 1e6) for gap in (spacings[start], step))
        raise DataError(
            f"{label} mixes timeframes: bars must be {right} apart, but {length + 1} bars from row {rows[position[start]]} on "
            f"are {wrong} apart; keep one timeframe per symbol"
        )


def _refuse_unlike(checks: Sequence[CandleCheck]) -> None:
    first = checks[0].health
    for check in checks[1:]:
        other = check.health
        if other.timeframe != first.timeframe:
            raise DataError(
                f"{other.sources[0]}: {other.symbol} mixes timeframes: {other.timeframe} here, {first.timeframe} in "
                f"{first.sources[0]}; keep one timeframe per symbol"
            )
        if other.symbol != first.symbol:
            raise DataError(f"{other.sources[0]}: symbol must be {first.symbol} to be merged with it, was {other.symbol}")


def _count_unordered(micros: np.ndarray) -> int:
    return int((micros[1:] < np.maximum.accumulate(micros)[:-1]).sum()) if len(micros) else 0


def _span_counts(micros: np.ndarray, step: int) -> dict[str, Any]:
    """Return gap counts and the first and last instant of sorted, unique, aligned stamps."""
    missing = np.diff(micros) // step - 1
    ends = [pd.Timestamp(int(micros[i]), unit="us", tz="UTC") if len(micros) else None for i in (0, -1)]
    return {
        "gaps": int((missing > 0).sum()),
        "missing_bars": int(missing.sum()),
        "largest_gap_bars": int(missing.max(initial=0)),
        "first": ends[0],
        "last": ends[1],
    }


def _reason_counts(quarantine: pd.DataFrame) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in quarantine["reason"].value_counts().sort_index().items()}


def _candle_frame(micros: np.ndarray, numbers: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame({"timestamp": pd.Series(micros.view("datetime64[us]")).dt.tz_localize("UTC"), **numbers})
    return frame.astype({"timestamp": UTC_STAMP, "num_trades": "Int64"})


def _stamp_faults(good: pd.DataFrame, origin: pd.DataFrame, rows: np.ndarray, symbol: str, reason: str) -> pd.DataFrame:
    hit = np.flatnonzero(rows)
    if not len(hit):
        return empty_quarantine()
    stamps = good["timestamp"].iloc[hit].reset_index(drop=True)
    columns: dict[str, Any] = {
        "symbol": symbol,
        "timestamp": stamps,
        "column": "timestamp",
        "value": stamps.astype("str"),
        "reason": reason,
    }
    return origin.iloc[hit].reset_index(drop=True).assign(**columns).astype(empty_quarantine().dtypes.to_dict())
