"""What a run has to show, and the same as plain values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.comparison import compare, judge_refit, seed_spread
from cryptoml.evaluation.protocol import Evaluation
from cryptoml.evaluation.seeds import seed_table

__all__ = ["CONTROL", "Report", "report_dict"]

CONTROL = "shuffled_labels"
_SEED = re.compile(r"(.+)_seed_(\d+)")


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that one run has to show; what is left out is not on the page.

    Attributes:
        title: Headline, such as "Ten symbols, hourly, tested on 2024".
        inputs: What the candidates shared.
        ensemble: The model that would be served.
        baselines: Name -> evaluation: baselines, single members (`member_NAME`), other seeds (`ensemble_seed_N`), the run on
            shuffled labels (`shuffled_labels`), the first member refitted without a part (`without_PART`), and the ensemble
            with a further part (`ensemble_PART`).
        skipped: Baseline -> reason.
        missing: Figure -> why it is not here.
        config: The experiment's settings, as plain values.
        history: Member -> series name -> value per epoch.
        importance: Feature -> weight.
        importance_by_category: Category -> weight.
        attention: Member -> weight by bars ago `[bar]`, the newest bar first.
        graph: Mean weight with which each asset (row) listens to each (column) `[asset, asset]`.
        trials: Rows of the sweep: `number`, `state`, `loss`, `seconds`, `parameters`.
        selection: What `trials.selection_figures` says about the sweep.
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
    attention: Mapping[str, np.ndarray] = field(default_factory=dict)
    graph: np.ndarray | None = None
    trials: Sequence[Mapping[str, Any]] = ()
    selection: Mapping[str, Any] = field(default_factory=dict)
    health: Sequence[Mapping[str, Any]] = ()
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def others(self) -> dict[str, Evaluation]:
        """The baselines but for other seeds and ablations."""
        ablated = {id(side) for pair in self.ablations.values() for side in pair} - {id(self.ensemble)}
        return {
            name: one
            for name, one in self.baselines.items()
            if not _SEED.fullmatch(name) and (name.startswith("member_") or id(one) not in ablated)
        }

    @cached_property
    def ablations(self) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Part -> evaluation without it and with it."""
        member = next((one for name, one in self.baselines.items() if name.startswith("member_")), self.ensemble)
        pairs = {}
        for name, one in self.baselines.items():
            if name.startswith("without_"):
                pairs[name.removeprefix("without_")] = (one, member)
            elif name.startswith(f"{self.ensemble.name}_") and not _SEED.fullmatch(name):
                pairs[name.removeprefix(f"{self.ensemble.name}_")] = (self.ensemble, one)
        return pairs

    @cached_property
    def traders(self) -> dict[str, Evaluation]:
        """Of `others`, those that trade."""
        return {name: one for name, one in self.others.items() if one.backtest.turnover.any()}

    @cached_property
    def seeds(self) -> dict[str, dict[str, Any]]:
        """Name -> figures per seed with mean and deviation, for every candidate that was run with several."""
        runs: dict[str, dict[str, Evaluation]] = {}
        known = {self.ensemble.name: self.ensemble, **self.baselines}
        for name, evaluation in self.baselines.items():
            match = _SEED.fullmatch(name)
            if match and match[1] in known:
                runs.setdefault(match[1], {"0": known[match[1]]})[match[2]] = evaluation
        return {name: seed_table(by_seed) for name, by_seed in runs.items()}

    @cached_property
    def comparisons(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Baseline -> measure -> ensemble minus baseline with its interval, on the same rows."""
        rivals = {name: one for name, one in self.others.items() if name != CONTROL}
        return {name: compare(self.inputs, self.ensemble, rival) for name, rival in rivals.items()}

    @cached_property
    def ablation_table(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Part -> measure -> what switching it off changes, with its interval.

        What was fitted again without the part is judged by the spread between seeds too (`seed_spread`).
        """
        table = {part: compare(self.inputs, without, whole) for part, (without, whole) in self.ablations.items()}
        spread = seed_spread(self.inputs, self.refit_seeds) if self.refits else {}
        return {part: judge_refit(found, spread) if part in self.refits else found for part, found in table.items()}

    @cached_property
    def refits(self) -> tuple[str, ...]:
        """Parts whose ablation is a fit of its own, with an initialisation of its own; the others rest on the same fits."""
        return tuple(part for part, (without, _) in self.ablations.items() if without is not self.ensemble)

    @cached_property
    def refit_seeds(self) -> list[Evaluation]:
        """What the refits are compared with, and the same with other seeds."""
        whole = self.ablations[self.refits[0]][1]
        matches = ((_SEED.fullmatch(name), one) for name, one in self.baselines.items())
        return [whole, *(one for match, one in matches if match and match[1] == whole.name)]

    @property
    def absent(self) -> dict[str, str]:
        """Everything that is not here, with the reason."""
        return {**{_absence(name): reason for name, reason in self.skipped.items()}, **self.missing}


def report_dict(report: Report) -> dict[str, Any]:
    """Return the whole report as plain values (NaN not yet replaced); the layout of `report.json`."""
    return {
        "title": report.title,
        "created": report.created.isoformat(timespec="seconds"),
        "data": _data(report.inputs),
        "protocol": _protocol(report.inputs),
        "ensemble": report.ensemble.figures,
        "baselines": {name: evaluation.figures for name, evaluation in report.baselines.items()},
        "ensemble_minus_baseline": report.comparisons,
        "seeds": report.seeds,
        "ablations": {
            part: {
                "without": without.name,
                "with": whole.name,
                "interval_covers": "test bars, one initialisation" if part in report.refits else "test bars, the same fits",
                "num_seeds": len(report.refit_seeds) if part in report.refits else None,
                "change": report.ablation_table[part],
            }
            for part, (without, whole) in report.ablations.items()
        },
        "selection": dict(report.selection),
        "trials": [dict(row) for row in report.trials],
        "missing": report.absent,
        "extras": dict(report.extras),
        "history": {member: dict(series) for member, series in report.history.items()},
        "feature_importance": dict(report.importance),
        "feature_importance_by_category": dict(report.importance_by_category),
        "temporal_attention": {member: list(weights) for member, weights in report.attention.items()},
        "asset_graph": None if report.graph is None else {"symbols": report.inputs.panel.symbols, "weights": report.graph},
        "data_health": [dict(row) for row in report.health],
        "config": dict(report.config),
    }


def _absence(name: str) -> str:
    part = name.removeprefix("without_")
    return f"baseline {name}" if part == name else f"ablation of {part}"


def _data(inputs: EvaluationInput) -> dict[str, Any]:
    stamps = inputs.panel.timestamps
    return {
        "symbols": list(inputs.panel.symbols),
        "timeframe": inputs.panel.timeframe,
        "train": [str(stamps[inputs.train[0]]), str(stamps[inputs.train[1] - 1])],
        "test": [str(stamps[inputs.test[0]]), str(stamps[inputs.test[1] - 1])],
        "num_test_bars": inputs.test[1] - inputs.test[0],
        "label_bars": inputs.targets.label_bars,
        "horizon_bars": inputs.horizon_bars,
    }


def _protocol(inputs: EvaluationInput) -> dict[str, Any]:
    return {
        "trading": inputs.trading.model_dump(),
        "backtest": inputs.backtest.model_dump(),
        "bootstrap": {**inputs.bootstrap.model_dump(), "mean_block_bars": inputs.mean_block},
        "num_trials": inputs.num_trials,
        "trial_sharpe_variance": inputs.trial_sharpe_variance,
    }
