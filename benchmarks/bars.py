"""Bars that a benchmark must clear, and the table that says which it did."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "report"]


@dataclass(frozen=True)
class Bar:
    """A figure and where it must lie.

    Attributes:
        name: What was measured.
        value: The figure.
        least: Smallest value that passes.
        most: Largest value that passes.
        note: Spread, unit or comparison.
    """

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure lies inside; one without limits is shown for comparison and always does."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)

    def row(self) -> list[str]:
        """Cells of the table."""
        limits = [f"{sign} {limit:g}" for sign, limit in ((">=", self.least), ("<=", self.most)) if limit is not None]
        verdict = ("met" if self.met else "MISSED") if limits else ""
        return [self.name, f"{self.value:.4g}", " and ".join(limits), verdict, self.note]


def report(title: str, bars: Sequence[Bar]) -> int:
    """Print the table; returns the exit code: 0 where every bar is met, else 1."""
    rows = [["figure", "value", "must be", "", "note"], *(bar.row() for bar in bars)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sys.stdout.write("\n".join([title, *lines, ""]) + "\n")
    return 0 if all(bar.met for bar in bars) else 1
