"""How healthy ingested candles are: one row per symbol, and the files that could not be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

__all__ = ["FileError", "HealthSummary", "SymbolHealth"]

_COUNTS = ("rows_read", "rows_good", "rows_quarantined", "duplicates", "unordered", "gaps", "missing_bars")


@dataclass(frozen=True)
class FileError:
    """A file that could not be read, and why in one line."""

    source: str
    message: str


@dataclass(frozen=True)
class SymbolHealth:
    """Counts over one symbol's candles; `rows_read = rows_good + duplicates + rows_quarantined`.

    Attributes:
        symbol: Market in the lake's spelling.
        timeframe: Length of a bar.
        rows_read: Rows that were checked.
        rows_good: Rows that may be used.
        duplicates: Identical copies of a row, dropped.
        unordered: Rows that stood behind a later one; they were sorted in.
        gaps: Places where at least one bar is absent.
        missing_bars: Bars absent in all gaps.
        largest_gap_bars: Bars absent in the largest gap.
        quarantined: Rows put aside, per reason.
        first: Open of the first good bar, None without one.
        last: Open of the last good bar, None without one.
        sources: Files or frames that the rows came from.
    """

    symbol: str
    timeframe: str
    rows_read: int
    rows_good: int
    duplicates: int = 0
    unordered: int = 0
    gaps: int = 0
    missing_bars: int = 0
    largest_gap_bars: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    first: pd.Timestamp | None = None
    last: pd.Timestamp | None = None
    sources: tuple[str, ...] = ()

    @property
    def rows_quarantined(self) -> int:
        """Rows put aside for any reason."""
        return sum(self.quarantined.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; instants in ISO 8601."""
        counts = {name: int(getattr(self, name)) for name in (*_COUNTS, "largest_gap_bars")}
        return {
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            **counts,
            "quarantined": dict(self.quarantined),
            "first": self.first.isoformat() if self.first is not None else None,
            "last": self.last.isoformat() if self.last is not None else None,
            "sources": list(self.sources),
        }


@dataclass(frozen=True)
class HealthSummary:
    """Health of one ingest or one loaded folder."""

    symbols: tuple[SymbolHealth, ...] = ()
    file_errors: tuple[FileError, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every file was read and every symbol has at least one good row."""
        return not self.file_errors and bool(self.symbols) and all(health.rows_good for health in self.symbols)

    def totals(self) -> dict[str, int]:
        """Return the counts summed over the symbols."""
        return {name: sum(getattr(health, name) for health in self.symbols) for name in _COUNTS}

    def reasons(self) -> dict[str, int]:
        """Return the quarantined rows per reason, summed over the symbols."""
        totals: dict[str, int] = {}
        for health in self.symbols:
            for reason, count in health.quarantined.items():
                totals[reason] = totals.get(reason, 0) + count
        return dict(sorted(totals.items()))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per symbol."""
        columns = ["symbol", "timeframe", *_COUNTS, "largest_gap_bars", "first", "last"]
        return pd.DataFrame([{name: getattr(health, name) for name in columns} for health in self.symbols], columns=columns)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per symbol for a table, the quarantine's reasons as text."""
        rows = [health.to_dict() for health in self.symbols]
        for row in rows:
            row["quarantined"] = ", ".join(f"{reason} {count}" for reason, count in row["quarantined"].items())
            del row["sources"]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "ok": self.ok,
            "totals": self.totals(),
            "quarantined": self.reasons(),
            "symbols": [health.to_dict() for health in self.symbols],
            "file_errors": [{"source": error.source, "message": error.message} for error in self.file_errors],
        }

    def to_text(self) -> str:
        """Return a compact table: one line per symbol, a total, the quarantine's reasons, and each file that was not read."""
        header = ("symbol", "frame", "rows", "good", "bad", "dupl", "unord", "gaps", "missing", "first", "last")
        lines = [header, *(_cells(health) for health in self.symbols), ("total", "", *map(str, self.totals().values()), "", "")]
        text = _aligned(lines)
        if reasons := self.reasons():
            text.append("quarantined: " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()))
        text += [f"not read: {error.message}" for error in self.file_errors]
        return "\n".join(text)


def _cells(health: SymbolHealth) -> tuple[str, ...]:
    days = [f"{stamp:%Y-%m-%d %H:%M}" if stamp is not None else "-" for stamp in (health.first, health.last)]
    return (health.symbol, health.timeframe, *(str(getattr(health, name)) for name in _COUNTS), *days)


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "<<" + ">" * (len(widths) - 2)
    cells = [[f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)] for line in lines]
    return ["  ".join(line).rstrip() for line in cells]
