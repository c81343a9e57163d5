"""The report: `report.json` with every figure, and `report.html`, one page that needs nothing else."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.protocol import Evaluation

__all__ = ["Report", "report_dict", "strict_json", "summary_rows", "summary_table", "write_atomically", "write_report"]

SUMMARY_COLUMNS = (
    "candidate",
    "accuracy",
    "majority",
    "sign",
    "AUC",
    "rank IC",
    "ECE",
    "Sharpe",
    "95% interval",
    "max drawdown",
    "turnover/y",
)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that one run has to show.

    Attributes:
        title: Headline, such as "Ten symbols, hourly, tested on 2024".
        inputs: What the candidates shared.
        ensemble: The model that would be served.
        baselines: Name -> evaluation; the shuffled-label run goes here as `shuffled_labels`.
        skipped: Baseline -> reason.
        missing: Figure -> why it is not here.
        config: The experiment's settings, as plain values.
        history: Member -> series name -> value per epoch.
        importance: Feature -> weight.
        importance_by_category: Category -> weight.
        health: Rows of the data-health table.
        extras: Further sections: heading -> name -> value, such as the built-in market's accuracy ceiling.
        created: When, UTC.
    """

    title: str
    inputs: EvaluationInput
    ensemble: Evaluation
    baselines: Mapping[str, Evaluation] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    importance_by_category: Mapping[str, float] = field(default_factory=dict)
    health: Sequence[Mapping[str, Any]] = ()
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def absent(self) -> dict[str, str]:
        """Everything that is not here, with the reason."""
        return {**{f"baseline {name}": reason for name, reason in self.skipped.items()}, **self.missing}


def report_dict(report: Report) -> dict[str, Any]:
    """Return the whole report as plain values (NaN not yet replaced); the layout of `report.json`."""
    inputs = report.inputs
    stamps = inputs.panel.timestamps
    return {
        "title": report.title,
        "created": report.created.isoformat(timespec="seconds"),
        "data": {
            "symbols": list(inputs.panel.symbols),
            "timeframe": inputs.panel.timeframe,
            "train": [str(stamps[inputs.train[0]]), str(stamps[inputs.train[1] - 1])],
            "test": [str(stamps[inputs.test[0]]), str(stamps[inputs.test[1] - 1])],
            "num_test_bars": inputs.test[1] - inputs.test[0],
            "label_bars": inputs.targets.label_bars,
            "horizon_bars": inputs.horizon_bars,
        },
        "protocol": {
            "trading": inputs.trading.model_dump(),
            "backtest": inputs.backtest.model_dump(),
            "bootstrap": {**inputs.bootstrap.model_dump(), "mean_block_bars": inputs.mean_block},
            "num_trials": inputs.num_trials,
        },
        "ensemble": report.ensemble.figures,
        "baselines": {name: evaluation.figures for name, evaluation in report.baselines.items()},
        "missing": report.absent,
        "extras": dict(report.extras),
        "history": {member: dict(series) for member, series in report.history.items()},
        "feature_importance": dict(report.importance),
        "feature_importance_by_category": dict(report.importance_by_category),
        "data_health": [dict(row) for row in report.health],
        "config": dict(report.config),
    }


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json` and `report.html` into a folder, each in one atomic step; return the page's path."""
    from cryptoml.evaluation.page import render_page

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", strict_json(report_dict(report), indent=2) + "\n")
    page = folder / "report.html"
    write_atomically(page, render_page(report))
    return page


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that any parser reads: NaN and infinities as null, NumPy values as plain ones."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_atomically(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def summary_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the main figures of ensemble and baselines as text, one row per candidate."""
    return [_summary_row(evaluation) for evaluation in (report.ensemble, *report.baselines.values())]


def summary_table(report: Report) -> str:
    """Return the summary as aligned text for a terminal."""
    rows = [SUMMARY_COLUMNS, *summary_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(SUMMARY_COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _summary_row(evaluation: Evaluation) -> tuple[str, ...]:
    direction, trading = evaluation.figures["direction"], evaluation.figures["trading"]
    sharpe = trading["sharpe_ratio"]
    return (
        evaluation.name,
        _text(direction["accuracy"]["value"], ".1%"),
        _text(direction["majority_share"], ".1%"),
        _text(direction["sign_accuracy"]["value"], ".1%"),
        _text(direction["auc"]["value"], ".3f"),
        _text(evaluation.figures["ranking"]["rank_ic"]["value"], "+.3f"),
        _text(direction["expected_calibration_error"], ".3f"),
        _text(sharpe["value"], "+.2f"),
        f"{_text(sharpe['low'], '+.2f')} .. {_text(sharpe['high'], '+.2f')}",
        _text(trading["max_drawdown"], ".1%"),
        _text(trading["annual_turnover"], ",.0f"),
    )


def _text(value: float, style: str) -> str:
    return format(value, style) if np.isfinite(value) else "n/a"


def _plain(value: Any) -> Any:
    """Return JSON types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return _plain(value.value)
    return value if isinstance(value, str | int | bool | None) else str(value)
