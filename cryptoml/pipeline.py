"""The whole flow in one process, without Ray: read this first.

    market -> features -> targets -> purged folds -> [per fold: scale, fit members, calibrate, forecast]
      -> signals -> evaluation against baselines -> bundle, predictions, report

The heavy stages come in as values (`Stages`); `cryptoml.distributed` offers the same ones mapped over a cluster.
Finished stages are kept in the output folder until the run is complete, so an interrupted run resumes, and a job that
goes only part of the way (`Pipeline.trials`, `Pipeline.train`) leaves its part to the next.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.config import ExperimentConfig
from cryptoml.data.market import Market, read_market
from cryptoml.data.run_folder import RunFolder, publish_file
from cryptoml.data.splits import Fold, Span
from cryptoml.data.stage import read_stage
from cryptoml.evaluation.baselines import BASELINES
from cryptoml.evaluation.candidates import EvaluationInput, candidate_from_predictions
from cryptoml.evaluation.findings import ceiling_table, control_table, ensemble_table, planted_table
from cryptoml.evaluation.folds import join_candidates, join_predictions
from cryptoml.evaluation.forecast import MIN_ASSETS
from cryptoml.evaluation.importance import importance_by_category
from cryptoml.evaluation.predictions import predictions_frame
from cryptoml.evaluation.protocol import Evaluation, evaluate_all
from cryptoml.evaluation.report import Report, write_report
from cryptoml.evaluation.sweep_page import write_sweep
from cryptoml.evaluation.trading_score import TradingScore
from cryptoml.evaluation.trials import TrialReturns, selection_figures, trial_returns
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeaturePanel
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import Targets, make_targets, with_regimes
from cryptoml.models.bundle import Bundle, save_bundle
from cryptoml.models.ensemble import Ensemble
from cryptoml.training.adaptation import AdapterArrays
from cryptoml.training.fold import inner_folds
from cryptoml.training.member import CONTROL
from cryptoml.training.sweep import best_parameters, open_sweep, run_sweep
from cryptoml.training.sweep_trial import RETURNS
from cryptoml.training.trial import SweepTrial
from cryptoml.walk_forward import FoldForecast, Refit, Stages, Walk, plan_folds, progress_bar

__all__ = ["Market", "Outcome", "Pipeline", "Stages", "open_market", "plan_folds", "run_pipeline"]

logger = logging.getLogger(__name__)

LIBRARIES = ("cryptoml", "torch", "numpy", "pandas", "TA-Lib")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run found; the same stands in its output folder."""

    report: Report
    predictions: pd.DataFrame
    folder: Path


@dataclass(frozen=True, eq=False)
class Pipeline:
    """One experiment on one market, stage by stage; each stage is computed once and kept in the run folder.

    Attributes:
        config: The experiment.
        market: The data.
        folds: Spans of bars, in order.
        run: Where stages and outputs lie.
        stages: How the heavy stages run.
        study: Storage URL of the sweep's study; `sweep/study.db` of the run folder by default.
        fresh: Discard the study of an earlier sweep with the same data and settings.
    """

    config: ExperimentConfig
    market: Market
    folds: list[Fold]
    run: RunFolder
    stages: Stages
    study: str | None = None
    fresh: bool = False

    @classmethod
    def open(
        cls,
        config: ExperimentConfig,
        market: Market,
        out: str | Path,
        *,
        train_end: str | pd.Timestamp | None = None,
        stages: Stages | None = None,
    ) -> "Pipeline":
        """Plan a run; use it inside `with pipeline.run:`, which holds the output folder.

        Args:
            config: The experiment.
            market: The data.
            out: Folder of the outputs, local or `s3://`.
            train_end: Last instant that the first model may learn from; a plain date means to the end of that day, UTC.
                By default the last `walk_forward.test_fraction` of the bars is the test.
            stages: How the heavy stages run.

        Raises:
            ConfigError: The data is too short for the settings, or `train_end` lies outside it.
        """
        panel = market.panel
        config = config.updated(timeframe=panel.timeframe, features={"timeframe": panel.timeframe})
        folds = plan_folds(config, panel, train_end)
        known = panel.slice_time(folds[0].train.start, folds[0].train.stop)
        config = config.model_copy(update={"targets": with_regimes(config.targets, known)})
        parts = [config.fingerprint(), panel.fingerprint(), repr(folds), version("cryptoml"), version("torch")]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return cls(config, market, folds, RunFolder(out, key), stages or Stages())

    @cached_property
    def features(self) -> FeaturePanel:
        """All features, memory-mapped."""
        panel = self.market.panel

        def build(folder: Path) -> None:
            computed = self.stages.features(panel, self.config.features, self.run.scratch("features"))
            np.save(folder / "values.npy", computed.values)
            (folder / "names.json").write_text(json.dumps(computed.names))

        def read(folder: Path) -> FeaturePanel:
            values = np.load(folder / "values.npy", mmap_mode="r")
            names = tuple(json.loads((folder / "names.json").read_text()))
            return FeaturePanel(values, names, panel.symbols, panel.timestamps, panel.timeframe)

        return read_stage(self.run, "features", build, read)

    @cached_property
    def targets(self) -> Targets:
        """Labels of all bars."""
        return make_targets(self.market.panel, self.config.targets)

    @cached_property
    def trials(self) -> list[SweepTrial]:
        """The sweep: the first member, tuned by an inner walk-forward on the first fold's training span."""
        return self._sweep[0]

    @cached_property
    def trial_returns(self) -> TrialReturns:
        """What trading on each complete trial of the sweep earned, bar by bar of the inner tests."""
        return trial_returns(self._sweep[1], self.trials)

    @cached_property
    def _sweep(self) -> tuple[list[SweepTrial], dict[int, np.ndarray]]:
        def build(folder: Path) -> None:
            trials, returns = self._tune() if self.config.sweep.num_trials else ([], {})
            (folder / "trials.json").write_text(json.dumps([trial.row() for trial in trials]))
            np.savez(folder / "returns.npz", **{str(number): row for number, row in returns.items()})  # type: ignore[arg-type]

        def read(folder: Path) -> tuple[list[SweepTrial], dict[int, np.ndarray]]:
            trials = [SweepTrial.from_row(row) for row in json.loads((folder / "trials.json").read_text())]
            with np.load(folder / "returns.npz") as file:
                return trials, {int(number): file[number] for number in file}

        return read_stage(self.run, "sweep", build, read)

    def _tune(self) -> tuple[list[SweepTrial], dict[int, np.ndarray]]:
        """Run what remains of the sweep; OUT/sweep holds its study, its table and its page, whatever interrupts it."""
        config, span, place = self.config, self.folds[0].train, self.run.out / "sweep"
        folds = inner_folds(
            self.features,
            self.targets,
            self.folds[0],
            config.targets,
            config.scaling,
            num_folds=config.sweep.num_folds,
            test_fraction=config.sweep.test_fraction,
        )
        task = config.members[0].task(folds[-1], config.training, config.lookback, config.seed)
        sweep = config.sweep.around(task)
        panel = self.market.panel.slice_time(span.start, span.stop)
        score = TradingScore(panel, config.trading, config.backtest, config.lookback)
        self.run.bring("sweep")
        back_up = partial(self.run.back_up, "sweep")
        study = open_sweep(folds, task, sweep, folder=place, storage=self.study, fresh=self.fresh, on_end=back_up)
        try:
            trials = run_sweep(folds, task, sweep, study, score=score, engine=self.stages.sweep)
            return trials, study.arrays(RETURNS)
        finally:
            write_sweep(study, place)
            self.run.upload("sweep")

    @cached_property
    def walk(self) -> Walk:
        """What the folds share."""
        parameters = best_parameters(self.trials)
        return Walk(self.config, self.market, self.features, self.targets, self.run, self.stages, parameters)

    def train(self) -> Refit:
        """Fit the models of every fold, publish those of the last one as a bundle, and return them."""
        last = self.stages.folds(self.walk.refit, self.folds)[-1]
        losses = {member.name: member.validation_loss for member in last.fitted}
        adapter = self.walk.adapter(last.data.fold, last.ensembles[0], last.scaler)
        self._publish_bundle(last.ensembles[0], last.scaler, adapter, {"validation_loss": losses})
        return last

    def evaluate(self) -> Outcome:
        """Refit and forecast fold by fold, judge the joined forecasts, and publish bundle, predictions and report."""
        for number, fold in enumerate(self.folds, start=1):
            end = self.market.panel.timestamps[fold.train.stop - 1]
            logger.info("fold %d of %d: train to %s", number, len(self.folds), end)
        forecasts = self.stages.folds(self.walk.forecast, self.folds)
        report, predictions = self._judge(forecasts)
        last = forecasts[-1]
        self._publish_bundle(last.ensemble, last.scaler, last.adapter, report.ensemble.figures)
        with publish_file(self.run.out / "predictions.parquet") as path:
            predictions.to_parquet(path, index=False)
        write_report(report, self.run.out)
        self.run.upload("predictions.parquet", "report.html", "report.json")
        return Outcome(report, predictions, self.run.out)

    def _judge(self, forecasts: Sequence[FoldForecast]) -> tuple[Report, pd.DataFrame]:
        """Evaluate the joined test bars of all folds."""
        test = Span(self.folds[0].test.start, self.folds[-1].test.stop)
        tried = self.trial_returns
        inputs = replace(
            self.walk.inputs(self.targets, self.folds[0].train, test),
            num_trials=max(1, tried.num_trials),
            trial_sharpe_variance=tried.sharpe_variance,
        )
        predictions = join_predictions([part.predictions for part in forecasts])
        candidates = [candidate_from_predictions("ensemble", predictions, inputs)]
        candidates += join_candidates([part.others for part in forecasts])
        inputs = replace(inputs, tuned=frozenset(one.name for one in candidates if one.name not in BASELINES))
        with progress_bar("evaluation", "candidate", len(candidates)) as bar:
            evaluations = evaluate_all(inputs, candidates, lambda _: bar.update())
        ensemble = evaluations.pop("ensemble")
        assert ensemble.signals is not None
        frame = predictions_frame(inputs.test_panel, predictions, ensemble.signals, self.config.targets)
        panel = self.market.panel
        report = Report(
            title=f"{panel.num_assets} symbols of {self.market.name}, {panel.timeframe} bars",
            inputs=inputs,
            ensemble=ensemble,
            baselines=evaluations,
            skipped={one.name: one.skipped for one in candidates if one.skipped is not None},
            missing=self._missing(forecasts[-1], ensemble, evaluations),
            config=self.config.model_dump(mode="json"),
            history={part.name: part.history for part in forecasts[-1].fitted},
            importance=forecasts[-1].importance,
            importance_by_category=importance_by_category(forecasts[-1].importance),
            attention=forecasts[-1].attention,
            graph=forecasts[-1].graph,
            trials=[trial.row() for trial in self.trials],
            selection=selection_figures(tried) if self.trials else {},
            health=self.market.health.rows(),
            extras=self._findings(inputs, ensemble, evaluations, forecasts),
        )
        return report, frame

    def _publish_bundle(self, ensemble: Ensemble, scaler: FeatureScaler, adapter: AdapterArrays, metrics: dict[str, Any]) -> None:
        """Write OUT/bundle in one atomic step."""
        config, panel = self.config, self.market.panel
        lookbacks = AdvancedFeatureEngineer(config.features).catalogue().set_index("name")["lookback"]
        bundle = Bundle(
            ensemble=ensemble,
            symbols=panel.symbols,
            timeframe=panel.timeframe,
            context_bars=config.lookback,
            feature_names=self.features.names,
            feature_lookbacks=tuple(int(lookbacks[name]) for name in self.features.names),
            feature_config=config.features.model_dump(mode="json"),
            scaler=scaler.to_arrays(),
            target_config=config.targets.model_dump(mode="json"),
            trading_config=config.trading.model_dump(mode="json"),
            metrics=metrics,
            data_fingerprint=panel.fingerprint(),
            library_versions={name: version(name) for name in LIBRARIES},
            created_at=pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
            untrained=self.walk.untrained(self.folds[-1]),
            known_until=panel.timestamps[self.walk.last_read(self.folds[-1])].isoformat(),
            adapter=adapter,
            adaptation_config=config.adaptation.model_dump(mode="json"),
        )
        save_bundle(self.run.out / "bundle", bundle)
        self.run.upload("bundle")

    def _missing(self, last: FoldForecast, ensemble: Evaluation, others: Mapping[str, Evaluation]) -> dict[str, str]:
        """Return what a complete protocol would hold and this run does not, with the reason."""
        config, panel, complete = self.config, self.market.panel, len(self.trial_returns.names)
        demanded, held = self.walk.history_bars, self.folds[0].test.start
        speaking = "no member with a say in the ensemble"
        reasons = {
            "funding": (not panel.tables.get("funding"), "the data hold none; holding a position costs nothing"),
            "history of a live forecast": (
                demanded > held + 1,
                f"live demands {demanded} bars of a symbol, the data hold {held} before the test",
            ),
            "IC, rank IC and ICIR": (
                not np.isfinite(ensemble.figures["ranking"]["rank_ic"]["value"]),
                f"compare at least {MIN_ASSETS} symbols that are forecast at one bar; the data hold {panel.num_assets}",
            ),
            "Sharpe ratio": (
                not np.isfinite(ensemble.figures["trading"]["sharpe_ratio"]["value"]),
                "the account never moved, so there are neither deflated ratio, break-even cost nor win rate"
                if ensemble.backtest.turnover.any()
                else "the ensemble traded nothing, so there are neither deflated ratio, break-even cost nor win rate",
            ),
            "data health": (not self.market.health.rows(), "no candles were read from files"),
            "sweep history": (not self.trials, "no search was asked for; `sweep.num_trials` sets its length"),
            "probability of backtest overfitting": (complete < 2, f"needs two complete trials of the sweep, had {complete}"),
            "five seeds": (config.num_seeds < 5, f"{config.num_seeds} asked for; `num_seeds` (--seeds) sets them"),
            "run on shuffled labels": (CONTROL not in others, "not asked for; the setting `shuffled_label_run` adds it"),
            "ablations of graph and feature categories": (
                not config.ablations,
                "not asked for; the setting `ablations` adds them",
            ),
            "spread between initialisations": (
                config.ablations and config.num_seeds < 2,
                "one seed was fitted, so ablations by refit get no verdict; `num_seeds` (--seeds) sets them",
            ),
            "ablation of the continual step": (not config.continual_steps, "not asked for; `continual_steps` adds it"),
            "ablation of the meta-learning": (not config.adaptation.rehearsals, "not asked for; `adaptation.rehearsals` adds it"),
            "feature importance": (not last.importance, f"{speaking} selects features"),
            "temporal attention": (not last.attention, "no member attends to the past"),
            "learned asset graph": (last.graph is None, f"{speaking} has one"),
        }
        return {name: reason for name, (absent, reason) in reasons.items() if absent}

    def _findings(
        self, inputs: EvaluationInput, ensemble: Evaluation, others: dict[str, Evaluation], forecasts: Sequence[FoldForecast]
    ) -> dict[str, dict[str, Any]]:
        last, chance = forecasts[-1], [part.chance_hits for part in forecasts if part.chance_hits is not None]
        names = [member.name for member in self.config.members]
        tables: dict[str, dict[str, Any]] = {"Ensemble": ensemble_table(names, last.ensemble)}
        if CONTROL in others and chance:
            tables["Control on shuffled labels"] = control_table(inputs, others[CONTROL], np.sum(chance, axis=0))
        if self.market.health.file_errors:
            tables["Not read"] = {error.source: error.message for error in self.market.health.file_errors}
        if self.market.synthetic is not None:
            found = planted_table(self.market.synthetic, inputs, ensemble, last.graph)
            tables["Built-in market"] = ceiling_table(self.market.synthetic, inputs, ensemble) | found
        return tables


def open_market(source: str, config: ExperimentConfig, symbols: Sequence[str] = ()) -> Market:
    """Open the built-in market (`"synthetic"`), a folder of candle files, or a lake, as the experiment wants it.

    Raises:
        DataError: Nothing there can be used.
        ConfigError: Symbols are asked of the built-in market, which names its own.
    """
    return read_market(source, timeframe=config.timeframe, symbols=symbols, synthetic=config.market)


def run_pipeline(
    config: ExperimentConfig,
    market: Market,
    out: str | Path,
    *,
    train_end: str | pd.Timestamp | None = None,
    stages: Stages | None = None,
) -> Outcome:
    """Go from a market to a report, a bundle and out-of-sample predictions; the arguments are those of `Pipeline.open`.

    Raises:
        ConfigError: The data is too short for the settings, or `train_end` lies outside it.
    """
    pipeline = Pipeline.open(config, market, out, train_end=train_end, stages=stages)
    with pipeline.run as run:
        outcome = pipeline.evaluate()
        run.finish()
    return outcome
