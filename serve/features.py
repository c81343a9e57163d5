"""The feature deployment: kept bars, the inputs made of them, and the way through members and adapter to an answer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd
from ray.serve.handle import DeploymentHandle

from cryptoml.errors import BundleError
from cryptoml.live.inputs import Question
from cryptoml.live.intake import Intake
from cryptoml.live.prediction import Prediction
from cryptoml.live.predictor import Predictor
from cryptoml.live.wire import KeptStatus, ModelInfo, TakenAnswer, TopFeature
from cryptoml.models.bundle import Bundle
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.positions import holding_bars
from serve.adaptation_store import AdaptationStore, StoredAdaptation
from serve.bar_keeper import SPARE_BARS, BarKeeper
from serve.depth import Depth, Revision, graph_weights, symbol_depth
from serve.explaining import top_features
from serve.forecasting import Forecasting, ServedModel
from serve.kept_bars import BarArrays
from serve.metrics import keep_reporting, observe_batch, set_data_age, set_drift
from serve.model_source import LoadedModels, ModelSource, ModelVersion, watch
from serve.problems import InvalidFieldError, NotFoundError, ServiceError
from serve.settings import AppArgs
from serve.windows import KeptWindow

__all__ = ["Answered", "KeptRequest", "LocalFeatures"]


class KeptRequest(NamedTuple):
    """A question about kept bars.

    Attributes:
        symbols: In the lake's spelling; every kept one where empty.
        as_of: Instant of the decision; the clock where None.
        adaptation: As `Forecasting.answers` takes it.
        explain: Whether to tell what moved the forecasts.
    """

    symbols: tuple[str, ...] = ()
    as_of: datetime | None = None
    adaptation: str | None = None
    explain: bool = False


@dataclass(frozen=True)
class Answered:
    """Forecasts, the model that made them and, where asked for, what moved them by symbol."""

    info: ModelInfo
    predictions: list[Prediction]
    explained: Mapping[str, list[TopFeature]] = field(default_factory=dict)


class LocalFeatures:
    """The feature deployment's plain part; every replica holds all kept bars and sees what the others take.

    Args:
        args: Settings of the application.
        members: Handles of the member deployments.
        adapter: Handle of the adapter deployment.

    Raises:
        BundleError: The model cannot be loaded.
        DataError: The state folder cannot be read.
    """

    def __init__(self, args: AppArgs, members: Sequence[DeploymentHandle], adapter: DeploymentHandle) -> None:
        self._args = args
        self._opened: BarKeeper | None = None
        self._models: LoadedModels[ServedModel] = LoadedModels(ModelSource(args.bundle, args.registry), self._served)
        watch(self._models, args.watch_seconds)
        self._store = AdaptationStore(args.state)
        self._forecasting = Forecasting(members, adapter, self._store)
        self._adapter: Any = adapter
        self._latest: tuple[Any, asyncio.Future[Predictions | None] | None] = (None, None)
        self._strangeness = 0.0
        keep_reporting(self._report)

    async def info(self) -> ModelInfo:
        """Describe the model that serves."""
        return _info(self._models.current)

    async def predict(
        self, frames: Mapping[str, pd.DataFrame], now: datetime, adaptation: str | None = None, explain: bool = False
    ) -> Answered:
        """Forecast every symbol of the caller's candles at its last bar that is closed at `now`.

        Raises:
            DataError: The candles cannot be used at all.
            ServiceError: The adaptation cannot be used.
        """
        model = self._models.current
        question = await asyncio.to_thread(model.predictor.question, frames, now=now)
        predictions = await self._forecasting.forecast(model, question)
        answers = await self._forecasting.answers(model, question, predictions, adaptation)
        return Answered(_info(model), answers, await self._explained(model, question, explain))

    async def predict_kept(self, request: KeptRequest) -> Answered:
        """Forecast from the kept bars; all who ask together for no more than the newest forecast share it.

        Raises:
            ServiceError: A symbol is unknown, no bars are kept of it, or the adaptation cannot be used.
        """
        (found,) = await self._batch([request])
        if isinstance(found, ServiceError):
            raise found
        return found

    async def _batch(self, asked: list[KeptRequest]) -> list[Answered | ServiceError]:
        observe_batch("signals", len(asked))
        model = self._models.current
        groups = {request.as_of: [one for one in asked if one.as_of == request.as_of] for request in asked}
        found: dict[int, Answered | ServiceError] = {}
        for as_of, requests in groups.items():
            now = None if as_of is None else pd.Timestamp(as_of).tz_convert("UTC")
            instant, window = await self._keeper.window(model.version, model.predictor, now)
            shared = None if window is None else await self._shared(model, window)
            for request in requests:
                found[id(request)] = await self._answered(model, request, instant, window, shared)
        return [found[id(request)] for request in asked]

    async def _shared(self, model: ServedModel, window: KeptWindow) -> Predictions | None:
        """Return the forecast of all symbols, which is one array of features wherever the bars and the model are the same."""
        question = window.question
        self._strangeness = window.strangeness
        features, forecast = self._latest
        if forecast is None or features is not question.features or not self._may_share(forecast):
            forecast = asyncio.ensure_future(self._forecasting.forecast(model, question))
            self._latest = (question.features, forecast)
        return await asyncio.shield(forecast)

    def _may_share(self, forecast: asyncio.Future[Predictions | None]) -> bool:
        """Tell whether a forecast of the same bars answers one more request: one under way, or a good one if remembered."""
        if not forecast.done():
            return self._args.batching.max_size > 1
        return self._args.batching.remember and not forecast.cancelled() and forecast.exception() is None

    def _report(self) -> None:
        model = self._models.current
        intake = self._keeper.intake(model.predictor)
        stale = [symbol for symbol in intake.last_open if symbol in intake.refused]
        ages = [pd.Timestamp.now("UTC") - last for last in intake.last_open.values()]
        step = model.predictor.needs.step
        set_data_age(len(ages), len(stale), min(ages).total_seconds() - step.total_seconds() if ages else None)
        set_drift(self._strangeness)

    async def _answered(
        self, model: ServedModel, request: KeptRequest, now: pd.Timestamp, window: KeptWindow | None, shared: Predictions | None
    ) -> Answered | ServiceError:
        try:
            if window is None:
                frames = await self._frames_before(model, request.symbols, now)
                answered = await self.predict(frames, now, request.adaptation, request.explain)
                order = request.symbols or tuple(frames)
                chosen = [one for one in answered.predictions if one.symbol in order]
                return Answered(answered.info, chosen, {name: answered.explained.get(name, []) for name in order})
            question = _about(window.question, _order(model, request.symbols, window.question))
            answers = await self._forecasting.answers(model, question, shared, request.adaptation)
            return Answered(_info(model), answers, await self._explained(model, question, request.explain))
        except ServiceError as error:
            return error

    async def _explained(self, model: ServedModel, question: Question, wanted: bool) -> dict[str, list[TopFeature]]:
        if not wanted:
            return {}
        asked = [symbol for symbol in question.intake.order if symbol in question.intake.usable]
        return await asyncio.to_thread(lambda: {symbol: top_features(model, question, symbol) for symbol in asked})

    async def _frames_before(self, model: ServedModel, symbols: Sequence[str], now: pd.Timestamp) -> dict[str, pd.DataFrame]:
        """Return all kept bars that were closed at `now`."""
        kept = await self._keeper.bars(model.predictor.symbols)
        stop = now.value // 1_000 - self._keeper.kept.step
        cut = {name: BarArrays(bars.stamps[bars.stamps <= stop], bars.values[bars.stamps <= stop]) for name, bars in kept.items()}
        known = {name: bars.frame() for name, bars in cut.items() if len(bars)}
        absent = [name for name in symbols if name not in known]
        if absent or not known:
            raise InvalidFieldError(f"no bars that were closed by then are kept of {', '.join(absent) or 'any symbol'}", "/as_of")
        return known

    async def put(self, symbol: str, bars: BarArrays) -> TakenAnswer:
        """Keep bars of a symbol.

        Raises:
            NotFoundError: The model does not know the symbol.
            ConflictError: They contradict what is kept.
        """
        self._known(symbol)
        return await self._keeper.put(symbol, bars)

    async def drop(self, symbol: str) -> None:
        """Forget the bars of a symbol."""
        self._known(symbol)
        await self._keeper.drop(symbol)

    async def status(self, symbol: str | None = None) -> list[KeptStatus]:
        """Return the state of one symbol's bars, or of all.

        Raises:
            NotFoundError: The model does not know the symbol.
        """
        predictor = self._models.current.predictor
        return await self._keeper.status(predictor.symbols if symbol is None else (self._known(symbol),), predictor.needs)

    async def candles(self, symbol: str, number: int) -> BarArrays:
        """Return the newest kept bars of a symbol."""
        found = await self._keeper.bars((self._known(symbol),))
        return found[symbol].tail(number) if symbol in found else BarArrays.of_frame(_EMPTY)

    async def depth(self, symbol: str) -> Depth:
        """Return one symbol's past regimes and where the members look.

        Raises:
            NotFoundError: The model does not know the symbol.
        """
        return await symbol_depth(self._keeper, self._models.current, self._known(symbol))

    async def graph(self) -> list[list[float | None]] | None:
        """Return the learned graph at the newest bar; None where there is none."""
        return await graph_weights(self._keeper, self._models.current)

    async def revision(self) -> Revision:
        """Return what changes when anything does that a page shows."""
        status = await self.status()
        last = max((one.last_bar for one in status if one.last_bar is not None), default=None)
        text = None if last is None else last.isoformat()
        number = len(await asyncio.to_thread(self._store.all))
        return Revision(self._models.current.version, self._keeper.kept.changes, text, number)

    async def adapt(
        self,
        symbols: tuple[str, ...],
        frames: Mapping[str, pd.DataFrame] | None,
        bars: int | None,
        regime: str | None,
        now: datetime | None,
    ) -> StoredAdaptation:
        """Learn an adaptation from the caller's candles, or from the newest kept bars.

        Raises:
            DataError: The bars cannot teach.
            NotFoundError: The model does not know a symbol.
        """
        model = self._models.current
        for symbol in symbols:
            self._known(symbol)
        if frames is None:
            instant = pd.Timestamp.now("UTC") + model.predictor.needs.step if now is None else pd.Timestamp(now)
            frames = await self._frames_before(model, symbols, instant)
            now = None
        return await self._adapter.adapt.remote(model.key, frames, bars, symbols, regime, now)

    async def adaptations(self) -> list[StoredAdaptation]:
        """Return all adaptations, oldest first."""
        return await asyncio.to_thread(self._store.all, patient=False)

    async def adaptation(self, number: str) -> StoredAdaptation:
        """Return one adaptation; raises NotFoundError."""
        return await asyncio.to_thread(self._store.get, number)

    async def remove_adaptation(self, number: str) -> None:
        """Forget one adaptation; raises NotFoundError."""
        await asyncio.to_thread(self._store.remove, number)

    async def models(self) -> list[ModelVersion]:
        """Return all versions that could be served, oldest first."""
        model = self._models.current
        return await asyncio.to_thread(self._models.source.versions, model.version)

    async def promote(self, version: str, reason: str) -> ModelInfo:
        """Serve another version from now on.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It is damaged, or cannot answer for the bars that are kept; the old one goes on serving.
        """

        def switch() -> None:
            self._models.prepare(version)
            self._models.source.promote(version, reason)
            self._models.follow()

        await asyncio.to_thread(switch)
        return await self.info()

    async def rollback(self, reason: str) -> ModelInfo:
        """Serve the version before this one again; raises ConflictError."""

        def switch() -> None:
            self._models.prepare(self._models.source.previous())
            self._models.source.rollback(reason)
            self._models.follow()

        await asyncio.to_thread(switch)
        return await self.info()

    def _known(self, symbol: str) -> str:
        symbols = self._models.current.predictor.symbols
        if symbol not in symbols:
            raise NotFoundError(
                f"the model does not know the symbol {symbol[:64]!r}; it knows {', '.join(symbols[:20])}", "symbol"
            )
        return symbol

    def _served(self, key: str, bundle: Bundle) -> ServedModel:
        """Return a version, ready to be asked about the kept bars; the first one says of which length they are."""
        predictor = Predictor(bundle, max_age_bars=self._args.max_age_bars)
        if self._opened is None:
            needed = predictor.history_bars + self._args.max_age_bars + SPARE_BARS
            self._opened = BarKeeper(self._args.state, predictor.timeframe, max(self._args.kept_bars or 0, needed))
        kept = self._keeper.kept.timeframe
        if predictor.timeframe != kept:
            raise BundleError(f"version {key} has bars of {predictor.timeframe}, this service keeps bars of {kept}")
        served = ServedModel(key or predictor.version, predictor, bundle, key)
        self._keeper.prepare(served.version, predictor)
        return served

    @property
    def _keeper(self) -> BarKeeper:
        assert self._opened is not None
        return self._opened


_EMPTY = pd.DataFrame({"timestamp": pd.DatetimeIndex([], tz="UTC")})


def _info(model: ServedModel) -> ModelInfo:
    predictor = model.predictor
    return ModelInfo(
        version=model.version,
        timeframe=predictor.timeframe,
        horizon_bars=predictor.horizon_bars,
        history_bars=predictor.history_bars,
        holding_bars=holding_bars(predictor.trading, predictor.horizon_bars),
        max_age_bars=predictor.needs.max_age_bars,
        symbols=list(predictor.symbols),
    )


def _order(model: ServedModel, symbols: tuple[str, ...], question: Question) -> tuple[str, ...]:
    """Return the symbols asked about, every kept one where none was named.

    Raises:
        InvalidFieldError: The model does not know one.
    """
    known = model.predictor.symbols
    for place, symbol in enumerate(symbols):
        if symbol not in known:
            detail = f"the model was never trained on {symbol[:64]!r}; it knows {', '.join(known[:20])}"
            raise InvalidFieldError(detail, f"/symbols/{place}")
    return symbols or tuple(question.intake.last_open)


def _about(question: Question, order: tuple[str, ...]) -> Question:
    intake = Intake(order, question.intake.usable, question.intake.last_open, question.intake.refused)
    return Question(intake, question.timestamps, question.present, question.features, question.sigma)
