"""Continual operation: keep the model that serves current.

    newest data -> drift -> challenger (adaptation, continual step or refit, by rule) -> duel with the champion on the newest
      purged bars -> promotion only beyond noise

    known to the champion | bars to learn | gap | bars to judge | bars whose labels are still open

Neither model has read a label of the judging bars, nor one that reaches into them; what the adapter of an adapted champion has
read counts. An adaptation, which lasts for a regime alone, is judged as it is used: made anew again and again along the judging
bars, each time from what was known by then. A challenger whose duel is settled, by a loss or by a rollback, is not made again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.splits import Span
from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.evaluation.drift import Drift, forecast_losses, measure_drift, past_stability, shift_limits
from cryptoml.evaluation.uncertainty import Interval, least_bars, mean_interval
from cryptoml.features.engineer import FeatureConfig, FeaturePanel
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import REGIMES, TargetConfig, Targets, make_targets
from cryptoml.models.bundle import Bundle
from cryptoml.models.ensemble import Predictions
from cryptoml.models.registry import Registry
from cryptoml.training.adaptation import AdaptationConfig, adapt, adapt_through, build_learner, support_set
from cryptoml.training.identity import code_version
from cryptoml.training.renewal import renew
from cryptoml.update_config import UpdateConfig
from cryptoml.update_plan import LEAST_MEASURED, Spans, choose_method, plan_spans

__all__ = ["Duel", "Update", "UpdateConfig", "check_comparable", "update"]

logger = logging.getLogger(__name__)

JUDGED_BY = ("horizons", "primary_horizon", "quantiles", "direction_threshold", "volatility_halflife_bars")
"""Settings of the targets in which models must agree to be compared; what regimes look like may differ."""

ADAPTED_UNTIL = "adapted_until"
"""Among the metrics of an adapted bundle: open of the last bar that its adapter has read; its members know what they knew."""


@dataclass(frozen=True)
class Duel:
    """Challenger against champion on the same bars.

    Attributes:
        champion: Mean loss of the champion.
        challenger: Mean loss of the challenger.
        difference: Challenger minus champion per bar, with its interval; below 0 the challenger is better. Its bounds are NaN
            where too few bars have both losses.
        forgetting: Regime -> (loss before, loss after) on old bars.
    """

    champion: float
    challenger: float
    difference: Interval
    forgetting: dict[str, tuple[float, float]]

    @property
    def won(self) -> bool:
        """Whether the challenger is better beyond noise."""
        return bool(self.difference.high < 0)


@dataclass(frozen=True)
class Update:
    """What one update did.

    Attributes:
        method: `adapt`, `continual` or `refit`; None where there was too little to learn or to judge by, or nothing that was not
            tried before.
        reason: Why that method, or none.
        spans: Which bars did what.
        drift: Of the judging bars; None where there are next to none.
        version: Name of the challenger in the registry, once it is there.
        promoted: Whether it serves now.
        new_symbols: In the data, but not the champion's: a refit alone learns them.
    """

    method: str | None
    reason: str
    spans: Spans
    drift: Drift | None
    new_symbols: tuple[str, ...] = ()
    duel: Duel | None = None
    version: str | None = None
    promoted: bool = False

    def row(self) -> dict[str, Any]:
        """Return plain values for a result file."""
        duel = self.duel and {
            "champion": self.duel.champion,
            "challenger": self.duel.challenger,
            "difference": self.duel.difference.row(),
            "won": self.duel.won,
            "forgetting": {name: {"before": b, "after": a} for name, (b, a) in self.duel.forgetting.items()},
        }
        bars = {name: [span.start, span.stop] for name, span in vars(self.spans).items()}
        drift = self.drift and self.drift.row()
        plain = {"method": self.method, "reason": self.reason, "version": self.version, "promoted": self.promoted}
        return plain | {"new_symbols": list(self.new_symbols), "bars": bars, "drift": drift, "duel": duel}


def update(
    registry: Registry,
    panel: Panel,
    *,
    compute: Callable[[Panel, FeatureConfig], FeaturePanel],
    refit: Callable[[pd.Timestamp], Bundle],
    config: UpdateConfig | None = None,
    refit_settings: str = "",
) -> Update:
    """Bring the registry's champion up to date with `panel`.

    The challenger becomes a version of the registry in any case, and the champion only if it wins its duel. Where the same
    method, champion, data and settings have made one before, that has lost or been rolled back, nothing is made.

    Args:
        registry: Holds the champion.
        panel: All history, the newest bars last; it must hold the champion's symbols.
        compute: Computes features, such as `cryptoml.walk_forward.compute_features`.
        refit: Trains a new bundle that knows nothing from the given instant on.
        config: Rules.
        refit_settings: All that `refit` depends on besides the panel, to tell whether it would make another bundle.

    Raises:
        BundleError: There is no champion, it is damaged, or its features are not those computed.
        ConfigError: The refitted bundle cannot be compared with the champion.
        DataError: The panel lacks a symbol, or holds too few bars.
    """
    config = config or UpdateConfig()
    serving = registry.champion()
    champion = registry.load(serving)
    arena = _Arena.open(champion, panel, compute, config)
    drift = arena.drift(champion) if len(arena.spans.judge) >= LEAST_MEASURED else None
    strangers = tuple(sorted(set(panel.symbols) - set(champion.symbols)))
    method, reason = choose_method(config, arena.spans, drift, arena.targets.label_bars, rehearsed=bool(champion.adapter))
    origin = _origin(method, registry.content(str(serving)), panel, config, refit_settings if method == "refit" else "")
    if method is not None and (settled := registry.settled(origin)) is not None:
        fate = "lost its duel" if settled.kind == "added" else "was rolled back"
        reason = f"{method} would make {settled.version} again, which {fate}: champion, data and settings are the same"
        method = None
    logger.info("%s: %s", method or "no update", reason)
    if method is None:
        return Update(None, reason, arena.spans, drift, strangers)
    if method == "refit":
        challenger = refit(arena.stamps[arena.spans.judge.start])
        check_comparable(
            champion, challenger.symbols, challenger.timeframe, TargetConfig.model_validate(challenger.target_config)
        )
    else:
        challenger = arena.adapted(champion) if method == "adapt" else arena.renewed(champion)
    duel = arena.duel(champion, challenger, anew=method == "adapt")
    if np.isnan(duel.difference.high):
        reason = f"{reason}; fewer than {least_bars(arena.targets.label_bars)} bars have both losses, which tell nothing"
    version = registry.add(challenger, reason=f"{method}: {reason}", origin="" if duel.won else origin)
    if duel.won:
        registry.promote(version, reason=f"loss {duel.challenger:.4f} against {duel.champion:.4f}", origin=origin)
    return Update(method, reason, arena.spans, drift, strangers, duel, version, duel.won)


def _origin(method: str | None, champion: str, panel: Panel, config: UpdateConfig, settings: str) -> str:
    """Return the digest of all that a challenger comes from; `champion` is that of the champion's content."""
    parts = [method, champion, panel.fingerprint(), config.model_dump_json(exclude={"strategy"}), settings, code_version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_comparable(champion: Bundle, symbols: Sequence[str], timeframe: str, targets: TargetConfig) -> None:
    """Refuse what would forecast something else than the champion, so that their losses could not be compared.

    Args:
        champion: The model that serves.
        symbols: Of the other model; more than the champion's are welcome.
        timeframe: Of the other model.
        targets: Of the other model.

    Raises:
        ConfigError: The message names the setting.
    """
    known = TargetConfig.model_validate(champion.target_config)
    pairs = {f"targets.{name}": (getattr(known, name), getattr(targets, name)) for name in JUDGED_BY}
    for name, (mine, other) in ({"timeframe": (champion.timeframe, timeframe)} | pairs).items():
        if mine != other:
            raise ConfigError(
                f"{name} must be the champion's {mine} to be compared with it, was {other}; a new registry takes it"
            )
    absent = sorted(set(champion.symbols) - set(symbols))
    if absent:
        raise ConfigError(f"symbols must include the champion's, lacks {absent[0]}")


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a model reads of all bars, and which rows are the symbols that are judged."""

    features: FeaturePanel
    sigma: np.ndarray
    rows: list[int]


@dataclass(frozen=True, eq=False)
class _Arena:
    """The bars of an update, and the labels of the champion's symbols, by which every model is judged."""

    panel: Panel
    symbols: tuple[str, ...]
    spans: Spans
    targets: Targets
    target_config: TargetConfig
    config: UpdateConfig
    compute: Callable[[Panel, FeatureConfig], FeaturePanel]
    read: dict[str, _Inputs]

    @classmethod
    def open(
        cls, champion: Bundle, panel: Panel, compute: Callable[[Panel, FeatureConfig], FeaturePanel], config: UpdateConfig
    ) -> "_Arena":
        absent = sorted(set(champion.symbols) - set(panel.symbols))
        if absent:
            raise DataError(f"the data must hold the champion's symbols, lacks {absent[0]}")
        if panel.timeframe != champion.timeframe:
            raise DataError(f"timeframe must be the champion's {champion.timeframe}, was {panel.timeframe}")
        if not champion.known_until:
            raise ConfigError("known_until of the champion is unknown: it was made by an older version; train it anew")
        target_config = TargetConfig.model_validate(champion.target_config)
        targets = make_targets(panel.select(champion.symbols), target_config)
        known, adapted = pd.Timestamp(champion.known_until), _adapted_until(champion)
        spans = plan_spans(panel.timestamps, known, targets.label_bars, config, adapted)
        return cls(panel, champion.symbols, spans, targets, target_config, config, compute, {})

    @property
    def stamps(self) -> pd.DatetimeIndex:
        return self.panel.timestamps

    def inputs(self, bundle: Bundle) -> _Inputs:
        """Return what a bundle reads; bundles of the same symbols and features share it.

        Raises:
            BundleError: Its features are not those that are computed.
        """
        key = json.dumps([bundle.symbols, dict(bundle.feature_config)], sort_keys=True, default=str)
        if key not in self.read:
            panel = self.panel.select(bundle.symbols)
            features = self.compute(panel, FeatureConfig.model_validate(bundle.feature_config))
            if features.names != bundle.feature_names:
                raise BundleError(f"feature_names of {bundle.created_at} must be those that this version computes: train it anew")
            sigma = make_targets(panel, self.target_config).sigma
            self.read[key] = _Inputs(features, sigma, [bundle.symbols.index(one) for one in self.symbols])
        return self.read[key]

    def drift(self, champion: Bundle) -> Drift:
        """Compare the newest bars with the last known ones, which the champion is to forecast as it was trained, unadapted."""
        before, after = self.spans.reference, self.spans.judge
        forecasts = [self._forecast(_unadapted(champion), before), self._forecast(champion, after)]
        losses = [self._losses(forecast, span) for forecast, span in zip(forecasts, (before, after), strict=True)]
        answers = [
            (forecast.probabilities, self.targets.direction[:, span.bars])
            for forecast, span in zip(forecasts, (before, after), strict=True)
        ]
        features, label_bars = self.inputs(champion).features, self.targets.label_bars
        values = [features.values[:, span.bars] for span in (before, after)]
        past = past_stability(features.values[:, : before.stop], len(before), len(after), label_bars)
        return measure_drift(
            features.names,
            (values[0], values[1]),
            (losses[0], losses[1]),
            (answers[0], answers[1]),
            limits=shift_limits(past),
            label_bars=label_bars,
        )

    def renewed(self, champion: Bundle) -> Bundle:
        """Return the champion after a continual step on the bars to learn; an adaptation is forgotten."""
        scaled = self._scaled(champion, slice(0, self.spans.learn.stop))
        ensemble = renew(
            replace(champion.ensemble, adapter=None),
            scaled,
            _first_bars(self.targets, self.spans.learn.stop),
            self.target_config,
            old=self.spans.reference,
            new=self.spans.learn,
            config=self.config.renewal,
        )
        last_read = min(self.spans.learn.stop - 1 + self.targets.label_bars, len(self.stamps) - 1)
        return replace(
            champion,
            ensemble=ensemble,
            metrics={name: value for name, value in champion.metrics.items() if name != ADAPTED_UNTIL},
            data_fingerprint=self.panel.fingerprint(),
            known_until=self.stamps[last_read].isoformat(),
            created_at=pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
        )

    def adapted(self, champion: Bundle) -> Bundle:
        """Return the champion adapted to the newest bars; its members, and what they know, stay as they are."""
        config, base = AdaptationConfig.model_validate(champion.adaptation_config), _unadapted(champion)
        seen = Span(max(0, len(self.stamps) - 1 - config.support_bars), len(self.stamps) - 1)
        learner = build_learner(self.target_config, config, champion.adapter)
        targets = self.targets.on_bars(seen.bars)
        support = (self._forecast(base, seen), targets.sigma, targets.log_return)
        x, y = support_set(*support, self.target_config, config.prior_labels)
        adapter, outcome = adapt(learner, x, y, self.target_config, caution=config.caution)
        logger.info("adaptation: %s", outcome.reason)
        created = pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds")
        metrics = {**champion.metrics, ADAPTED_UNTIL: self.stamps[-1].isoformat()}
        return replace(base, ensemble=replace(base.ensemble, adapter=adapter), metrics=metrics, created_at=created)

    def duel(self, champion: Bundle, challenger: Bundle, *, anew: bool = False) -> Duel:
        """Compare on the judging bars, the challenger adapted again and again along them where `anew`."""
        old = [self._judged(one, self.spans.reference) for one in (champion, challenger)]
        new = [self._judged(champion, self.spans.judge)]
        new.append(self._judged_anew(challenger) if anew else self._judged(challenger, self.spans.judge))
        difference = mean_interval(new[1] - new[0], label_bars=self.targets.label_bars, level=self.config.level)
        both = ~np.isnan(new[0]) & ~np.isnan(new[1])
        regime = self.targets.regime[:, self.spans.reference.bars]
        forgetting = {
            name: (float(np.nanmean(old[0][regime == code])), float(np.nanmean(old[1][regime == code])))
            for code, name in enumerate(REGIMES)
            if np.isfinite(old[0][regime == code]).any() and np.isfinite(old[1][regime == code]).any()
        }
        return Duel(float(new[0][both].mean()), float(new[1][both].mean()), difference, forgetting)

    def _judged(self, bundle: Bundle, span: Span) -> np.ndarray:
        return self._losses(self._forecast(bundle, span), span)

    def _judged_anew(self, bundle: Bundle) -> np.ndarray:
        config, span = AdaptationConfig.model_validate(bundle.adaptation_config), self.spans.judge
        wide = Span(max(0, span.start - config.support_bars), span.stop)
        learner = build_learner(self.target_config, config, bundle.adapter)
        base, targets = self._forecast(_unadapted(bundle), wide), self.targets.on_bars(wide.bars)
        moved = adapt_through(learner, base, targets, self.target_config, config, span.start - wide.start)
        return self._losses(moved, span)

    def _losses(self, forecast: Predictions, span: Span) -> np.ndarray:
        return forecast_losses(forecast, self.targets, span.bars, self.target_config)

    def _forecast(self, bundle: Bundle, span: Span) -> Predictions:
        first = max(0, span.start - bundle.context_bars + 1)
        bars = slice(first, span.stop)
        scaled = self._scaled(bundle, bars)
        inputs = self.inputs(bundle)
        forecast = bundle.ensemble.predict(scaled, inputs.sigma[:, bars], bundle.context_bars)
        return forecast.on_bars(slice(span.start - first, None)).of_assets(inputs.rows)

    def _scaled(self, bundle: Bundle, bars: slice) -> np.ndarray:
        return FeatureScaler.from_arrays(bundle.scaler).transform(self.inputs(bundle).features.values[:, bars])


def _adapted_until(bundle: Bundle) -> pd.Timestamp | None:
    """Return the open of the last bar that a bundle's adapter may have read; None without one."""
    if bundle.ensemble.adapter is None:
        return None
    return pd.Timestamp(bundle.metrics.get(ADAPTED_UNTIL, bundle.created_at))


def _unadapted(bundle: Bundle) -> Bundle:
    return replace(bundle, ensemble=replace(bundle.ensemble, adapter=None))


def _first_bars(targets: Targets, stop: int) -> Targets:
    cut: dict[str, Any] = {name: value[:, :stop] for name, value in vars(targets).items() if isinstance(value, np.ndarray)}
    return replace(targets, **cut)
