"""Numbers as text, and the few building blocks of the page: cards, tables, charts."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from cryptoml.evaluation.report.strict import strict_json

__all__ = [
    "Cell",
    "card",
    "cell",
    "chart",
    "figure",
    "number",
    "pair",
    "pairs_table",
    "ranged",
    "signed",
    "spread",
    "stack",
    "table",
]

Cell = str | tuple[str, str]
"""Text, or text and a CSS class."""


def number(value: float | None, style: str) -> str:
    """Format a number; `n/a` where it cannot be said."""
    return "n/a" if value is None or not np.isfinite(value) else format(value, style)


def ranged(figure: Mapping[str, float], style: str) -> str:
    """Return a figure with its interval: `0.523 (0.515 to 0.531)`; `n/a` alone where it cannot be said."""
    if not np.isfinite(figure["value"]):
        return "n/a"
    return f"{number(figure['value'], style)} ({number(figure['low'], style)} to {number(figure['high'], style)})"


def figure(values: Mapping[str, float], style: str) -> str:
    """Return a figure with its interval in small type, as markup; `n/a` alone where it cannot be said."""
    if not np.isfinite(values["value"]):
        return "n/a"
    low, high = number(values["low"], style), number(values["high"], style)
    return f"{number(values['value'], style)} <small>{low} to {high}</small>"


def spread(values: Mapping[str, float], style: str, scale: float = 1.0) -> str:
    """Return a figure for a cell, its interval below it."""
    value, low, high = (number(values[name] * scale, style) for name in ("value", "low", "high"))
    return f"{value}\n{low} to {high}"


def signed(values: Mapping[str, Any], style: str, scale: float = 1.0) -> Cell:
    """Return a difference with its interval, marked where the interval excludes zero."""
    return spread(values, style, scale), {True: "good", False: "bad", None: "even"}[values["better"]]


def cell(value: Any) -> str:
    """Return any plain value as text."""
    if isinstance(value, Mapping) and "value" in value:
        return f"{cell(value['value'])} ({cell(value['low'])} to {cell(value['high'])})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return number(float(value), ".4g")
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return "" if value is None else str(value)


def card(heading: str, note: str, content: str) -> str:
    """Return a section; nothing where there is no content."""
    if not content:
        return ""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{content}</section>"


def pair(*cards: str) -> str:
    """Put cards side by side where there is room; one alone takes it all."""
    there = [one for one in cards if one]
    return f'<div class="pair">{"".join(there)}</div>' if len(there) > 1 else "".join(there)


def stack(*cards: str) -> str:
    """Put cards below each other as one column of a pair."""
    there = [one for one in cards if one]
    return f'<div class="stack">{"".join(there)}</div>' if len(there) > 1 else "".join(there)


def chart(content: Mapping[str, Any] | None) -> str:
    """Return a placeholder with its figure as data, which the page's script draws."""
    if content is None:
        return ""
    first = content["views"][0] if "views" in content else content
    height = first["layout"]["height"]
    data = strict_json(content).replace("</", "<\\/")
    return f'<div class="chart" style="height:{height}px"><script type="application/json">{data}</script></div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, mark_first: bool = False, limit: int = 0) -> str:
    """Return a table whose first column stays in sight; rows beyond `limit` fold away."""
    lines = [_line(row, mark_first and index == 0) for index, row in enumerate(rows)]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    shown, folded = (lines[:limit], lines[limit:]) if limit else (lines, [])

    def block(part: Sequence[str]) -> str:
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(part)}</tbody></table></div>'

    more = f"<details><summary>{len(folded)} more</summary>{block(folded)}</details>" if folded else ""
    return block(shown) + more if lines else ""


def pairs_table(values: Mapping[str, Any] | Iterable[tuple[str, str]], *, words: bool = False) -> str:
    """Return names and values as a table without a head; nothing where there are none.

    Args:
        values: What to show.
        words: The values are sentences, not numbers.
    """
    rows = values.items() if isinstance(values, Mapping) else values
    lines = [_line((str(name), cell(value)), False) for name, value in rows]
    style = "pairs words" if words else "pairs"
    return f'<table class="{style}"><tbody>{"".join(lines)}</tbody></table>' if lines else ""


def _line(row: Sequence[Cell], first: bool) -> str:
    cells = []
    for content in row:
        text, style = content if isinstance(content, tuple) else (content, "")
        value, _, below = text.partition("\n")
        small = f"<small>{escape(below)}</small>" if below else ""
        cells.append(f"<td{f' class={style}' if style else ''}>{escape(value)}{small}</td>")
    return f"<tr{' class=first' if first else ''}>{''.join(cells)}</tr>"
