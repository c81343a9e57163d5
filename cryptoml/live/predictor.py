"""Forecasts and signals from a bundle at the last closed bar, by the same functions as the pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.validation.timestamps import to_instant
from cryptoml.errors import BundleError, DataError
from cryptoml.features.targets import REGIMES, make_targets
from cryptoml.live.adaptation import Adaptation, finite_or_none
from cryptoml.live.answers import Answers
from cryptoml.live.explanation import explain_last_bar
from cryptoml.live.inputs import ModelInputs, Question
from cryptoml.live.intake import Intake, Requirements, admit, live_panel
from cryptoml.live.prediction import Prediction
from cryptoml.models.adapter import ForecastAdapter
from cryptoml.models.bundle import Bundle, load_bundle
from cryptoml.models.ensemble import Predictions
from cryptoml.models.forecaster import Forecast
from cryptoml.models.history import forget, young_bars
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.signals import Signals, decide
from cryptoml.training.adaptation import AdaptationConfig, Weighted, adapt, build_learner, support_set

__all__ = ["Predictor"]

CHUNK_ORIGINS = 256
"""Bars that are forecast at once when all bars are: every matrix then has one shape, so that sums are rounded alike."""


class Predictor:
    """A loaded bundle that forecasts live candles; safe to call from several threads.

    Features, scaling, ensemble and decision are the pipeline's own functions, so a forecast equals the offline one at
    that bar when the same symbols and tables are given. A symbol that is not given is absent to the graph.

    Args:
        bundle: Folder of a bundle, or a loaded one.
        trading: Settings of the decision; the bundle's own where None.
        max_age_bars: Whole bars that may have closed since a symbol's newest one before it counts as stale.
        device: Where the models run, such as `"cpu"` or `"cuda"`.

    Raises:
        BundleError: The bundle is damaged, or its features are not those that this version computes.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        trading: TradingConfig | None = None,
        max_age_bars: int = 1,
        device: str = "cpu",
    ) -> None:
        self._bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        for member in self._bundle.ensemble.members:
            member.to(device)
        self.inputs = ModelInputs(self._bundle)
        self._targets = self.inputs.targets
        self.trading = trading or TradingConfig.model_validate(self._bundle.trading_config)
        self._answers = Answers(self.symbols, self.timeframe, self._targets, self.trading)
        self._adaptation = AdaptationConfig.model_validate(self._bundle.adaptation_config)
        self._learner = build_learner(self._targets, self._adaptation, self._bundle.adapter)
        self.needs = Requirements(self.symbols, self.timeframe, self.inputs.history_bars, max_age_bars)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols on the model's asset axis, in its order."""
        return self._bundle.symbols

    @property
    def trained(self) -> tuple[str, ...]:
        """Those of `symbols` that the model was trained on; the others are refused."""
        return tuple(one for one in self.symbols if one not in self._bundle.untrained)

    @property
    def timeframe(self) -> str:
        """Length of a bar."""
        return self._bundle.timeframe

    @property
    def horizon_bars(self) -> int:
        """Horizon of direction, volatility and position size."""
        return self._targets.primary_horizon

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Levels of the forecast quantiles."""
        return self._targets.quantiles

    @property
    def primary_position(self) -> int:
        """Place of `horizon_bars` among the horizons of the quantiles."""
        return self._answers.primary_position

    @property
    def history_bars(self) -> int:
        """Closed bars of each symbol that a forecast needs."""
        return self.needs.history_bars

    @property
    def num_parameters(self) -> int:
        """Numbers that the models have learned."""
        return sum(one.numel() for member in self._bundle.ensemble.members for one in member.parameters())

    @property
    def known_until(self) -> pd.Timestamp | None:
        """Open of the last bar that the model learned from, labels included; None where the bundle does not say."""
        return pd.Timestamp(self._bundle.known_until) if self._bundle.known_until else None

    @property
    def version(self) -> str:
        """When the bundle was made and from which data."""
        return f"{self._bundle.created_at}-{self._bundle.data_fingerprint[:8]}"

    def predict(
        self,
        frames: Mapping[str, pd.DataFrame],
        tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
        *,
        now: Any = None,
        adaptations: Sequence[Adaptation] = (),
        explain: bool = False,
    ) -> list[Prediction]:
        """Forecast each symbol at its last closed bar.

        Args:
            frames: Symbol -> candles with a `timestamp` column or index (UTC opens), at least `history_bars` of them.
            tables: Slower series by table and key, as a panel holds them.
            now: Instant of the decision, timezone-aware; the newest close of `frames` where None. A bar that is not closed
                by then is left out.
            adaptations: From `adapt`; each moves the forecasts of its symbols, the last accepted one where several name it.
            explain: Fill in `feature_importance` and `temporal_attention`, for about as long as the forecast takes.

        Returns:
            One prediction per symbol, in the order of `frames`. A symbol that was never trained, or whose candles are too
            few, stale or bad, gets HOLD with the reason.

        Raises:
            DataError: The candles cannot be read at all: a missing column, naive timestamps, bars of the future.
            BundleError: An adaptation was learned with another model.
        """
        chosen = self.chosen(adaptations)
        question = self.question(frames, tables, now=now)
        predictions = None
        if question.intake.usable:
            predictions = self._forecast(question.features, question.sigma)
            predictions = self.moved(predictions, question.sigma[:, -len(question.timestamps) :], chosen)
        found = self.answer(question, predictions, {symbol: one.id for symbol, one in chosen.items()})
        return self._explained(found, question) if explain else found

    def question(
        self,
        frames: Mapping[str, pd.DataFrame],
        tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
        *,
        now: Any = None,
    ) -> Question:
        """Return what the members are asked about these candles; arguments and errors as for `predict`."""
        intake = admit(frames, replace(self.needs, symbols=self.trained), _instant(now))
        if not intake.usable:
            return self.nothing_asked(intake)
        panel, origins = live_panel(intake, self.needs, tables), self.needs.max_age_bars + 1
        features, sigma = self.inputs.of_panel(panel, origins)
        return Question(intake, panel.timestamps[-origins:], panel.present[:, -origins:], features, sigma)

    def nothing_asked(self, intake: Intake) -> Question:
        """Return a question about symbols none of which can be forecast."""
        assets = len(self.symbols)
        features = np.empty((assets, 0, len(self._bundle.feature_names)), np.float32)
        return Question(intake, pd.DatetimeIndex([], tz="UTC"), np.empty((assets, 0), bool), features, features[..., 0])

    def answer(
        self, question: Question, predictions: Predictions | None, moved_by: Mapping[str, str] | None = None
    ) -> list[Prediction]:
        """Return what predictions `[asset, origin, ...]` say of each symbol of a question.

        Args:
            question: From `question`.
            predictions: None where no symbol can be forecast.
            moved_by: Symbol -> id of the adaptation that moved its forecast.
        """
        return self._answers.of(question, predictions, moved_by or {})

    def signal_of(self, prediction: Prediction, min_confidence: float | None = None) -> Mapping[str, Any]:
        """Return the signal of a prediction, decided again where another least confidence than that of the settings counts."""
        if min_confidence is None or prediction.refusal is not None:
            return prediction.signal
        return self._answers.signal_of(prediction, min_confidence)

    def adapt(
        self,
        frames: Mapping[str, pd.DataFrame],
        tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
        *,
        bars: int | None = None,
        symbols: Sequence[str] | None = None,
        regime: str | None = None,
        rate_scale: float = 1.0,
        now: Any = None,
    ) -> Adaptation:
        """Learn from the newest closed bars what the forecasts miss; no weight of the model changes, `predict` applies it.

        The returns within those bars are compared with what was forecast for them. Every fifth of them is held back in
        turn; where the loss there would rise, the adaptation is not accepted and changes nothing. Safe to call while other
        threads predict. Takes well under 2 s on a CPU for 50 bars of ten symbols.

        Args:
            frames: As for `predict`; `history_bars + bars` candles per symbol, with fewer the oldest of `bars` do not count.
            tables: As for `predict`.
            bars: Newest closed bars to learn from, 10 to 50 are sensible; the bundle's own setting (50) where None.
            symbols: Those whose bars teach, and whose forecasts the adaptation moves; all usable ones of `frames` where None.
                More of them teach faster, where they share the regime.
            regime: Name to keep it under; the regime most probable at the newest bar where None.
            rate_scale: Factor on the learned step sizes.
            now: As for `predict`.

        Raises:
            DataError: No symbol can be used, a symbol is not in `frames`, or not one return of the bars is known and forecast.
        """
        bars = self._adaptation.support_bars if bars is None else bars
        if bars < 1:
            raise DataError(f"bars must be at least 1, was {bars}")
        needs = replace(self.needs, more_bars=bars)
        intake = admit(frames, replace(needs, symbols=self.trained), _instant(now))
        taught = intake.chosen(symbols)
        panel = live_panel(intake, needs, tables)
        predictions, x, y = self._observed(panel, bars, taught)
        used = (y[1]["returns"] > 0).any(dim=-1)
        if not used.any():
            raise DataError(f"adapting needs {self.history_bars + bars} candles per symbol, {panel.num_bars} bars were given")
        learner = build_learner(self._targets, self._adaptation, self._bundle.adapter, rate_scale=rate_scale)
        adapter, outcome = adapt(learner, x, y, self._targets, caution=self._adaptation.caution)
        first = panel.num_bars - len(used) + int(used.any(dim=1).int().argmax()) + 1
        return Adaptation(
            model=self.version,
            symbols=taught,
            regime=regime or _most_probable(predictions),
            start=panel.timestamps[first],
            end=panel.timestamps[-1],
            num_bars=panel.num_bars - first,
            num_labels=int((y[1]["returns"] > 0).sum()),
            accepted=outcome.accepted,
            loss_before=finite_or_none(outcome.loss_before),
            loss_after=finite_or_none(outcome.loss_after),
            reason=outcome.reason,
            **adapter.adapted._asdict(),
        )

    def _observed(self, panel: Panel, bars: int, symbols: Sequence[str]) -> tuple[Predictions, Forecast, Weighted]:
        """Return what was forecast at the newest bars and the one before them, and the support set that this makes."""
        rows, origins = [panel.index_of(symbol) for symbol in symbols], min(bars + 1, panel.num_bars)
        predictions = self._forecast(*self.inputs.of_panel(panel, origins))
        self._blank_young(predictions, panel)
        predictions = predictions.of_assets(rows)
        targets = make_targets(panel, self._targets).on_bars(slice(panel.num_bars - origins, None))
        sigma, log_return = targets.sigma[rows], targets.log_return[rows]
        return predictions, *support_set(predictions, sigma, log_return, self._targets, self._adaptation.prior_labels)

    def decide_bars(
        self, panel: Panel, newest: int | None = None, *, adaptations: Sequence[Adaptation] = ()
    ) -> tuple[Predictions, Signals]:
        """Forecast and decide at each of the panel's newest bars, all at once.

        What is decided at a bar does not depend on later ones, to the last bit: the same bars before it give the same
        numbers however many follow.

        Args:
            panel: Candles of `symbols`, in their order.
            newest: How many bars; all of them where None.
            adaptations: As for `predict`.

        Returns:
            Predictions and signals `[asset, newest]`. Bars of a symbol with fewer than `history_bars` bars since its first
            one, and those without inputs, are NaN and HOLD.

        Raises:
            BundleError: The features of the bundle are not those that this version computes, or an adaptation was learned
                with another model.
        """
        origins = min(newest or panel.num_bars, panel.num_bars)
        features, sigma = self.inputs.of_panel(panel, origins, CHUNK_ORIGINS)
        bars = slice(self.inputs.context_bars - 1, self.inputs.context_bars - 1 + origins)
        predictions = self._forecast(features, sigma, CHUNK_ORIGINS).on_bars(slice(origins))
        predictions = self.moved(predictions, sigma[:, bars], self.chosen(adaptations))
        self._blank_young(predictions, panel)
        return predictions, decide(self._answers.decision_input(predictions), self.trading)

    def _blank_young(self, predictions: Predictions, panel: Panel) -> None:
        """Forget the forecasts of a symbol with fewer than `history_bars` bars since its first one, or never trained."""
        unknown = young_bars(panel.present, self.history_bars) | np.isin(panel.symbols, self._bundle.untrained)[:, None]
        forget(predictions, unknown[:, panel.num_bars - predictions.volatility.shape[1] :])

    def chosen(self, adaptations: Sequence[Adaptation]) -> dict[str, Adaptation]:
        """Return which adaptation moves each symbol; those that were not accepted move none.

        Raises:
            BundleError: An adaptation was learned with another model.
        """
        for one in adaptations:
            if one.model != self.version:
                raise BundleError(f"adaptation {one.id} was learned with model {one.model}, this is {self.version}")
        return {symbol: one for one in adaptations if one.accepted for symbol in one.symbols}

    def moved(self, predictions: Predictions, sigma: np.ndarray, chosen: Mapping[str, Adaptation]) -> Predictions:
        """Move the forecasts `[asset, origin, ...]` of the symbols in `chosen`, in place, and return them.

        Args:
            predictions: Of all symbols.
            sigma: `[asset, origin]` volatility per bar known at each.
            chosen: From `chosen`.
        """
        for one in {adaptation.id: adaptation for adaptation in chosen.values()}.values():
            rows = [row for row, symbol in enumerate(self.symbols) if chosen.get(symbol) == one]
            moved = self.adapted(predictions.of_assets(rows), sigma[rows], one)
            for part in fields(predictions):
                getattr(predictions, part.name)[rows] = getattr(moved, part.name)
        return predictions

    def _explained(self, found: Sequence[Prediction], question: Question) -> list[Prediction]:
        """Add to each forecast what it rests on; symbols whose last bars are the same are explained together."""
        told = {one.symbol: one for one in found}
        for origin, stamp in enumerate(question.timestamps):
            these = [one for one in found if one.refusal is None and one.timestamp == stamp]
            window = question.features[:, origin : origin + self.inputs.context_bars]
            rows = [self.symbols.index(one.symbol) for one in these]
            reasons = explain_last_bar(self._bundle.ensemble, window, self._bundle.feature_names, rows) if these else []
            told |= {one.symbol: replace(one, **vars(reason)) for one, reason in zip(these, reasons, strict=True)}
        return list(told.values())

    def adapted(self, predictions: Predictions, sigma: np.ndarray, adaptation: Adaptation) -> Predictions:
        """Return forecasts `[asset, origin, ...]` moved by an adaptation, whichever symbols they are of."""
        base = self._learner.base_model
        assert isinstance(base, ForecastAdapter)
        return base.turned(adaptation.knobs).apply_to(predictions, sigma, self._targets.horizons)

    def _forecast(self, features: np.ndarray, sigma: np.ndarray, chunk_origins: int | None = None) -> Predictions:
        """Return predictions `[asset, origin, ...]` of what `ModelInputs` gave."""
        context = self.inputs.context_bars
        predictions = self._bundle.ensemble.predict(features, sigma, context, chunk_origins=chunk_origins)
        return predictions.on_bars(slice(context - 1, None))


def _instant(now: Any) -> pd.Timestamp | None:
    return None if now is None else to_instant(now, "now")


def _most_probable(predictions: Predictions) -> str:
    """Return the regime with the highest mean probability at the newest bar that has one."""
    known = ~np.isnan(predictions.regime).any(axis=(0, 2))
    newest = predictions.regime[:, np.flatnonzero(known)[-1]] if known.any() else predictions.regime[:, -1]
    return REGIMES[int(np.nan_to_num(newest).mean(axis=0).argmax())]
