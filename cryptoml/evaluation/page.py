"""The report as one HTML page: works offline, on a phone, in light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from cryptoml.evaluation import charts
from cryptoml.evaluation.page_style import SCRIPT, STYLE
from cryptoml.evaluation.report import SUMMARY_COLUMNS, Report, strict_json, summary_rows

__all__ = ["render_page"]


def render_page(report: Report) -> str:
    """Return the whole page; plotly's script is inlined once."""
    sections = [
        _head(report),
        _tiles(report),
        _summary(report),
        *_trading(report),
        *_forecasts(report),
        *_breakdowns(report),
        *_model(report),
        *_appendix(report),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><main>\n{body}\n</main>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _head(report: Report) -> str:
    stamps = report.inputs.panel.timestamps
    first, last = stamps[report.inputs.test[0]], stamps[report.inputs.test[1] - 1]
    facts = [
        f"{report.inputs.panel.num_assets} symbols, {report.inputs.panel.timeframe} bars",
        f"tested {first:%Y-%m-%d} to {last:%Y-%m-%d}",
        f"horizon {report.inputs.horizon_bars} bars",
        f"{report.inputs.trading.costs.side_bps:g} bps per side",
        f"made {report.created:%Y-%m-%d %H:%M} UTC",
    ]
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>{escape(report.title)}</h1><ul class="facts">{items}</ul></header>'


def _tiles(report: Report) -> str:
    direction, trading = report.ensemble.figures["direction"], report.ensemble.figures["trading"]
    ranking, volatility = report.ensemble.figures["ranking"], report.ensemble.figures["volatility"]
    tiles = [
        (
            "Direction accuracy",
            _figure(direction["accuracy"], ".1%"),
            f"majority class {_number(direction['majority_share'], '.1%')}",
        ),
        ("AUC", _figure(direction["auc"], ".3f"), "0.5 is chance"),
        ("Rank IC", _figure(ranking["rank_ic"], "+.3f"), f"per bar; ICIR {_number(ranking['rank_ic_ir'], '+.2f')}"),
        ("Calibration error", _number(direction["expected_calibration_error"], ".3f"), "0 is perfect"),
        (
            "Net Sharpe ratio",
            _figure(trading["sharpe_ratio"], "+.2f"),
            f"deflated {_number(trading['deflated_sharpe_ratio'], '.2f')}",
        ),
        ("Maximum drawdown", _number(trading["max_drawdown"], ".1%"), f"return {_number(trading['total_return'], '+.1%')}"),
        (
            "Break-even cost",
            _number(trading["break_even_cost_bps"], ".1f") + " bps",
            f"turnover {_number(trading['annual_turnover'], ',.0f')} a year",
        ),
        ("Volatility QLIKE", _figure(volatility["qlike"], ".3f"), f"EWMA {_number(volatility['ewma_qlike']['value'], '.3f')}"),
    ]
    cards = (f'<div class="tile"><h3>{name}</h3><p class="value">{value}</p><p>{note}</p></div>' for name, value, note in tiles)
    return f'<section class="tiles">{"".join(cards)}</section>'


def _summary(report: Report) -> str:
    note = "Same bars, labels and costs for everyone. sign: share of returns whose sign was right. Intervals: block bootstrap."
    return _section("Against the baselines", note, _table(SUMMARY_COLUMNS, summary_rows(report), mark_first=True))


def _trading(report: Report) -> Iterable[str]:
    stamps = report.inputs.test_panel.timestamps
    yield _section(
        "Account value after costs",
        "Decision at the close, fill at the next open; logarithmic.",
        _chart(charts.equity_lines(report.ensemble, report.baselines, stamps)),
    )
    yield _section("Drawdown", "", _chart(charts.drawdown_lines(report.ensemble, report.baselines, stamps)))
    yield _section(
        "Cost sweep",
        "The same trades at other costs per side; where a line crosses zero the strategy stops paying.",
        _chart(charts.cost_sweep_lines(report.ensemble, report.baselines)),
    )


def _forecasts(report: Report) -> Iterable[str]:
    pair = [
        _section("Reliability", "Is 0.65 right 65% of the time?", _chart(charts.reliability(report.ensemble))),
        _section("Accuracy by confidence", "Dotted: majority class.", _chart(charts.accuracy_by_confidence(report.ensemble))),
    ]
    yield f'<div class="pair">{"".join(pair)}</div>'
    note = f"Band forecast {report.inputs.horizon_bars} bars before each bar, and what came."
    yield _section("Quantile fan", note, _chart(charts.quantile_fan(report.inputs, report.ensemble)))
    quantiles = report.ensemble.figures["quantiles"]
    if quantiles is not None:
        rows = [_quantile_row(horizon, figures) for horizon, figures in quantiles["by_horizon"].items()]
        columns = ("horizon", "pinball, bps", "inside band", "nominal", "median error, bps")
        yield _section("Quantiles", "", _table(columns, rows))


def _quantile_row(horizon: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{horizon} bars",
        _number(figures["pinball_loss"] * 1e4, ".2f"),
        _number(figures["interval_coverage"], ".1%"),
        _number(figures["interval_nominal"], ".0%"),
        _number(figures["median_absolute_error"] * 1e4, ".1f"),
    )


def _breakdowns(report: Report) -> Iterable[str]:
    figures = report.ensemble.figures
    columns = ("", "forecasts", "accuracy", "interval", "majority", "AUC", "rank IC", "net return")
    symbols = _table(columns, [_breakdown_row(name, row) for name, row in figures["per_symbol"].items()])
    yield _section("By symbol", "", _chart(charts.symbol_accuracy(report.ensemble)) + symbols)
    regimes = _table(columns, [_breakdown_row(name, row) for name, row in figures["per_regime"].items()])
    yield _section("By regime", "The regime that followed, known only afterwards.", regimes)


def _breakdown_row(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = figures["accuracy"]
    return (
        name,
        f"{figures['num_forecasts']:,}",
        _number(accuracy["value"], ".1%"),
        f"{_number(accuracy['low'], '.1%')} .. {_number(accuracy['high'], '.1%')}",
        _number(figures["majority_share"], ".1%"),
        _number(figures["auc"], ".3f"),
        _number(figures["rank_ic"], "+.3f"),
        _number(figures["net_return"], "+.2%"),
    )


def _model(report: Report) -> Iterable[str]:
    yield _section("Training", "Loss per epoch; solid: validation.", _chart(charts.history_lines(report.history)))
    yield _section("Feature importance", "The thirty largest.", _chart(charts.bars_of(report.importance)))
    yield _section("Importance by category", "", _chart(charts.bars_of(report.importance_by_category)))
    for heading, values in report.extras.items():
        yield _section(heading, "", _pairs(values))


def _appendix(report: Report) -> Iterable[str]:
    if report.health:
        columns = tuple(report.health[0])
        rows = [tuple(_cell(row.get(column)) for column in columns) for row in report.health]
        yield _section("Data health", "", _table(columns, rows))
    if report.absent:
        yield _section("Not in this report", "", _table(("figure", "reason"), list(report.absent.items()), wrap=True))
    settings = strict_json(report.config, indent=2)
    if report.config:
        yield _section("Settings", "", f"<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>")


def _section(heading: str, note: str, content: str) -> str:
    """Return a card; nothing where there is no content."""
    if not content:
        return ""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{content}</section>"


def _chart(chart: Mapping[str, Any] | None) -> str:
    """Return a placeholder with its figure as data, which the page's script draws."""
    if chart is None:
        return ""
    data = strict_json(chart).replace("</", "<\\/")
    height = chart["layout"]["height"]
    return f'<div class="chart" style="height:{height}px"><script type="application/json">{data}</script></div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, mark_first: bool = False, wrap: bool = False) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        body.append(f"<tr{' class=first' if mark_first and index == 0 else ''}>{cells}</tr>")
    style = "scroll wrap" if wrap else "scroll"
    return f'<div class="{style}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _pairs(values: Mapping[str, Any]) -> str:
    return _table(("", "value"), [(str(name), _cell(value)) for name, value in values.items()]) if values else ""


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and "value" in value:
        return f"{_cell(value['value'])} ({_cell(value['low'])} .. {_cell(value['high'])})"
    if isinstance(value, float | np.floating):
        return _number(float(value), ".4g")
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def _figure(figure: Mapping[str, float], style: str) -> str:
    """Return a figure with its interval in small type."""
    low, high = _number(figure["low"], style), _number(figure["high"], style)
    return f"{_number(figure['value'], style)} <small>{low} .. {high}</small>"


def _number(value: float, style: str) -> str:
    return format(value, style) if np.isfinite(value) else "n/a"
