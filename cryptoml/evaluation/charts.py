"""The report's charts as plain plotly figures (`{"data": [...], "layout": {...}}`), without plotly itself.

Colours of lines are readable on light and dark; the page's script sets the colours of text and grid. A chart that has
nothing to show is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.schema import parse_timeframe
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.performance import drawdowns
from cryptoml.evaluation.protocol import Evaluation

__all__ = [
    "accuracy_by_confidence",
    "bars_of",
    "cost_sweep_lines",
    "drawdown_lines",
    "equity_lines",
    "history_lines",
    "quantile_fan",
    "reliability",
    "symbol_accuracy",
]

Chart = dict[str, Any]

ACCENT = "#4c7dff"
NEUTRAL = "#94a3b8"
_MEMBER_COLOURS = ("#8c6bb1", "#4a9d8f", "#b5763a", "#7a8f3c")
_COLOURS = {
    "lightgbm": "#f59e0b",
    "logistic": "#10b981",
    "ridge": "#06b6d4",
    "momentum": "#a78bfa",
    "last_value": "#f472b6",
    "buy_and_hold": NEUTRAL,
    "shuffled_labels": "#ef4444",
}
_MAX_POINTS = 700


def equity_lines(ensemble: Evaluation, baselines: Mapping[str, Evaluation], stamps: pd.DatetimeIndex) -> Chart:
    """Account value after costs, from 1, on a logarithmic axis."""
    curves = {name: evaluation.backtest.equity for name, evaluation in _all(ensemble, baselines).items()}
    return _time_lines(curves, stamps, {"title": {"text": "Account value"}, "type": "log"})


def drawdown_lines(ensemble: Evaluation, baselines: Mapping[str, Evaluation], stamps: pd.DatetimeIndex) -> Chart:
    """Loss from the highest account value so far."""
    curves = {name: drawdowns(evaluation.backtest.net) for name, evaluation in _all(ensemble, baselines).items()}
    return _time_lines(curves, stamps, {"title": {"text": "Drawdown"}, "tickformat": ".0%"})


def reliability(ensemble: Evaluation) -> Chart | None:
    """Accuracy against confidence; a calibrated forecaster lies on the diagonal."""
    buckets = [bucket for bucket in ensemble.figures["direction"]["by_confidence"] if bucket["count"] >= 20]
    if not buckets:
        return None
    counts = np.array([bucket["count"] for bucket in buckets])
    points: Chart = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "forecasts",
        "x": [bucket["mean_confidence"] for bucket in buckets],
        "y": [bucket["accuracy"] for bucket in buckets],
        "text": [f"{count:,} forecasts" for count in counts],
        "hovertemplate": "confidence %{x:.1%}<br>right %{y:.1%}<br>%{text}<extra></extra>",
        "marker": {"color": ACCENT, "size": (7 + 17 * np.sqrt(counts / counts.max())).tolist()},
        "line": {"color": ACCENT, "width": 1.5},
    }
    reached = [bucket[key] for bucket in buckets for key in ("mean_confidence", "accuracy")]
    ends = [min(reached) - 0.02, max(reached) + 0.02]
    diagonal = _line("calibrated", ends, ends, NEUTRAL, dash="dot")
    return _chart([diagonal, points], _axis("Confidence", ".0%"), _axis("Share right", ".0%"), legend=False)


def accuracy_by_confidence(ensemble: Evaluation) -> Chart | None:
    """Accuracy in ten equally full groups by confidence, against the majority class."""
    direction = ensemble.figures["direction"]
    groups = direction["by_confidence_rank"]
    if not groups:
        return None
    names = [f"{group['low']:.0%} to {group['high']:.0%}" for group in groups]
    ranks = [f"{index + 1}" for index in range(len(groups))]
    bars = {
        "type": "bar",
        "name": "accuracy",
        "x": ranks,
        "y": [group["accuracy"] for group in groups],
        "text": names,
        "textposition": "none",
        "hovertemplate": "confidence %{text}<br>right %{y:.1%}<extra></extra>",
        "marker": {"color": ACCENT},
    }
    majority = _line("majority class", ranks, [direction["majority_share"]] * len(ranks), "#f59e0b", dash="dot", width=2)
    return _chart(
        [bars, majority],
        {**_axis("Tenth by confidence, surest last"), "type": "category"},
        _axis("Share right", ".0%"),
        legend=False,
    )


def cost_sweep_lines(ensemble: Evaluation, baselines: Mapping[str, Evaluation]) -> Chart:
    """Net Sharpe ratio of the same trades at other costs."""
    lines = []
    for name, evaluation in _all(ensemble, baselines).items():
        sweep = evaluation.figures["trading"]["cost_sweep"]
        costs, ratios = ([row[key] for row in sweep] for key in ("side_cost_bps", "sharpe_ratio"))
        lines.append(_line(name, costs, _nullable(ratios), _colour(name), width=_width(name)))
    return _chart(lines, _axis("Cost per side, bps"), _axis("Net Sharpe ratio"))


def quantile_fan(inputs: EvaluationInput, ensemble: Evaluation, num_bars: int = 336) -> Chart | None:
    """Close of the first symbol over the last bars, and the band forecast for each bar one horizon before."""
    forecasts = ensemble.candidate.forecasts
    if forecasts is None or len(forecasts.quantile_levels) < 2:
        return None
    panel, horizon = inputs.test_panel, inputs.horizon_bars
    known = np.isfinite(forecasts.quantiles).any(axis=(1, 2))
    if not known.any():
        return None
    row = int(np.argmax(known))
    bars = slice(max(0, panel.num_bars - num_bars), panel.num_bars)
    close = panel.field("close")[row, bars]
    made = panel.timestamps[bars] + horizon * parse_timeframe(panel.timeframe)
    levels = sorted(range(len(forecasts.quantile_levels)), key=lambda index: forecasts.quantile_levels[index])
    low, high = (close * np.exp(forecasts.quantiles[row, bars, level]) for level in (levels[0], levels[-1]))
    names = [f"{forecasts.quantile_levels[level]:.0%}" for level in (levels[0], levels[-1])]
    lines = [
        _line(f"{names[0]} quantile", _stamps(made), _nullable(low), ACCENT, width=0.6),
        _line(f"{names[1]} quantile", _stamps(made), _nullable(high), ACCENT, width=0.6, fill="tonexty"),
        _line("forecast median", _stamps(made), _nullable(close * np.exp(forecasts.median[row, bars])), ACCENT, dash="dot"),
        _line(panel.symbols[row], _stamps(panel.timestamps[bars]), _nullable(close), "#f59e0b", width=2),
    ]
    return _chart(lines, {"type": "date"}, _axis(f"{panel.symbols[row]} price"))


def history_lines(history: Mapping[str, Mapping[str, Sequence[float]]]) -> Chart | None:
    """Training and validation loss per epoch of every member."""
    palette = [ACCENT, *_COLOURS.values()]
    lines = []
    for index, (member, series) in enumerate(history.items()):
        for name, values in series.items():
            if "loss" in name and len(values):
                dash = "solid" if "val" in name else "dot"
                epochs = list(range(1, len(values) + 1))
                label = f"{member} {name.replace('_', ' ')}"
                lines.append(_line(label, epochs, _nullable(values), palette[index % len(palette)], dash=dash))
    return _chart(lines, _axis("Epoch"), _axis("Loss")) if lines else None


def bars_of(weights: Mapping[str, float], limit: int = 30) -> Chart | None:
    """The largest weights as horizontal bars, largest on top."""
    largest = sorted(weights.items(), key=lambda item: -abs(item[1]))[:limit][::-1]
    if not largest:
        return None
    names, values = zip(*largest, strict=True)
    bars = {"type": "bar", "orientation": "h", "x": _nullable(values), "y": list(names), "marker": {"color": ACCENT}}
    chart = _chart([bars], _axis("Weight"), {"automargin": True, "tickfont": {"size": 11}}, legend=False)
    chart["layout"]["height"] = 90 + 21 * len(names)
    return chart


def symbol_accuracy(ensemble: Evaluation) -> Chart:
    """Accuracy of every symbol with its interval, against its majority class."""
    rows = ensemble.figures["per_symbol"]
    accuracy = [figures["accuracy"] for figures in rows.values()]
    values = np.array([figure["value"] for figure in accuracy], dtype=float)
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "accuracy",
        "x": list(rows),
        "y": _nullable(values),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _nullable(np.array([figure["high"] for figure in accuracy], dtype=float) - values),
            "arrayminus": _nullable(values - np.array([figure["low"] for figure in accuracy], dtype=float)),
            "thickness": 1.5,
        },
        "marker": {"color": ACCENT, "size": 9},
    }
    majority = {
        "type": "scatter",
        "mode": "markers",
        "name": "majority class",
        "x": list(rows),
        "y": _nullable([figures["majority_share"] for figures in rows.values()]),
        "marker": {"color": NEUTRAL, "symbol": "line-ew-open", "size": 16, "line": {"width": 2}},
    }
    return _chart([points, majority], {"type": "category"}, _axis("Direction accuracy", ".0%"))


def _all(ensemble: Evaluation, baselines: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Return baselines first, so that the ensemble is drawn on top."""
    return {**baselines, ensemble.name: ensemble}


def _time_lines(curves: Mapping[str, np.ndarray], stamps: pd.DatetimeIndex, yaxis: Chart) -> Chart:
    chosen = np.unique(np.linspace(0, len(stamps) - 1, _MAX_POINTS).round().astype(int))
    x = _stamps(stamps[chosen])
    lines = [_line(name, x, _nullable(curve[chosen]), _colour(name), width=_width(name)) for name, curve in curves.items()]
    return _chart(lines, {"type": "date"}, yaxis)


def _line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **style: Any) -> Chart:
    fill = {"fill": style.pop("fill"), "fillcolor": f"{colour}26"} if "fill" in style else {}
    shown = name.replace("_", " ")
    line = {"color": colour, "width": 1.5, **style}
    return {"type": "scatter", "mode": "lines", "name": shown, "x": list(x), "y": list(y), "line": line, **fill}


def _chart(data: list[Chart], xaxis: Chart, yaxis: Chart, *, legend: bool = True) -> Chart:
    return {"data": data, "layout": {"xaxis": xaxis, "yaxis": yaxis, "showlegend": legend, "height": 380}}


def _axis(title: str, tickformat: str | None = None) -> Chart:
    return {"title": {"text": title}, **({"tickformat": tickformat} if tickformat else {})}


def _colour(name: str) -> str:
    if name.startswith("member_"):
        return _MEMBER_COLOURS[sum(name.encode()) % len(_MEMBER_COLOURS)]
    return _COLOURS.get(name, ACCENT)


def _width(name: str) -> float:
    return 1.3 if name in _COLOURS or name.startswith("member_") else 2.6


def _stamps(stamps: pd.DatetimeIndex) -> list[str]:
    return [stamp.strftime("%Y-%m-%d %H:%M") for stamp in stamps]


def _nullable(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Return rounded floats; NaN and infinities become None, which plotly draws as a gap."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=np.float64)]
