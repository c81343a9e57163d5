"""Parts of plain plotly figures (`{"data": [...], "layout": {...}}`), made without plotly itself.

Colours of marks are readable on light and dark; the page's script sets the colours of text, grid and background. A figure
with several views is `{"views": [{"label", "data", "layout"}, ...]}`: the page lets the reader choose.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "ACCENT",
    "AMBER",
    "NEUTRAL",
    "Chart",
    "axis",
    "colour_of",
    "line",
    "nullable",
    "plot",
    "shown_name",
    "stamp_texts",
    "thinned",
    "whiskers",
]

Chart = dict[str, Any]

ACCENT, AMBER, NEUTRAL = "#4374f5", "#e8930c", "#8b96a8"
PALETTE = (
    "#12a07c",
    "#e8930c",
    "#9b6fe0",
    "#d9568c",
    "#1b9fc4",
    "#7d8f2e",
    "#c2643a",
    "#5566c9",
    "#3f9a52",
    "#a8568f",
    "#6f7f95",
)
_COLOURS = {
    "lightgbm": AMBER,
    "logistic": "#12a07c",
    "ridge": "#1b9fc4",
    "momentum": "#9b6fe0",
    "last_value": "#d9568c",
    "buy_and_hold": NEUTRAL,
    "har": "#b5763a",
    "shuffled_labels": "#e05252",
}
_NAMES = {"lightgbm": "LightGBM", "har": "HAR", "shuffled_labels": "shuffled labels"}
_MAX_POINTS = 700


def colour_of(name: str) -> str:
    """Return the same colour for the same candidate in every chart."""
    if name in _COLOURS or not name.startswith(("member_", "seed_")):
        return _COLOURS.get(name, ACCENT)
    return PALETTE[sum(name.encode()) % len(PALETTE)]


def shown_name(name: str) -> str:
    """Return a candidate's name for readers."""
    return _NAMES.get(name, name.replace("_", " "))


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Chart:
    """Return a line; `style` goes into plotly's `line`, but for `fill`, `visible`, `mode` and `hover`."""
    trace: Chart = {"type": "scatter", "mode": style.pop("mode", "lines"), "name": shown_name(name), "x": list(x), "y": list(y)}
    if "fill" in style:
        trace |= {"fill": style.pop("fill"), "fillcolor": f"{colour}{style.pop('opacity', '22')}"}
    if style.pop("visible", True) is False:
        trace["visible"] = "legendonly"
    if "hover" in style:
        trace["hovertemplate"] = style.pop("hover")
    return {**trace, "line": {"color": colour, "width": 1.5, **style}}


def whiskers(name: str, positions: Sequence[Any], figures: Sequence[dict[str, Any]], colour: str, *, sideways: bool) -> Chart:
    """Return points with their intervals: upright over categories, or sideways beside them."""
    values = np.array([figure["value"] for figure in figures], dtype=float)
    ends = {
        "type": "data",
        "symmetric": False,
        "array": nullable(np.array([figure["high"] for figure in figures], dtype=float) - values),
        "arrayminus": nullable(values - np.array([figure["low"] for figure in figures], dtype=float)),
        "thickness": 1.6,
        "width": 0,
    }
    along, across = ("x", "y") if sideways else ("y", "x")
    marker = {"color": colour, "size": 9}
    points = {"type": "scatter", "mode": "markers", "name": name, along: nullable(values), across: list(positions)}
    return {**points, f"error_{along}": ends, "marker": marker}


def plot(data: list[Chart], xaxis: Chart, yaxis: Chart, *, legend: bool = True, height: int = 360, **layout: Any) -> Chart:
    """Return a figure."""
    return {"data": data, "layout": {"xaxis": xaxis, "yaxis": yaxis, "showlegend": legend, "height": height, **layout}}


def axis(title: str, tickformat: str | None = None, **more: Any) -> Chart:
    """Return an axis."""
    return {"title": {"text": title}, **({"tickformat": tickformat} if tickformat else {}), **more}


def thinned(num_points: int) -> np.ndarray:
    """Return at most 700 indices, first and last among them."""
    return np.unique(np.linspace(0, num_points - 1, _MAX_POINTS).round().astype(int))


def stamp_texts(stamps: pd.DatetimeIndex) -> list[str]:
    """Return instants as plotly reads them."""
    return [stamp.strftime("%Y-%m-%d %H:%M") for stamp in stamps]


def nullable(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Return rounded floats; NaN and infinities become None, which plotly draws as a gap."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=np.float64)]
