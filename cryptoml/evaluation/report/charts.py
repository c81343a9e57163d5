"""Charts of trading and of forecasts. A chart that has nothing to show is None."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cryptoml.data.schema import bars_per_year, parse_timeframe
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.comparison import MEASURES
from cryptoml.evaluation.performance import annual_volatility, drawdowns, equity_curve
from cryptoml.evaluation.protocol import Evaluation
from cryptoml.evaluation.report.chart_parts import (
    ACCENT,
    AMBER,
    NEUTRAL,
    Chart,
    axis,
    colour_of,
    line,
    nullable,
    plot,
    shown_name,
    stamp_texts,
    thinned,
    whiskers,
)

__all__ = [
    "accuracy_by_confidence",
    "cost_sweep_lines",
    "difference_forest",
    "drawdown_lines",
    "equity_lines",
    "quantile_fan",
    "reliability",
    "symbol_accuracy",
]

_COMMON_RISK = 0.1
_MAX_FANS = 24


def equity_lines(ensemble: Evaluation, others: Mapping[str, Evaluation], inputs: EvaluationInput) -> Chart:
    """Account value after costs from 1, as traded and with every account scaled to the same risk."""
    nets = {name: evaluation.backtest.net for name, evaluation in {**others, ensemble.name: ensemble}.items()}
    per_year = bars_per_year(inputs.panel.timeframe)
    scaled = {name: net * _risk_factor(net, per_year) for name, net in nets.items()}
    views = {"At the same risk": scaled, "As traded": nets}
    curves = {label: {name: equity_curve(net) for name, net in found.items()} for label, found in views.items()}
    return {
        "views": [
            {"label": label, **_over_time(found, inputs, ensemble.name, _account_axis(found))} for label, found in curves.items()
        ]
    }


def drawdown_lines(ensemble: Evaluation, others: Mapping[str, Evaluation], inputs: EvaluationInput) -> Chart:
    """Loss from the highest account value so far, every account scaled to the same risk."""
    per_year = bars_per_year(inputs.panel.timeframe)
    nets = {name: evaluation.backtest.net for name, evaluation in {**others, ensemble.name: ensemble}.items()}
    curves = {name: drawdowns(net * _risk_factor(net, per_year)) for name, net in nets.items()}
    return _over_time(curves, inputs, ensemble.name, axis("Drawdown", ".0%"), fill=True)


def cost_sweep_lines(ensemble: Evaluation, others: Mapping[str, Evaluation]) -> Chart:
    """Net Sharpe ratio of the same trades at other costs."""
    lines = []
    for name, evaluation in {**others, ensemble.name: ensemble}.items():
        sweep = evaluation.figures["trading"]["cost_sweep"]
        costs, ratios = ([row[key] for row in sweep] for key in ("side_cost_bps", "sharpe_ratio"))
        own = name == ensemble.name
        lines.append(line(name, costs, nullable(ratios), colour_of(name), width=3 if own else 1.4, visible=_prominent(name)))
    charged = ensemble.figures["trading"]["side_cost_bps"]
    shapes = [{"type": "line", "x0": charged, "x1": charged, "yref": "paper", "y0": 0, "y1": 1, "line": _dotted()}]
    return plot(lines, axis("Cost per side, bps"), axis("Net Sharpe ratio", zeroline=True), shapes=shapes)


def difference_forest(comparisons: Mapping[str, Mapping[str, dict]], measure: str) -> Chart | None:
    """Ensemble minus each baseline with its interval, sideways; right of zero the ensemble is higher."""
    label = next(one.label for one in MEASURES if one.name == measure)
    rows = {name: found[measure] for name, found in comparisons.items() if np.isfinite(found.get(measure, {}).get("low", np.nan))}
    if not rows:
        return None
    names = [shown_name(name) for name in rows][::-1]
    points = whiskers(label, names, list(rows.values())[::-1], ACCENT, sideways=True)
    shapes = [{"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": _dotted()}]
    yaxis = {"automargin": True, "type": "category"}
    return plot([points], axis(label), yaxis, legend=False, height=110 + 26 * len(names), shapes=shapes)


def reliability(ensemble: Evaluation) -> Chart | None:
    """Accuracy against confidence; a calibrated forecaster lies on the diagonal."""
    buckets = [bucket for bucket in ensemble.figures["direction"]["by_confidence"] if bucket["count"] >= 20]
    if not buckets:
        return None
    counts = np.array([bucket["count"] for bucket in buckets])
    points = line(
        "forecasts",
        [bucket["mean_confidence"] for bucket in buckets],
        [bucket["accuracy"] for bucket in buckets],
        ACCENT,
        mode="lines+markers",
        hover="confidence %{x:.1%}<br>right %{y:.1%}<br>%{text}<extra></extra>",
    ) | {"text": [f"{count:,} forecasts" for count in counts]}
    points["marker"] = {"color": ACCENT, "size": (7 + 17 * np.sqrt(counts / counts.max())).tolist()}
    reached = [bucket[key] for bucket in buckets for key in ("mean_confidence", "accuracy")]
    ends = [min(reached) - 0.02, max(reached) + 0.02]
    diagonal = line("calibrated", ends, ends, NEUTRAL, dash="dot")
    return plot([diagonal, points], axis("Confidence", ".0%"), axis("Share right", ".0%"), legend=False)


def accuracy_by_confidence(ensemble: Evaluation) -> Chart | None:
    """Accuracy in ten equally full groups by confidence, against the majority class."""
    direction = ensemble.figures["direction"]
    groups = direction["by_confidence_rank"]
    if not groups:
        return None
    ranks = [f"{index + 1}" for index in range(len(groups))]
    bars = {
        "type": "bar",
        "name": "accuracy",
        "x": ranks,
        "y": [group["accuracy"] for group in groups],
        "text": [f"{group['low']:.0%} to {group['high']:.0%}" for group in groups],
        "textposition": "none",
        "hovertemplate": "confidence %{text}<br>right %{y:.1%}<extra></extra>",
        "marker": {"color": ACCENT, "cornerradius": 4},
    }
    majority = line("majority class", ranks, [direction["majority_share"]] * len(ranks), AMBER, dash="dot", width=2)
    return plot(
        [bars, majority], axis("Tenth by confidence, surest last", type="category"), axis("Share right", ".0%"), legend=False
    )


def quantile_fan(inputs: EvaluationInput, ensemble: Evaluation, num_bars: int = 240) -> Chart | None:
    """Close of each symbol over the last bars, and the band forecast for each bar one horizon before."""
    forecasts = ensemble.candidate.forecasts
    if forecasts is None or len(forecasts.quantile_levels) < 2:
        return None
    known = np.flatnonzero(np.isfinite(forecasts.quantiles[:, -num_bars:]).any(axis=(1, 2)))
    views = [{"label": inputs.panel.symbols[row], **_fan(inputs, ensemble, row, num_bars)} for row in known[:_MAX_FANS]]
    return {"views": views} if views else None


def symbol_accuracy(ensemble: Evaluation) -> Chart:
    """Accuracy of every symbol with its interval, against its majority class."""
    rows = ensemble.figures["per_symbol"]
    points = whiskers("accuracy", list(rows), [figures["accuracy"] for figures in rows.values()], ACCENT, sideways=False)
    majority = {
        "type": "scatter",
        "mode": "markers",
        "name": "majority class",
        "x": list(rows),
        "y": nullable([figures["majority_share"] for figures in rows.values()]),
        "marker": {"color": AMBER, "symbol": "line-ew-open", "size": 16, "line": {"width": 2.5}},
    }
    return plot([points, majority], {"type": "category"}, axis("Direction accuracy", ".0%"), height=330)


def _fan(inputs: EvaluationInput, ensemble: Evaluation, row: int, num_bars: int) -> Chart:
    panel, forecasts = inputs.test_panel, ensemble.candidate.forecasts
    assert forecasts is not None
    bars = slice(max(0, panel.num_bars - num_bars), panel.num_bars)
    close, quantiles = panel.field("close")[row, bars], forecasts.quantiles[row, bars]
    reached = stamp_texts(panel.timestamps[bars] + inputs.horizon_bars * parse_timeframe(panel.timeframe))
    order = np.argsort(forecasts.quantile_levels)
    lines = []
    for low, high in zip(order[: len(order) // 2], order[::-1], strict=False):
        span = f"{forecasts.quantile_levels[low]:.0%} to {forecasts.quantile_levels[high]:.0%}"
        edge = {"width": 0, "hover": "%{y:,.6~g}"}
        lines.append(
            line(f"below {span}", reached, nullable(close * np.exp(quantiles[:, low])), ACCENT, **edge) | {"showlegend": False}
        )
        upper = nullable(close * np.exp(quantiles[:, high]))
        lines.append(line(f"{span} band", reached, upper, ACCENT, fill="tonexty", opacity="2b", **edge))
    lines.append(line("median forecast", reached, nullable(close * np.exp(forecasts.median[row, bars])), ACCENT, dash="dot"))
    lines.append(line(panel.symbols[row], stamp_texts(panel.timestamps[bars]), nullable(close), AMBER, width=2))
    return plot(lines, {"type": "date"}, axis("Price"), height=400)


def _over_time(curves: Mapping[str, np.ndarray], inputs: EvaluationInput, own: str, yaxis: Chart, *, fill: bool = False) -> Chart:
    stamps: pd.DatetimeIndex = inputs.test_panel.timestamps
    chosen = thinned(len(stamps))
    x, lines = stamp_texts(stamps[chosen]), []
    for name, curve in curves.items():
        style: Chart = {"width": 2.8 if name == own else 1.3, "visible": _prominent(name)}
        if fill and name == own:
            style |= {"fill": "tozeroy"}
        lines.append(line(name, x, nullable(curve[chosen]), colour_of(name), **style))
    return plot(lines, {"type": "date"}, yaxis, height=400 if not fill else 300)


def _account_axis(curves: Mapping[str, np.ndarray]) -> Chart:
    """Return a logarithmic axis with round values in sight, however narrow or wide the range."""
    values = np.concatenate([curve[curve > 0] for name, curve in curves.items() if _prominent(name)])
    low, high = (float(values.min()), float(values.max())) if values.size else (1.0, 1.0)
    ticks = _round_values(low, high)
    return axis("Account value", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def _round_values(low: float, high: float) -> list[float]:
    """Return about six round values between two positive ones: steps of 1, 2 or 5, else 1, 2, 5 of each decade."""
    if high / low > 8:
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        return [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    rough = max(high - low, 1e-6) / 6
    size = 10.0 ** np.floor(np.log10(rough))
    step = next(size * digit for digit in (1, 2, 5, 10) if size * digit >= rough)
    return [round(step * count, 10) for count in range(int(low // step), int(high // step) + 2) if count > 0]


def _prominent(name: str) -> bool:
    """Single members and the control wait in the legend."""
    return not name.startswith("member_") and name != "shuffled_labels"


def _risk_factor(net: np.ndarray, per_year: float) -> float:
    """Return what scales returns to 10% volatility a year."""
    spread = annual_volatility(net, per_year)
    return _COMMON_RISK / spread if spread > 1e-12 else 0.0


def _dotted() -> Chart:
    return {"color": NEUTRAL, "width": 1.4, "dash": "dot"}
