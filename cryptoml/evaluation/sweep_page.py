"""A sweep for the eye and for programs: one HTML page that works offline, and one table of all trials."""

import json
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from cryptoml.data.run_folder import publish_file
from cryptoml.evaluation.report.chart_parts import ACCENT, NEUTRAL
from cryptoml.evaluation.report.markup import card, cell, chart, table
from cryptoml.evaluation.report.style import SCRIPT, STYLE
from cryptoml.training.study import Study
from cryptoml.training.trial import SweepTrial

__all__ = ["render_sweep_page", "trials_frame", "write_sweep"]

SHOWN_TRIALS = 30


def write_sweep(study: Study, folder: str | Path) -> None:
    """Write `trials.parquet` and `sweep.html`; nothing where no trial has ended."""
    folder = Path(folder)
    if not study.finished:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with publish_file(folder / "trials.parquet") as path:
        trials_frame(study.trials).to_parquet(path, index=False)
    with publish_file(folder / "sweep.html") as path:
        path.write_text(render_sweep_page(study), encoding="utf-8")


def trials_frame(trials: Sequence[SweepTrial]) -> pd.DataFrame:
    """Return one row per trial: number, state, objectives, seconds, resources and each parameter as `parameter_NAME`."""
    rows = []
    for trial in trials:
        row = trial.row()
        nested = {name: row.pop(name) for name in ("parameters", "values", "resources", "loss")}
        started = pd.Timestamp(trial.started, unit="s", tz="UTC") if trial.started else pd.NaT
        row |= {"started": started} | nested["values"]
        row |= {f"resource_{name.lower()}": value for name, value in nested["resources"].items()}
        rows.append(row | {f"parameter_{name}": value for name, value in nested["parameters"].items()})
    return pd.DataFrame(rows)


def render_sweep_page(study: Study) -> str:
    """Return the whole page: history, parallel coordinates, importance, steps, and the trials, best first."""
    cards = "\n".join([*_charts(study.as_optuna(), study.config.objectives), _table(study)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>Hyperparameter sweep</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body>\n{_head(study)}\n<main>\n{cards}\n</main>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _head(study: Study) -> str:
    trials = study.trials
    counts = {state: sum(trial.state == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")}
    facts = [
        *(f"{count} {state.lower()}" for state, count in counts.items()),
        f"objectives: {', '.join(study.config.objectives)}",
        f"{study.config.sampler}, {study.config.pruner if study.config.prunes else 'no pruning'}",
        f"{sum(trial.seconds for trial in trials):,.1f} s of trials",
        f"made {datetime.now(tz=UTC):%Y-%m-%d %H:%M} UTC",
    ]
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>Hyperparameter sweep</h1><ul class="facts">{items}</ul></header>'


def _charts(study: optuna.Study, objectives: Sequence[str]) -> Iterator[str]:
    """Yield Optuna's own charts, once per objective; those that need more trials than there are stay out."""
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return
    if len(objectives) > 1:
        front = optuna.visualization.plot_pareto_front(study, target_names=list(objectives))
        yield card("Pareto front", "Trials that no other beats in every objective.", chart(_plain(front, 420)))
    for index, name in enumerate(objectives):
        wanted: dict[str, Any] = {"target": lambda trial, index=index: trial.values[index], "target_name": name}
        alone = len(objectives) == 1  # Optuna draws the best so far for one objective only
        history = optuna.visualization.plot_optimization_history(study, **({"target_name": name} if alone else wanted))
        yield card(f"History of {name}", "Complete trials, and the best so far." if alone else "", chart(_plain(history, 380)))
        varied = sorted({key for trial in complete for key in trial.params if _varies(complete, key)})
        if varied and len(complete) > 1:
            lines = optuna.visualization.plot_parallel_coordinate(study, params=varied, **wanted)
            lines.update_annotations(font_color=NEUTRAL)
            yield card(f"Parallel coordinates of {name}", "One line per complete trial; dark is low.", chart(_plain(lines, 460)))
            yield _importance(study, varied, index, name)
    if len(objectives) == 1:
        steps = optuna.visualization.plot_intermediate_values(study)
        yield card(
            "Loss by epoch",
            "On the inner tests so far; lines that end early were pruned.",
            chart(_plain(steps, 380, legend=False)),
        )


def _varies(trials: Sequence[Any], name: str) -> bool:
    return len({repr(trial.params.get(name)) for trial in trials}) > 1


def _importance(study: optuna.Study, names: Sequence[str], index: int, objective: str) -> str:
    """Return how much each parameter matters for reaching the best trials (Watanabe et al. 2023, PED-ANOVA)."""
    sign = -1 if study.directions[index] == StudyDirection.MAXIMIZE else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that low targets are good, and that few trials tell little
        try:
            shares = optuna.importance.get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                params=list(names),
                target=lambda trial: sign * trial.values[index],
            )
        except (RuntimeError, ValueError):
            return ""  # too few trials, or all the same
    bars = {"type": "bar", "orientation": "h", "x": list(shares.values())[::-1], "y": list(shares)[::-1]}
    figure = {
        "data": [bars | {"marker": {"color": ACCENT}}],
        "layout": {"height": 90 + 28 * len(shares), "margin": {"l": 150}},
    }
    return card(f"What matters for {objective}", "Share of the variance among good trials, PED-ANOVA.", chart(figure))


def _plain(figure: Any, height: int, *, legend: bool = True, **margin: int) -> dict[str, Any]:
    """Return a plotly figure as plain data; colours of text and grid are the page's."""
    plain = json.loads(figure.to_json())
    layout = {name: value for name, value in plain["layout"].items() if name not in ("template", "title")}
    return {"data": plain["data"], "layout": layout | {"height": height, "margin": margin, "showlegend": legend}}


def _table(study: Study) -> str:
    objectives = list(study.config.objectives)
    trials = sorted(study.trials, key=lambda trial: (trial.cost, trial.number))
    names = dict.fromkeys(name for trial in trials for name in trial.parameters)
    varied = [name for name in names if len({repr(trial.parameters.get(name)) for trial in trials}) > 1]
    columns = ("trial", "state", *objectives, "epochs", "seconds", "resources", *(name.replace("_", " ") for name in varied))
    rows = [_row(trial, objectives, varied) for trial in trials]
    note = "Best first; what all trials share is left out. The same in trials.parquet."
    return card("Trials", note, table(columns, rows, mark_first=True, limit=SHOWN_TRIALS))


def _row(trial: SweepTrial, objectives: Sequence[Any], varied: Sequence[str]) -> list[str]:
    held = ", ".join(f"{value:g} {name}" for name, value in trial.resources.items())
    state = f"{trial.state.lower()}\n{trial.reason}" if trial.reason else trial.state.lower()
    figures = [cell(trial.values.get(name)) for name in objectives]
    return [str(trial.number), state, *figures, str(trial.steps), f"{trial.seconds:.1f}", held] + [
        cell(trial.parameters.get(name)) for name in varied
    ]
