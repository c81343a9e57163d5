"""The run in a table and in a few sentences, which say what the intervals allow and no more."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cryptoml.evaluation.protocol import Evaluation
from cryptoml.evaluation.report.content import CONTROL, Report
from cryptoml.evaluation.report.markup import number, ranged

__all__ = ["sentences", "summary_columns", "summary_rows", "summary_table"]

_RIVAL = "lightgbm"


def summary_columns(report: Report) -> tuple[str, ...]:
    """Return the headings of `summary_rows`."""
    level = f"{report.inputs.bootstrap.level:.0%} interval"
    return ("candidate", "accuracy", "majority", "sign", "AUC", "rank IC", "ECE", "Sharpe", level, "max drawdown", "turnover/y")


def summary_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the main figures as text, the ensemble first; who forecasts no direction is left out."""
    shown = [one for one in report.others.values() if one.figures["direction"]["num_forecasts"]]
    return [_row(evaluation) for evaluation in (report.ensemble, *shown)]


def summary_table(report: Report) -> str:
    """Return the summary as aligned text for a terminal."""
    rows = [summary_columns(report), *summary_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _row(evaluation: Evaluation) -> tuple[str, ...]:
    direction, trading = evaluation.figures["direction"], evaluation.figures["trading"]
    sharpe = trading["sharpe_ratio"]
    return (
        evaluation.name,
        number(direction["accuracy"]["value"], ".1%"),
        number(direction["majority_share"], ".1%"),
        number(direction["sign_accuracy"]["value"], ".1%"),
        number(direction["auc"]["value"], ".3f"),
        number(evaluation.figures["ranking"]["rank_ic"]["value"], "+.3f"),
        number(direction["expected_calibration_error"], ".3f"),
        number(sharpe["value"], "+.2f"),
        f"{number(sharpe['low'], '+.2f')} .. {number(sharpe['high'], '+.2f')}",
        number(trading["max_drawdown"], ".1%"),
        number(trading["annual_turnover"], ",.0f"),
    )


def sentences(report: Report) -> Iterator[tuple[str, str]]:
    """Return what a reader should take away, as (topic, sentence)."""
    figures = report.ensemble.figures
    direction, trading = figures["direction"], figures["trading"]
    yield (
        "Direction",
        f"right {ranged(direction['accuracy'], '.1%')} of the time; naming the most frequent class throughout would have been "
        f"right {number(direction['majority_share'], '.1%')}. AUC {ranged(direction['auc'], '.3f')}, where 0.5 is chance.",
    )
    yield (
        "Trading",
        _trades(trading)
        if report.ensemble.backtest.turnover.any()
        else "nothing was traded, so there is no Sharpe ratio to judge.",
    )
    rivalry = _rivalry(report.comparisons.get(_RIVAL, {}))
    if rivalry:
        yield "Against LightGBM", rivalry
    volatility = _volatility(report)
    if volatility:
        yield "Volatility", volatility
    if report.others.get(CONTROL) is not None:
        auc = report.others[CONTROL].figures["direction"]["auc"]
        yield "Control", f"the same model on shuffled labels reaches an AUC of {ranged(auc, '.3f')}."


def _trades(trading: Mapping[str, Any]) -> str:
    return (
        f"net Sharpe ratio {ranged(trading['sharpe_ratio'], '+.2f')} at {trading['side_cost_bps']:g} bps per side; the trades "
        f"break even at {number(trading['break_even_cost_bps'], '.1f')} bps. {_deflation(trading)}"
    )


def _deflation(trading: Mapping[str, Any]) -> str:
    tried = "one configuration" if trading["num_trials"] == 1 else f"{trading['num_trials']} configurations"
    chance = number(trading["deflated_sharpe_ratio"], ".0%")
    return f"After {tried} tried, the probability that its true Sharpe ratio is above luck is {chance}."


def _rivalry(measures: Mapping[str, Mapping[str, Any]]) -> str:
    names = {"auc": ("AUC", "+.4f"), "rank_ic": ("rank IC", "+.4f"), "sharpe_ratio": ("net Sharpe ratio", "+.2f")}
    parts = [
        f"{label} {ranged(measures[name], style)}, {_verdict(measures[name])}"
        for name, (label, style) in names.items()
        if name in measures
    ]
    return "; ".join(parts) + " (ensemble minus LightGBM on the same features and bars)." if parts else ""


def _verdict(difference: Mapping[str, Any]) -> str:
    better = difference["better"]
    if not np.isfinite([difference["low"], difference["high"]]).all():
        return "too few bars to tell it from noise"
    return "no difference beyond noise" if better is None else "better beyond noise" if better else "worse beyond noise"


def _volatility(report: Report) -> str:
    own = report.ensemble.figures["volatility"]
    rivals = [f"EWMA {number(own['ewma_qlike']['value'], '.3f')}"]
    har = report.comparisons.get("har", {}).get("qlike")
    if har is not None:
        har_qlike = report.others["har"].figures["volatility"]["qlike"]["value"]
        rivals.append(f"HAR {number(har_qlike, '.3f')} ({_verdict(har)})")
    return f"QLIKE {ranged(own['qlike'], '.3f')}, lower is better; {', '.join(rivals)}."
