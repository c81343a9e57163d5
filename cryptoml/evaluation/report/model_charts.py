"""Charts of the model and of how it came about. A chart that has nothing to show is None."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cryptoml.evaluation.report.chart_parts import ACCENT, AMBER, NEUTRAL, PALETTE, Chart, axis, line, nullable, plot
from cryptoml.features.contract import CATEGORIES, category_of

__all__ = ["asset_graph", "attention_lines", "category_bars", "history_lines", "importance_bars", "trial_points"]

_TOTALS = {"train_loss": "dot", "val_loss": "solid", "validation_loss": "solid"}


def importance_bars(weights: Mapping[str, float], limit: int = 30) -> Chart | None:
    """The largest weights as horizontal bars in the colour of their category, largest on top."""
    largest = sorted(weights.items(), key=lambda item: -item[1])[:limit]
    return _bars(largest, [_category_colour(category_of(name)) for name, _ in largest], 21) if largest else None


def category_bars(weights: Mapping[str, float]) -> Chart | None:
    """Summed weights per category."""
    largest = sorted(weights.items(), key=lambda item: -item[1])
    return _bars(largest, [_category_colour(name) for name, _ in largest], 30) if largest else None


def attention_lines(attention: Mapping[str, np.ndarray]) -> Chart | None:
    """Mean attention of the newest bar by bars ago; now is on the right."""
    lines = []
    for index, (member, weights) in enumerate(attention.items()):
        colour = (ACCENT, *PALETTE)[index % (1 + len(PALETTE))]
        ago = list(range(len(weights)))
        fill = {"fill": "tozeroy"} if len(attention) == 1 else {}
        hover = "%{x} bars ago<br>%{y:.2%}"
        lines.append(line(member, ago, nullable(weights), colour, width=2, hover=hover, **fill))
    if not lines:
        return None
    return plot(lines, axis("Bars ago", autorange="reversed"), axis("Weight", ".1%", rangemode="tozero"), legend=len(lines) > 1)


def asset_graph(graph: np.ndarray | None, symbols: Sequence[str]) -> Chart | None:
    """Who listens to whom, as a heat map; the diagonal is each asset's own past."""
    if graph is None or len(symbols) < 2:
        return None
    apart = np.where(np.eye(len(symbols), dtype=bool), np.nan, np.asarray(graph, dtype=np.float64))
    heat = {
        "type": "heatmap",
        "x": list(symbols),
        "y": list(symbols),
        "z": [nullable(row) for row in np.asarray(graph)],
        "zmin": 0,
        "zmax": float(np.nanmax(apart)) if np.isfinite(apart).any() else 1.0,
        "colorscale": [[0, "rgba(67,116,245,0.04)"], [0.5, "rgba(67,116,245,0.55)"], [1, "#2348b8"]],
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y} listens to %{x}: %{z:.1%}<extra></extra>",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": ".0%"},
    }
    size: Chart = {"tickfont": {"size": 11 if len(symbols) <= 20 else 8}, "type": "category", "showgrid": False, "ticks": ""}
    columns = axis("listened to", **size, tickangle=-45)
    return plot([heat], columns, axis("", **size, autorange="reversed"), legend=False, height=180 + 24 * min(len(symbols), 30))


def history_lines(history: Mapping[str, Mapping[str, Sequence[float]]]) -> Chart | None:
    """Training (dotted) and validation loss per epoch of every member."""
    lines = []
    for index, (member, series) in enumerate(history.items()):
        for name, values in series.items():
            if name in _TOTALS and len(values):
                label = f"{member}, {'training' if name == 'train_loss' else 'validation'}"
                colour = (ACCENT, *PALETTE)[index % (1 + len(PALETTE))]
                lines.append(line(label, range(1, len(values) + 1), nullable(values), colour, dash=_TOTALS[name], width=1.8))
    return plot(lines, axis("Epoch", **_whole_steps(lines)), axis("Loss"), height=320) if lines else None


def trial_points(trials: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Loss of every finished trial in order, and the best so far."""
    done = [trial for trial in trials if trial.get("loss") is not None and np.isfinite(trial["loss"])]
    if not done:
        return None
    numbers, losses = [trial["number"] for trial in done], np.array([trial["loss"] for trial in done], dtype=float)
    points = line(
        "trial", numbers, nullable(losses), ACCENT, mode="markers", hover="trial %{x}: %{y:.5g}<br>%{text}<extra></extra>"
    )
    points["text"] = ["<br>".join(f"{key} {_short(value)}" for key, value in trial["parameters"].items()) for trial in done]
    points["marker"] = {
        "size": 9,
        "color": [ACCENT if trial["state"] == "COMPLETE" else NEUTRAL for trial in done],
    }
    best = line("best so far", numbers, nullable(np.minimum.accumulate(losses)), AMBER, shape="hv", width=2)
    return plot([best, points], axis("Trial", **_whole_steps([points])), axis("Validation loss"), height=300)


def _whole_steps(lines: Sequence[Chart]) -> Chart:
    """Return tick settings for an axis that counts."""
    return {"tickmode": "linear", "tick0": 0, "dtick": max(1, round(max(max(line["x"], default=0) for line in lines) / 10))}


def _bars(rows: Sequence[tuple[str, float]], colours: Sequence[str], step: int) -> Chart:
    names, values = zip(*rows[::-1], strict=True)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": nullable(values),
        "y": [name.replace("_", " ") for name in names],
        "marker": {"color": list(colours)[::-1], "cornerradius": 3},
        "hovertemplate": "%{y}: %{x:.2%}<extra></extra>",
    }
    names_axis = {"automargin": True, "tickfont": {"size": 11}, "type": "category", "showgrid": False}
    return plot([bars], axis("Weight", ".0%"), names_axis, legend=False, height=90 + step * len(names))


def _category_colour(category: str) -> str:
    colours = (ACCENT, *PALETTE)
    return colours[CATEGORIES.index(category) % len(colours)] if category in CATEGORIES else NEUTRAL


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
