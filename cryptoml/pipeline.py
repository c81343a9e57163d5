"""The whole flow in one process, without Ray: read this first.

    market -> features -> targets -> purged folds -> [per fold: scale, fit members, calibrate, forecast]
      -> signals -> evaluation against baselines -> bundle, predictions, report

The heavy stages come in as values (`Stages`); `cryptoml.distributed` offers the same ones mapped over a cluster.
Finished stages are kept in the output folder until the run is complete, so an interrupted run resumes.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cryptoml.config import ExperimentConfig
from cryptoml.data.loading import load_panel
from cryptoml.data.panel import Panel
from cryptoml.data.run_folder import RunFolder, publish_file
from cryptoml.data.splits import Fold, Span, first_test_bar, walk_forward
from cryptoml.data.synthetic import SyntheticMarket, synthetic_market
from cryptoml.data.validation.health import HealthSummary
from cryptoml.errors import ConfigError
from cryptoml.evaluation.baselines import BASELINES, run_baselines
from cryptoml.evaluation.candidates import Candidate, EvaluationInput, candidate_from_predictions
from cryptoml.evaluation.findings import ceiling_table, control_table, ensemble_table, sweep_table
from cryptoml.evaluation.folds import join_candidates, join_predictions
from cryptoml.evaluation.importance import feature_importance, importance_by_category
from cryptoml.evaluation.predictions import predictions_frame
from cryptoml.evaluation.protocol import Evaluation, evaluate_all
from cryptoml.evaluation.report import Report, write_report
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, FeaturePanel, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import Targets, make_targets
from cryptoml.models.bundle import Bundle, save_bundle
from cryptoml.models.ensemble import Ensemble, Predictions
from cryptoml.training.fold import ScaledFold, calibrated, forecast_member, forecast_test, scale_fold
from cryptoml.training.member import CONTROL, FittedMember, FoldData, MemberTask, fit_member, load_fitted, save_fitted
from cryptoml.training.sweep import SweepConfig, SweepTrial, best_parameters, run_sweep, tuned_tasks

__all__ = ["Market", "Outcome", "Stages", "compute_features", "fit_members", "open_market", "plan_folds", "run_pipeline"]

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
LIBRARIES = ("cryptoml", "torch", "numpy", "pandas", "TA-Lib")
NOT_YET = {
    "probability of backtest overfitting": "needs the returns of every trial of the sweep, which are not kept",
    "five seeds": "one seed per run; repeat with --seed",
    "ablations": "not part of this run",
}


@dataclass(frozen=True, eq=False)
class Market:
    """Data of one run.

    Attributes:
        panel: Candles and tables.
        health: What validation found.
        name: As the report shows it.
        synthetic: The truth behind the built-in market; None for real data.
    """

    panel: Panel
    health: HealthSummary
    name: str
    synthetic: SyntheticMarket | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run found; the same stands in its output folder."""

    report: Report
    predictions: pd.DataFrame
    folder: Path


def compute_features(panel: Panel, config: FeatureConfig) -> FeaturePanel:
    """Compute all features of a panel, one symbol after the other."""
    with _bar("features", "symbol", panel.num_assets) as bar:
        return build_features(panel, AdvancedFeatureEngineer(config), on_symbol=lambda _: bar.update())


def fit_members(data: FoldData, tasks: Sequence[MemberTask], folder: Path) -> list[FittedMember]:
    """Fit members one after the other, resuming from checkpoints in `folder`."""
    return [fit_member(data, task, checkpoint_dir=folder / task.name) for task in tasks]


@dataclass(frozen=True)
class Stages:
    """How the heavy stages run: by default plainly, in this process."""

    features: Callable[[Panel, FeatureConfig], FeaturePanel] = compute_features
    sweep: Callable[[FoldData, MemberTask, SweepConfig], list[SweepTrial]] = run_sweep
    fit: Callable[[FoldData, Sequence[MemberTask], Path], list[FittedMember]] = fit_members


def open_market(source: str, config: ExperimentConfig, symbols: Sequence[str] = ()) -> Market:
    """Open the built-in market (`"synthetic"`), a folder of candle files, or a lake.

    Raises:
        DataError: Nothing there can be used.
    """
    if source == SYNTHETIC:
        synthetic = synthetic_market(config.market)
        return Market(synthetic.panel, HealthSummary(), "built-in market", synthetic)
    loaded = load_panel(source, timeframe=config.timeframe, symbols=symbols or None)
    name = source.partition("?")[0].rstrip("/").rpartition("/")[2].rpartition("@")[2]  # no address, no credentials
    return Market(loaded.panel, loaded.health, name)


def run_pipeline(
    config: ExperimentConfig,
    market: Market,
    out: str | Path,
    *,
    train_end: str | pd.Timestamp | None = None,
    stages: Stages | None = None,
) -> Outcome:
    """Go from a market to a report, a bundle and out-of-sample predictions.

    Args:
        config: The experiment.
        market: The data.
        out: Folder of the outputs.
        train_end: Last instant that the first model may learn from; a plain date means to the end of that day, UTC.
            By default the last `walk_forward.test_fraction` of the bars is the test.
        stages: How the heavy stages run.

    Raises:
        ConfigError: The data is too short for the settings, or `train_end` lies outside it.
    """
    stages, panel = stages or Stages(), market.panel
    config = config.updated(timeframe=panel.timeframe, features={"timeframe": panel.timeframe})
    folds = plan_folds(config, panel, train_end)
    with RunFolder(out, _key(config, panel, folds)) as run:
        features = _features(run, panel, config, stages)
        targets = make_targets(panel, config.targets)
        trials = _sweep(run, features, targets, folds[0], config, stages)
        parameters = best_parameters(trials)
        forecasts = []
        for number, fold in enumerate(folds, start=1):
            logger.info("fold %d of %d: train to %s", number, len(folds), panel.timestamps[fold.train.stop - 1])
            scaled = scale_fold(features, targets, fold, config.targets, config.scaling)
            forecasts.append(_forecast_fold(run, f"fold_{number}", scaled, parameters, market, features, config, stages))
        report, predictions = _judge(config, market, targets, folds, forecasts, trials)
        _publish(run.out, config, market, features, forecasts[-1], report, predictions)
        run.finish()
    return Outcome(report, predictions, run.out)


def plan_folds(config: ExperimentConfig, panel: Panel, train_end: str | pd.Timestamp | None) -> list[Fold]:
    """Cut the panel's bars into purged walk-forward folds.

    Raises:
        ConfigError: The data is too short for the settings, or `train_end` lies outside it.
    """
    settings, longest = config.walk_forward, config.targets.horizons[-1]
    test_start = first_test_bar(panel.timestamps, train_end, settings.test_fraction)
    folds = walk_forward(
        panel.num_bars,
        test_start=test_start,
        label_bars=longest,
        embargo_bars=longest if settings.embargo_bars is None else settings.embargo_bars,
        validation_bars=max(1, round(settings.validation_fraction * test_start)),
        num_folds=settings.num_folds,
        train_bars=settings.train_bars,
    )
    if panel.num_bars - test_start <= longest:
        raise ConfigError(f"the test must be longer than the longest horizon {longest}, was {panel.num_bars - test_start} bars")
    if len(folds[0].train) < 2 * config.lookback:
        raise ConfigError(f"training needs at least {2 * config.lookback} bars, twice the lookback, has {len(folds[0].train)}")
    return folds


def _key(config: ExperimentConfig, panel: Panel, folds: Sequence[Fold]) -> str:
    """Identify everything that the stages depend on."""
    parts = [config.fingerprint(), panel.fingerprint(), repr(folds), version("cryptoml"), version("torch")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _features(run: RunFolder, panel: Panel, config: ExperimentConfig, stages: Stages) -> FeaturePanel:
    """Compute the features, or take them from an interrupted run as a memory map."""

    def build(folder: Path) -> None:
        computed = stages.features(panel, config.features)
        np.save(folder / "values.npy", computed.values)
        (folder / "names.json").write_text(json.dumps(computed.names))

    folder = run.stage("features", build)
    values = np.load(folder / "values.npy", mmap_mode="r")
    names = tuple(json.loads((folder / "names.json").read_text()))
    return FeaturePanel(values, names, panel.symbols, panel.timestamps, panel.timeframe)


def _sweep(
    run: RunFolder, features: FeaturePanel, targets: Targets, fold: Fold, config: ExperimentConfig, stages: Stages
) -> list[SweepTrial]:
    """Tune the first member on the first fold's training period; the others share what concerns the training loop."""

    def build(folder: Path) -> None:
        trials: list[SweepTrial] = []
        if config.sweep.num_trials:
            data = scale_fold(features, targets, fold, config.targets, config.scaling).data
            task = config.members[0].task(data, config.training, config.lookback, config.seed)
            trials = stages.sweep(data, task, config.sweep.around(task))
        (folder / "trials.json").write_text(json.dumps([trial.row() for trial in trials]))

    folder = run.stage("sweep", build)
    return [SweepTrial(**row) for row in json.loads((folder / "trials.json").read_text())]


@dataclass(frozen=True, eq=False)
class _FoldForecast:
    """What one refit forecasts on its test bars, out of sample."""

    ensemble: Ensemble
    scaler: FeatureScaler
    fitted: list[FittedMember]
    importance: dict[str, float]
    predictions: Predictions
    others: list[Candidate]


def _forecast_fold(
    run: RunFolder,
    name: str,
    scaled: ScaledFold,
    parameters: dict[str, Any],
    market: Market,
    features: FeaturePanel,
    config: ExperimentConfig,
    stages: Stages,
) -> _FoldForecast:
    """Fit, calibrate and forecast one fold, with its baselines and the control run on shuffled labels."""
    data, lookback = scaled.data, config.lookback
    fitted = _fit(run, name, data, parameters, config, stages)
    models = [part.build() for part in fitted]
    shown = tqdm(models, desc="forecasts", unit="member", disable=None, leave=False)
    forecasts = [forecast_member(model, data, lookback) for model in shown]
    members, own = models[: len(config.members)], forecasts[: len(config.members)]
    ensemble = calibrated(members, own, data)
    inputs = _inputs(config, market, data.targets, data.fold.train, data.fold.test)
    with _bar("baselines", "model", len(BASELINES)) as bar:
        others = run_baselines(inputs, data.features, config.baselines, on_baseline=lambda _: bar.update())
    for part, member, forecast in zip(fitted, members, own, strict=False):
        alone = forecast_test(calibrated([member], [forecast], data), [forecast], data)
        others.append(candidate_from_predictions(f"member_{part.name}", alone, inputs))
    for control, forecast in zip(models[len(members) :], forecasts[len(members) :], strict=True):
        others.append(candidate_from_predictions(CONTROL, forecast_test(Ensemble([control]), [forecast], data), inputs))
    importance = feature_importance(members, ensemble.weights, data.features[:, data.fold.validation.bars], features.names)
    return _FoldForecast(ensemble, scaled.scaler, fitted[: len(members)], importance, forecast_test(ensemble, own, data), others)


def _bar(label: str, unit: str, total: int) -> tqdm:
    return tqdm(total=total, desc=label, unit=unit, disable=None, leave=False)


def _fit(
    run: RunFolder, name: str, data: FoldData, parameters: dict[str, Any], config: ExperimentConfig, stages: Stages
) -> list[FittedMember]:
    """Fit the members, and last the control: the last member again, on shuffled labels."""
    tasks = [member.task(data, config.training, config.lookback, config.seed) for member in config.members]
    tasks = tuned_tasks(tasks, parameters, [member.learning_rate is not None for member in config.members])
    if config.shuffled_label_run:
        tasks.append(replace(tasks[-1], name=CONTROL, shuffle_labels=True))

    def build(folder: Path) -> None:
        for fitted in stages.fit(data, tasks, run.scratch(name)):
            save_fitted(folder / f"{fitted.name}.safetensors", fitted)

    folder = run.stage(name, build)
    return [load_fitted(folder / f"{task.name}.safetensors") for task in tasks]


def _inputs(
    config: ExperimentConfig, market: Market, targets: Targets, train: Span, test: Span, num_trials: int = 1
) -> EvaluationInput:
    return EvaluationInput(
        market.panel,
        targets,
        config.targets,
        (train.start, train.stop),
        (test.start, test.stop),
        config.trading,
        config.backtest,
        config.bootstrap,
        num_trials=num_trials,
    )


def _judge(
    config: ExperimentConfig,
    market: Market,
    targets: Targets,
    folds: list[Fold],
    forecasts: list[_FoldForecast],
    trials: list[SweepTrial],
) -> tuple[Report, pd.DataFrame]:
    """Evaluate the joined test bars of all folds."""
    test = Span(folds[0].test.start, folds[-1].test.stop)
    inputs = _inputs(config, market, targets, folds[0].train, test, max(1, len(trials)))
    predictions = join_predictions([part.predictions for part in forecasts])
    candidates = [candidate_from_predictions("ensemble", predictions, inputs)]
    candidates += join_candidates([part.others for part in forecasts])
    with _bar("evaluation", "candidate", len(candidates)) as bar:
        evaluations = evaluate_all(inputs, candidates, lambda _: bar.update())
    ensemble = evaluations.pop("ensemble")
    assert ensemble.signals is not None
    frame = predictions_frame(inputs.test_panel, predictions, ensemble.signals, config.targets)
    report = Report(
        title=f"{market.panel.num_assets} symbols of {market.name}, {market.panel.timeframe} bars",
        inputs=inputs,
        ensemble=ensemble,
        baselines=evaluations,
        skipped={one.name: one.skipped for one in candidates if one.skipped is not None},
        missing=NOT_YET,
        config=config.model_dump(mode="json"),
        history={part.name: part.history for part in forecasts[-1].fitted},
        importance=forecasts[-1].importance,
        importance_by_category=importance_by_category(forecasts[-1].importance),
        health=market.health.rows(),
        extras=_findings(config, market, inputs, ensemble, evaluations, forecasts[-1].ensemble, trials),
    )
    return report, frame


def _findings(
    config: ExperimentConfig,
    market: Market,
    inputs: EvaluationInput,
    ensemble: Evaluation,
    others: dict[str, Evaluation],
    model: Ensemble,
    trials: list[SweepTrial],
) -> dict[str, dict[str, Any]]:
    tables = {"Ensemble": ensemble_table([member.name for member in config.members], model), "Sweep": sweep_table(trials)}
    if CONTROL in others:
        tables["Control on shuffled labels"] = control_table(inputs, others[CONTROL])
    if market.health.file_errors:
        tables["Not read"] = {error.source: error.message for error in market.health.file_errors}
    if market.synthetic is not None:
        tables["Built-in market"] = ceiling_table(market.synthetic, inputs, ensemble)
    return tables


def _publish(
    out: Path,
    config: ExperimentConfig,
    market: Market,
    features: FeaturePanel,
    forecast: _FoldForecast,
    report: Report,
    predictions: pd.DataFrame,
) -> None:
    """Write the outputs, each in one atomic step; the report comes last."""
    engineer = AdvancedFeatureEngineer(config.features)
    lookbacks = engineer.catalogue().set_index("name")["lookback"]
    bundle = Bundle(
        ensemble=forecast.ensemble,
        symbols=market.panel.symbols,
        timeframe=market.panel.timeframe,
        context_bars=config.lookback,
        feature_names=features.names,
        feature_lookbacks=tuple(int(lookbacks[name]) for name in features.names),
        feature_config=config.features.model_dump(mode="json"),
        scaler=forecast.scaler.to_arrays(),
        target_config=config.targets.model_dump(mode="json"),
        trading_config=config.trading.model_dump(mode="json"),
        metrics=report.ensemble.figures,
        data_fingerprint=market.panel.fingerprint(),
        library_versions={name: version(name) for name in LIBRARIES},
        created_at=report.created.isoformat(timespec="seconds"),
    )
    save_bundle(out / "bundle", bundle)
    with publish_file(out / "predictions.parquet") as path:
        predictions.to_parquet(path, index=False)
    write_report(report, out)
