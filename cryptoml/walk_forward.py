"""One refit of a walk-forward: scale on the training span, fit, calibrate on the validation span, forecast the test span.

Nothing here reads a label or a feature of the test span but to forecast it. Folds share nothing that is written, so an
orchestrator may run them side by side.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cryptoml.config import ExperimentConfig
from cryptoml.data.market import Market
from cryptoml.data.panel import Panel
from cryptoml.data.run_folder import RunFolder
from cryptoml.data.splits import Fold, Span, first_test_bar, walk_forward
from cryptoml.data.stage import read_stage
from cryptoml.errors import ConfigError
from cryptoml.evaluation.baselines import BASELINES, run_baselines
from cryptoml.evaluation.candidates import Candidate, EvaluationInput, candidate_from_predictions
from cryptoml.evaluation.classification import likeliest
from cryptoml.evaluation.control import chance_hits
from cryptoml.evaluation.explanation import asset_graph, temporal_attention
from cryptoml.evaluation.folds import join_predictions
from cryptoml.evaluation.importance import feature_importance
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeatureConfig, FeaturePanel, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import Targets
from cryptoml.models.ensemble import Ensemble, Predictions
from cryptoml.models.forecaster import Forecaster
from cryptoml.models.history import forget, history_bars, young_bars
from cryptoml.training.ablations import ablations
from cryptoml.training.adaptation import AdapterArrays, adapt_through, build_learner
from cryptoml.training.checkpoint import read_tensors, write_tensors
from cryptoml.training.config import EpochEnd
from cryptoml.training.fold import calibrated, forecast_member, forecast_test, scale_fold
from cryptoml.training.member import (
    CONTROL,
    FittedMember,
    FoldData,
    MemberTask,
    fit_member,
    load_fitted,
    save_fitted,
)
from cryptoml.training.member_curves import MemberCurves, OnMemberEpoch, hear_nothing
from cryptoml.training.rehearsal import learn_adapter
from cryptoml.training.renewal import renew
from cryptoml.training.search import Engine, run_here
from cryptoml.training.sweep import tuned_tasks

__all__ = ["FoldForecast", "Refit", "Stages", "Walk", "compute_features", "fit_members", "plan_folds", "progress_bar"]

logger = logging.getLogger(__name__)

CURVES = "tensorboard"
"""Folder of OUT with the members' curves, by fold and member."""
CONTINUAL = "ensemble_continual"
"""Name of the candidate that goes on learning inside the test span."""
META_LEARNING = "ensemble_meta_learning"
"""Name of the candidate that is adapted to the newest bars inside the test span."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def compute_features(panel: Panel, config: FeatureConfig, folder: str = "") -> FeaturePanel:
    """Compute all features of a panel, one symbol after the other; nothing is kept in `folder`."""
    with progress_bar("features", "symbol", panel.num_assets) as bar:
        return build_features(panel, AdvancedFeatureEngineer(config), on_symbol=lambda _: bar.update())


def fit_members(
    data: FoldData, tasks: Sequence[MemberTask], folder: str, on_epoch: OnMemberEpoch = hear_nothing
) -> list[FittedMember]:
    """Fit members one after the other, resuming from checkpoints in `folder` where that is local."""
    keep, fitted = "://" not in folder, list[FittedMember]()
    for task in tasks:

        def after_epoch(end: EpochEnd, name: str = task.name) -> None:
            on_epoch(name, end.epoch, end.metrics)

        place = Path(folder) / task.name if keep else None
        fitted.append(fit_member(data, task, checkpoint_dir=place, on_epoch_end=after_epoch))
    return fitted


def map_plainly(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Do one item after the other."""
    return [function(item) for item in items]


@dataclass(frozen=True)
class Stages:
    """How the heavy stages run: by default plainly, in this process."""

    features: Callable[[Panel, FeatureConfig, str], FeaturePanel] = compute_features
    sweep: Engine = run_here
    fit: Callable[[FoldData, Sequence[MemberTask], str, OnMemberEpoch], list[FittedMember]] = fit_members
    folds: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]] = map_plainly


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


@dataclass(frozen=True, eq=False)
class Refit:
    """The models of one fold, calibrated, and what each forecasts from the validation span on.

    Attributes:
        data: The scaled fold.
        scaler: Fitted on the training span.
        fitted: The members as configured.
        ensembles: One per seed; the first holds the members of `fitted`.
        forecasts: Of each ensemble's members, from the first validation bar to the last test bar.
        others: Further single models by name, with their forecasts: the run on shuffled labels, ablations.
        skipped: Ablation that was not fitted -> why.
    """

    data: FoldData
    scaler: FeatureScaler
    fitted: list[FittedMember]
    ensembles: list[Ensemble]
    forecasts: list[list[Predictions]]
    others: dict[str, tuple[Forecaster, Predictions]]
    skipped: dict[str, str]

    def predictions(self, seed: int = 0) -> Predictions:
        """Return what an ensemble forecasts on the test bars."""
        return forecast_test(self.ensembles[seed], self.forecasts[seed], self.data)


@dataclass(frozen=True, eq=False)
class FoldForecast:
    """What one fold contributes to the evaluation, and its first ensemble.

    Attributes:
        chance_hits: What random functions of the features hit with the control's mix of answers `[draw]`; None without control.
    """

    ensemble: Ensemble
    scaler: FeatureScaler
    adapter: AdapterArrays
    fitted: list[FittedMember]
    importance: dict[str, float]
    attention: dict[str, np.ndarray]
    graph: np.ndarray | None
    predictions: Predictions
    others: list[Candidate]
    chance_hits: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Walk:
    """What all folds of a walk-forward share.

    Attributes:
        parameters: Hyperparameters that a sweep found.
    """

    config: ExperimentConfig
    market: Market
    features: FeaturePanel
    targets: Targets
    run: RunFolder
    stages: Stages
    parameters: dict[str, Any] = field(default_factory=dict)

    def refit(self, fold: Fold) -> Refit:
        """Fit and calibrate the models of one fold."""
        scaled = scale_fold(self.features, self.targets, fold, self.config.targets, self.config.scaling)
        data = scaled.data
        groups = [self._tasks(data, seed) for seed in range(self.config.num_seeds)]
        others, skipped = self._other_tasks(data, groups[0])
        fitted = self._fit(data, [task for group in [*groups, others] for task in group])
        built = {name: member.build() for name, member in fitted.items()}
        shown = tqdm(built.items(), desc="forecasts", unit="member", disable=None, leave=False)
        forecasts = {name: forecast_member(model, data, self.config.lookback) for name, model in shown}
        names = [[task.name for task in group] for group in groups]
        own = [[forecasts[name] for name in group] for group in names]
        members = [[built[name] for name in group] for group in names]
        return Refit(
            data=data,
            scaler=scaled.scaler,
            fitted=[fitted[name] for name in names[0]],
            ensembles=[calibrated(group, forecast, data) for group, forecast in zip(members, own, strict=True)],
            forecasts=own,
            others={task.name: (built[task.name], forecasts[task.name]) for task in others},
            skipped=skipped,
        )

    def forecast(self, fold: Fold) -> FoldForecast:
        """Refit one fold and forecast its test bars, with all that it is compared to."""
        refit = self.refit(fold)
        data, ensemble = refit.data, refit.ensembles[0]
        inputs = self.inputs(data.targets, fold.train, fold.test)
        with progress_bar("baselines", "model", len(BASELINES)) as bar:
            others = run_baselines(inputs, data.features, self.config.baselines, on_baseline=lambda _: bar.update())
        adapter = self.adapter(fold, ensemble, refit.scaler)
        unknown = self.unknown(fold)
        compared = ((name, forget(found, unknown)) for name, found in self._compared(refit, adapter))
        others += [candidate_from_predictions(name, found, inputs) for name, found in compared]
        others += [Candidate(name, skipped=reason) for name, reason in refit.skipped.items()]
        members, bars = ensemble.members, data.features[:, fold.validation.bars]
        names = [part.name for part in refit.fitted]
        return FoldForecast(
            ensemble=ensemble,
            scaler=refit.scaler,
            adapter=adapter,
            fitted=refit.fitted,
            importance=feature_importance(members, ensemble.weights, bars, self.features.names),
            attention=temporal_attention(dict(zip(names, members, strict=True)), bars, self.config.lookback),
            graph=asset_graph(members, ensemble.weights, bars, self.config.lookback),
            predictions=forget(refit.predictions(), unknown),
            others=others,
            chance_hits=self._chance_hits(refit, unknown),
        )

    def last_read(self, fold: Fold) -> int:
        """Return the last bar before the test that training or calibration read, labels included."""
        return max(fold.train.stop, fold.validation.stop) - 1 + self.targets.label_bars

    @cached_property
    def history_bars(self) -> int:
        """Bars of a symbol's history that a live forecast demands."""
        lookbacks = AdvancedFeatureEngineer(self.config.features).catalogue().set_index("name")["lookback"]
        named = (int(lookbacks[name]) for name in self.features.names)
        return history_bars(named, self.config.lookback, self.config.targets.sigma_window_bars)

    def untrained(self, fold: Fold) -> tuple[str, ...]:
        """Return the symbols without a label in the fold's training span."""
        labels = zip(self.market.panel.symbols, self.targets.direction[:, fold.train.bars], strict=True)
        return tuple(symbol for symbol, found in labels if not (found >= 0).any())

    def unknown(self, fold: Fold) -> np.ndarray:
        """Return bool `[asset, test bar]`: where live refuses a symbol that is young or was never trained, no forecast stands.

        Where the data hold less before the test than live demands, all of that is demanded instead, so that a symbol is young
        only beside others. Labels are learned from the first bar on all the same: features that lack history are missing or
        shorter there, as they are told to the model, and nothing is traded on them.
        """
        panel = self.market.panel
        young = young_bars(panel.present, min(self.history_bars, fold.test.start + 1))[:, fold.test.bars]
        return young | np.isin(panel.symbols, self.untrained(fold))[:, None]

    def adapter(self, fold: Fold, ensemble: Ensemble, scaler: FeatureScaler) -> AdapterArrays:
        """Learn to adapt an ensemble to new regimes, from the bars that it knows; nothing where no rehearsal is asked for."""
        config, past = self.config, self.market.panel.slice_time(None, self.last_read(fold) + 1)
        if not config.adaptation.rehearsals:
            return {}

        def build(folder: Path) -> None:
            engineer = AdvancedFeatureEngineer(config.features)
            learned = learn_adapter(ensemble, past, engineer, scaler, config.targets, config.lookback, config.adaptation)
            write_tensors(folder / "adapter.safetensors", {name: torch.from_numpy(one) for name, one in learned.items()}, {})

        def read(folder: Path) -> AdapterArrays:
            return {name: value.numpy() for name, value in read_tensors(folder / "adapter.safetensors")[0].items()}

        return read_stage(self.run, f"adapter_{fold.test.start}", build, read)

    def _compared(self, refit: Refit, adapter: AdapterArrays) -> Iterator[tuple[str, Predictions]]:
        """Forecasts of single members, other seeds, ablations, the control run, with continual steps, and adapted ones."""
        data, ensemble = refit.data, refit.ensembles[0]
        for part, member, forecast in zip(refit.fitted, ensemble.members, refit.forecasts[0], strict=True):
            yield f"member_{part.name}", forecast_test(calibrated([member], [forecast], data), [forecast], data)
        for seed in range(1, self.config.num_seeds):
            yield f"ensemble_seed_{seed}", refit.predictions(seed)
            if self.config.ablations:
                name, member, forecast = refit.fitted[0].name, refit.ensembles[seed].members[0], refit.forecasts[seed][0]
                yield f"member_{name}_seed_{seed}", forecast_test(calibrated([member], [forecast], data), [forecast], data)
        for name, (model, forecast) in refit.others.items():
            alone = Ensemble([model]) if name == CONTROL else calibrated([model], [forecast], data)
            yield name, forecast_test(alone, [forecast], data)
        if self.config.continual_steps:
            yield CONTINUAL, self._continual(refit)
        if adapter:
            yield META_LEARNING, self._adapted(refit, adapter)

    def _chance_hits(self, refit: Refit, unknown: np.ndarray) -> np.ndarray | None:
        """Return what the control's answers on the test span may hit by chance."""
        if CONTROL not in refit.others:
            return None
        data, (model, forecast) = refit.data, refit.others[CONTROL]
        answers = likeliest(forget(forecast_test(Ensemble([model]), [forecast], data), unknown).probabilities)
        labels, seed = data.targets.direction, self.config.bootstrap.seed
        return chance_hits(data.features, labels, data.fold, answers, self.config.lookback, seed=seed)

    def _adapted(self, refit: Refit, adapter: AdapterArrays) -> Predictions:
        """Forecast the test span, adapting to the newest bars every `adaptation.every_bars`."""
        data, settings = refit.data, self.config.adaptation
        validation, test = data.fold.validation, data.fold.test
        targets = data.targets.on_bars(slice(validation.start, test.stop))
        predictions = refit.ensembles[0].combine(refit.forecasts[0], targets.sigma)
        learner = build_learner(data.config, settings, adapter)
        return adapt_through(learner, predictions, targets, data.config, settings, test.start - validation.start)

    def _continual(self, refit: Refit) -> Predictions:
        """Forecast the test span in stretches; before each but the first the ensemble learns the bars that are new by then."""
        data, config, ensemble = refit.data, self.config, refit.ensembles[0]
        fold, label_bars = data.fold, data.targets.label_bars
        old, known, parts = fold.validation, fold.validation.stop, []
        edges = np.linspace(fold.test.start, fold.test.stop, config.continual_steps + 2).astype(int).tolist()
        for start, stop in pairwise(edges):
            new = Span(known, start - label_bars)
            if start > fold.test.start and len(new) > config.lookback:
                ensemble = renew(ensemble, data.features, data.targets, data.config, old=old, new=new, config=config.renewal)
                old, known = Span(old.start, new.stop), new.stop
            first = max(0, start - config.lookback + 1)
            found = ensemble.predict(data.features[:, first:stop], data.targets.sigma[:, first:stop], config.lookback)
            parts.append(found.on_bars(slice(start - first, None)))
        return join_predictions(parts)

    def inputs(self, targets: Targets, train: Span, test: Span) -> EvaluationInput:
        """Return what candidates on the bars of `test` share."""
        config = self.config
        return EvaluationInput(
            self.market.panel,
            targets,
            config.targets,
            (train.start, train.stop),
            (test.start, test.stop),
            config.trading,
            config.backtest,
            config.bootstrap,
        )

    def _tasks(self, data: FoldData, seed: int) -> list[MemberTask]:
        """Return the members' fits; those of a further seed carry it in their names."""
        config = self.config
        tasks = [member.task(data, config.training, config.lookback, config.seed + seed) for member in config.members]
        tasks = tuned_tasks(tasks, self.parameters, [member.learning_rate is not None for member in config.members])
        return [replace(task, name=f"{task.name}_seed_{seed}") for task in tasks] if seed else tasks

    def _fit(self, data: FoldData, tasks: Sequence[MemberTask]) -> dict[str, FittedMember]:
        name = f"fold_{data.fold.test.start}"

        def build(folder: Path) -> None:
            with MemberCurves(self.run.out / CURVES / name) as curves:

                def hear(member: str, epoch: int, row: Mapping[str, float]) -> None:
                    logger.info("member %s: epoch %d, validation loss %.4f", member, epoch, row["val_loss"])
                    curves.add(member, epoch, row)
                    self.run.back_up(CURVES)

                for fitted in self.stages.fit(data, tasks, self.run.scratch(name), hear):
                    save_fitted(folder / f"{fitted.name}.safetensors", fitted)
            self.run.upload(CURVES)

        def read(folder: Path) -> dict[str, FittedMember]:
            return {task.name: load_fitted(folder / f"{task.name}.safetensors") for task in tasks}

        return read_stage(self.run, name, build, read)

    def _other_tasks(self, data: FoldData, tasks: Sequence[MemberTask]) -> tuple[list[MemberTask], dict[str, str]]:
        """Return the ablations of the first member and, last, the control: the last member on shuffled labels.

        Beside them stand the ablations that can show nothing, with the reason.
        """
        others, skipped = ablations(tasks[0], data) if self.config.ablations else ([], {})
        if self.config.shuffled_label_run:
            others.append(replace(tasks[-1], name=CONTROL, shuffle_labels=True))
        return others, skipped


def progress_bar(label: str, unit: str, total: int) -> tqdm:
    """Return a progress bar that shows on a terminal alone."""
    return tqdm(total=total, desc=label, unit=unit, disable=None, leave=False)
