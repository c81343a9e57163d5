"""Cards of the evaluation: baselines, trading, forecasts, symbols and regimes."""

from collections.abc import Iterator, Mapping
from typing import Any

from cryptoml.evaluation.comparison import MEASURES
from cryptoml.evaluation.report import charts
from cryptoml.evaluation.report.chart_parts import shown_name
from cryptoml.evaluation.report.content import Report
from cryptoml.evaluation.report.markup import Cell, card, chart, number, pair, pairs_table, ranged, signed, spread, table
from cryptoml.evaluation.report.summary import summary_columns, summary_rows

__all__ = ["baseline_cards", "breakdown_cards", "difference_rows", "forecast_cards", "trading_cards"]

Figures = Mapping[str, Any]


def baseline_cards(report: Report) -> Iterator[str]:
    """The summary table, and what sets the ensemble apart."""
    rows = [(shown_name(row[0]), *row[1:]) for row in summary_rows(report)]
    note = "Same bars, labels, limits and costs for everyone. sign: share of returns whose sign was right."
    yield card("Against the baselines", note, table(summary_columns(report), rows, mark_first=True))
    forests = [chart(charts.difference_forest(report.comparisons, name)) for name in ("auc", "rank_ic", "sharpe_ratio")]
    if any(forests):
        columns = ("", *(measure.label for measure in MEASURES))
        detail = table(columns, difference_rows(report.comparisons))
        folded = f"<details><summary>All measures</summary>{detail}</details>"
        note = "Ensemble minus baseline on the same rows and resampled bars; right of zero the ensemble is better."
        yield card("Ensemble minus baseline", note, f'<div class="three">{"".join(forests)}</div>{folded}')


def difference_rows(comparisons: Mapping[str, Mapping[str, Figures]]) -> Iterator[tuple[Cell, ...]]:
    """Return a row per comparison: the differences of all measures, marked where the interval excludes zero."""
    for name, found in comparisons.items():
        cells = (signed(found[one.name], one.style, one.scale) if one.name in found else "" for one in MEASURES)
        yield (shown_name(name), *cells)


def trading_cards(report: Report) -> Iterator[str]:
    """What trading on the forecasts earned."""
    inputs, ensemble, traders = report.inputs, report.ensemble, report.traders
    yield card(
        "Account value after costs",
        "Decision at the close, fill at the next open. The same risk: every account scaled to 10% volatility a year, afterwards.",
        chart(charts.equity_lines(ensemble, traders, inputs)),
    )
    note = "Loss from the highest account value so far, at the same risk."
    yield card("Drawdown", note, chart(charts.drawdown_lines(ensemble, traders, inputs)))
    sweep = charts.cost_sweep_lines(ensemble, traders)
    note = "The same trades at other costs; where a line crosses zero the strategy stops paying. Dotted: what is charged."
    yield pair(card("Cost sweep", note, chart(sweep)), card("Trades", "", pairs_table(_trade_rows(ensemble.figures["trading"]))))


def _trade_rows(trading: Figures) -> Iterator[tuple[str, str]]:
    yield "trades", f"{trading['num_trades']:,}"
    yield "win rate, payoff ratio", f"{number(trading['win_rate'], '.1%')}, {number(trading['payoff_ratio'], '.2f')}"
    yield (
        "return, volatility a year",
        f"{number(trading['annual_return'], '+.1%')}, {number(trading['annual_volatility'], '.1%')}",
    )
    yield "mean gross exposure", number(trading["mean_gross_exposure"], ".1%")
    yield "turnover a year", f"{number(trading['annual_turnover'], ',.1f')} times equity"
    yield "break-even cost", f"{number(trading['break_even_cost_bps'], '.1f')} bps per side"
    yield "costs, funding paid", f"{number(trading['total_cost'], '.2%')}, {number(trading['total_funding'], '+.2%')}"
    yield "Sharpe ratio before costs", number(trading["gross_sharpe_ratio"], "+.2f")
    tried = trading["num_trials"]
    yield (
        "deflated Sharpe ratio",
        f"{number(trading['deflated_sharpe_ratio'], '.3f')} after {tried} {'trial' if tried == 1 else 'trials'}",
    )
    for name in ("with_stops", "without_stops"):
        if name in trading:
            other = trading[name]
            yield f"Sharpe ratio {name.replace('_', ' ')}", ranged(other["sharpe_ratio"], "+.2f")
            yield f"drawdown {name.replace('_', ' ')}", number(other["max_drawdown"], ".1%")


def forecast_cards(report: Report) -> Iterator[str]:
    """How good the forecasts are by themselves."""
    inputs, ensemble = report.inputs, report.ensemble
    error = number(ensemble.figures["direction"]["expected_calibration_error"], ".3f")
    yield pair(
        card(
            "Reliability",
            f"Is 0.65 right 65% of the time? Expected calibration error {error}.",
            chart(charts.reliability(ensemble)),
        ),
        card("Accuracy by confidence", "Dotted: the majority class.", chart(charts.accuracy_by_confidence(ensemble))),
    )
    note = f"Bands forecast {inputs.horizon_bars} bars before each bar, and what came."
    yield card("Quantile fan", note, chart(charts.quantile_fan(inputs, ensemble)))
    volatility = table(("", "QLIKE", "mean error", "ensemble minus it"), _volatility_rows(report))
    cards = [card("Volatility", "Over the horizon; QLIKE and error: lower is better.", volatility)]
    quantiles = ensemble.figures["quantiles"]
    if quantiles is not None:
        columns = ("horizon", "pinball, bps", "inside band", "nominal", "median error, bps")
        rows = [_quantile_row(horizon, figures) for horizon, figures in quantiles["by_horizon"].items()]
        cards.append(card("Quantiles", "The outermost band should hold its nominal share.", table(columns, rows)))
    yield pair(*cards)


def _volatility_rows(report: Report) -> Iterator[tuple[Cell, ...]]:
    own = report.ensemble.figures["volatility"]
    yield report.ensemble.name, ranged(own["qlike"], ".3f"), number(own["mean_absolute_error"], ".3%"), ""
    yield "EWMA", ranged(own["ewma_qlike"], ".3f"), number(own["ewma_mean_absolute_error"], ".3%"), ""
    for name, evaluation in report.others.items():
        figures = evaluation.figures["volatility"]
        if name == "har" or name.startswith("member_"):
            difference = report.comparisons[name].get("qlike")
            less: Cell = "" if difference is None else signed(difference, "+.3f")
            yield shown_name(name), ranged(figures["qlike"], ".3f"), number(figures["mean_absolute_error"], ".3%"), less


def _quantile_row(horizon: str, figures: Figures) -> tuple[str, ...]:
    return (
        f"{horizon} bar{'' if horizon == '1' else 's'}",
        number(figures["pinball_loss"] * 1e4, ".2f"),
        number(figures["interval_coverage"], ".1%"),
        number(figures["interval_nominal"], ".0%"),
        number(figures["median_absolute_error"] * 1e4, ".1f"),
    )


def breakdown_cards(report: Report) -> Iterator[str]:
    """The same by symbol, by year and by regime."""
    figures = report.ensemble.figures
    columns = ("", "forecasts", "accuracy", "majority", "AUC", "rank IC", "ECE", "QLIKE", "net return", "drawdown", "Sharpe")
    symbols = table(columns, [_breakdown_row(name, row) for name, row in figures["per_symbol"].items()], limit=40)
    note = "Return, drawdown and Sharpe ratio are of what each adds to the account."
    yield card("By symbol", note, chart(charts.symbol_accuracy(report.ensemble)) + symbols)
    years = table(columns, [_breakdown_row(name, row) for name, row in figures["per_year"].items()])
    yield card("By year", "", years) if len(figures["per_year"]) > 1 else ""
    shares = [(*_breakdown_row(name, row), number(row["share_of_bars"], ".1%")) for name, row in figures["per_regime"].items()]
    yield card(
        "By regime",
        "The market's regime at the forecast, as the bars after it show.",
        table((*columns, "share of bars"), shares),
    )


def _breakdown_row(name: str, figures: Figures) -> tuple[str, ...]:
    return (
        name,
        f"{figures['num_forecasts']:,}",
        spread(figures["accuracy"], ".1%"),
        number(figures["majority_share"], ".1%"),
        number(figures["auc"], ".3f"),
        number(figures["rank_ic"], "+.3f"),
        number(figures["expected_calibration_error"], ".3f"),
        number(figures["qlike"], ".3f"),
        number(figures["net_return"], "+.2%"),
        number(figures["max_drawdown"], ".1%"),
        spread(figures["sharpe_ratio"], "+.2f"),
    )
