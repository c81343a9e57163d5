"""Cards of the model, of the search that chose it, and of the data."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from cryptoml.evaluation.comparison import MEASURES
from cryptoml.evaluation.report import model_charts
from cryptoml.evaluation.report.chart_parts import shown_name
from cryptoml.evaluation.report.content import Report
from cryptoml.evaluation.report.markup import card, cell, chart, number, pair, pairs_table, stack, table
from cryptoml.evaluation.report.sections import difference_rows
from cryptoml.evaluation.report.strict import strict_json

__all__ = ["data_cards", "model_cards", "search_cards"]

_SEED_STYLES = {
    "accuracy": ("accuracy", ".2%"),
    "sign_accuracy": ("sign", ".2%"),
    "auc": ("AUC", ".4f"),
    "rank_ic": ("rank IC", "+.4f"),
    "log_loss": ("log loss", ".4f"),
    "expected_calibration_error": ("ECE", ".4f"),
    "pinball_loss": ("pinball, bps", ".2f"),
    "qlike": ("QLIKE", ".4f"),
    "sharpe_ratio": ("net Sharpe", "+.2f"),
    "max_drawdown": ("max drawdown", ".1%"),
    "total_return": ("return", "+.1%"),
}


def model_cards(report: Report) -> Iterator[str]:
    """What the model looks at, what each part is worth, how it was trained."""
    columns = ("without", *(measure.label for measure in MEASURES))
    shown = table(columns, difference_rows(report.ablation_table)) if report.ablations else ""
    yield card("Ablations", _ablation_note(report), shown)
    largest = "Mean selection weight, the thirty largest, in the colour of their category."
    yield pair(
        card("Feature importance", largest, chart(model_charts.importance_bars(report.importance))),
        stack(
            card("Importance by category", "Summed weights.", chart(model_charts.category_bars(report.importance_by_category))),
            card("Temporal attention", "Where the newest bar looks.", chart(model_charts.attention_lines(report.attention))),
        ),
    )
    listens = "The row listens to the column, mean weight. The diagonal is the asset's own state."
    yield pair(
        card("Learned asset graph", listens, chart(model_charts.asset_graph(report.graph, report.inputs.panel.symbols))),
        card("Training", "Loss per epoch; solid: validation.", chart(model_charts.history_lines(report.history))),
    )
    yield pair(*(card(heading, "", pairs_table(values)) for heading, values in report.extras.items()))


def search_cards(report: Report) -> Iterator[str]:
    """How the model was chosen, and how much of it is luck of the search or of the seed."""
    trials = chart(model_charts.trial_points(report.trials)) + _trials_table(report)
    yield card("Sweep", "Every configuration tried, by what they differ in; the lowest validation loss won.", trials)
    yield card("Luck of the search", "On the bars that the sweep chose by.", pairs_table(_selection(report.selection)))
    for name, found in report.seeds.items():
        heading = "Seeds" if name == report.ensemble.name else f"Seeds of {shown_name(name)}"
        yield card(heading, "The same training with other seeds.", _seeds_table(found))


def data_cards(report: Report) -> Iterator[str]:
    """What the data were, what is not here, and the settings."""
    if report.health:
        columns = tuple(report.health[0])
        rows = [tuple(cell(row.get(column)) for column in columns) for row in report.health]
        names = tuple(column.replace("_", " ") for column in columns)
        yield card("Data health", "What validation found before anything was learned.", table(names, rows, limit=40))
    if report.absent:
        yield card("Not in this report", "", pairs_table(report.absent, words=True))
    if report.config:
        settings = escape(strict_json(report.config, indent=2))
        yield card("Settings", "", f"<details><summary>All settings</summary><pre>{settings}</pre></details>")


def _ablation_note(report: Report) -> str:
    note = "What changes where a part is switched off, on the same bars. Red: the part helps beyond noise; green: it harms."
    if not report.refits:
        return note
    covered = "Intervals cover the test bars and one initialisation"
    if len(report.refit_seeds) < 2:
        unknown = "the spread between initialisations is unknown, so what was fitted again without a part gets no verdict"
        return f"{note} {covered}: {unknown}."
    seeds = f"{len(report.refit_seeds)} seeds of {shown_name(report.refit_seeds[0].name)}"
    judged = f"counts as beyond noise where it also exceeds what another seed alone may change, by {seeds}"
    return f"{note} {covered}; what was fitted again without a part {judged}."


def _trials_table(report: Report) -> str:
    if not report.trials:
        return ""
    found = dict.fromkeys(name for trial in report.trials for name in trial["parameters"])
    names = [name for name in found if len({cell(trial["parameters"].get(name)) for trial in report.trials}) > 1]
    ranked = sorted(report.trials, key=lambda trial: np.inf if trial.get("loss") is None else trial["loss"])
    rows = [
        (
            str(trial["number"]),
            str(trial["state"]).lower(),
            "" if trial.get("loss") is None else number(trial["loss"], ".5g"),
            number(trial.get("seconds"), ".1f"),
            *(cell(trial["parameters"].get(name)) for name in names),
        )
        for trial in ranked
    ]
    columns = ("trial", "state", "validation loss", "seconds", *(name.replace("_", " ") for name in names))
    return table(columns, rows, mark_first=True, limit=10)


def _selection(figures: Mapping[str, Any]) -> dict[str, Any]:
    labels = {
        "num_trials": "configurations judged",
        "num_ended": "of them pruned",
        "num_bars": "bars they were judged on",
        "best_sharpe_per_bar": "best Sharpe ratio per bar",
        "sharpe_variance_per_bar": "variance of Sharpe ratios per bar",
        "overfitting_probability": "probability of backtest overfitting",
        "degradation": "slope of out-of-sample on in-sample Sharpe ratio",
        "num_splits": "splits of the cross-validation",
    }
    return {label: figures[name] for name, label in labels.items() if figures.get(name) is not None}


def _seeds_table(found: Mapping[str, Any]) -> str:
    columns = ("seed", *(label for label, _ in _SEED_STYLES.values()))
    lines = {**found["per_seed"], "mean": found["mean"], "deviation": found["sd"]}
    return table(columns, [(seed, *_seed_cells(values, plain=seed == "deviation")) for seed, values in lines.items()])


def _seed_cells(values: Mapping[str, float], *, plain: bool) -> Iterator[str]:
    for name, (label, style) in _SEED_STYLES.items():
        scale = 1e4 if label.endswith("bps") else 1.0
        yield number(values[name] * scale, style.lstrip("+") if plain else style)
