"""A trading bot's view of a model: train it, ask it, adapt it, keep what it remembers."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from cryptoml.data.schema import normalise_symbol, parse_timeframe
from cryptoml.data.validation.timestamps import to_instant
from cryptoml.errors import BundleError, ConfigError, DataError
from cryptoml.live.adaptation import Adaptation
from cryptoml.live.candles import has_symbols, split_symbols, tidy_candles, tidy_frames
from cryptoml.live.prediction import Prediction
from cryptoml.live.readings import Tables, tables_of_readings
from cryptoml.live.session import Session
from cryptoml.live.settings import LiveSettings
from cryptoml.live.state import load_session_state, save_session_state, state_versions
from cryptoml.live.threads import run_in
from cryptoml.live.track_record import direction_accuracy, mean_confidence, realised_sharpe_ratio
from cryptoml.live.workshop import Workshop, usable_device
from cryptoml.training.config import EpochEnd

__all__ = ["UltimateTradingAI"]

LEARNING_RATE = 1e-4
"""The rate of `adapt_to_new_regime` that takes the learned step sizes as they are."""


class UltimateTradingAI:
    """Forecasts, signals, adaptation and memory for a bot inside an event loop, which model work never blocks.

    Model work runs in threads: one that trains or learns, one that adapts, and those of the event loop, which forecast and wait
    for neither. Each forecast takes model and adaptations as they are when it begins, whole. `model_dir` holds the model
    (`bundle`), what `save_state` keeps (`state`), and the log of forecasts and their outcomes, which is written as they happen.

    Args:
        config: Keys of `LiveSettings` and fields of `TradingConfig`; what is not given is left to preset and bundle.
        device: Where the models run, `"cpu"` where None; a `torch.device` will do.
        model_dir: Folder of the model and its state, or of a bundle.

    Raises:
        ConfigError: An unknown setting (the message has the nearest known name), an impossible value, or a device that this
            machine does not have.
    """

    def __init__(
        self, config: Mapping[str, Any] | None = None, device: Any = None, model_dir: str | Path = "models/ultimate"
    ) -> None:
        self.settings = LiveSettings.of(config)
        self._workshop = Workshop(self.settings, usable_device(device), Path(model_dir))
        self._session: Session | None = None
        self._learning = ThreadPoolExecutor(1, "cryptoml-learning")
        self._adapting = ThreadPoolExecutor(1, "cryptoml-adapting")

    async def train_from_historical_data(
        self,
        data: Any,
        symbols: Sequence[str] | None = None,
        epochs: int | None = None,
        optimize_hyperparams: bool = False,
        *,
        on_epoch_end: Callable[[str, EpochEnd], object] | None = None,
    ) -> dict[str, Any]:
        """Train a model by the pipeline, publish it in `model_dir` and go on with it.

        What the bot remembers is kept where the timeframe is the same; adaptations belong to the model that they were learned
        with. Cancelled or interrupted, it ends with the epoch under way, and goes on from there when it is called again with the
        same data and settings.

        Args:
            data: Candles: a frame with a column `symbol`, or of one symbol; a mapping of symbols to frames; a panel; a file,
                a folder of files, or a lake.
            symbols: Such as `["BTC/USDT", "ETH/USDT"]`; all that the data holds where None.
            epochs: At most; the setting `num_epochs`, or the preset's number, where None.
            optimize_hyperparams: Search hyperparameters first, by an inner walk-forward.
            on_epoch_end: Called from the training thread with the member's name and the epoch's figures.

        Returns:
            `train_loss`, `val_loss` and the other figures of the heaviest member, a list each with a number per epoch, and
            `members`, `weights`, `best_parameters`.

        Raises:
            DataError: The candles cannot be used.
            ConfigError: They are too few for the settings, or a setting is impossible.
        """
        stop = threading.Event()

        def work() -> dict[str, Any]:
            session, history = self._workshop.train(
                data,
                _names(symbols),
                epochs=epochs,
                optimize=optimize_hyperparams,
                on_epoch_end=on_epoch_end,
                should_stop=stop.is_set,
            )
            self._go_on_with(session)
            return history

        return await run_in(self._learning, work, stop)

    async def predict(
        self,
        current_data: pd.DataFrame,
        symbol: str,
        onchain: Any = None,
        orderbook: Any = None,
        cross_exchange: Any = None,
        *,
        others: Mapping[str, pd.DataFrame] | None = None,
        tables: Tables | None = None,
        now: Any = None,
        explain: bool = True,
    ) -> dict[str, Any]:
        """Forecast one symbol at its last closed bar and remember its signal.

        Args:
            current_data: The symbol's candles, with a UTC index or time column. The first call needs as many as the model
                reads; later ones may bring the new bars alone.
            symbol: Such as `"BTC/USDT"`.
            onchain: `OnChainMetrics`, known from the close of the last bar, or a history; remembered for later calls.
            orderbook: `{"bids": [[price, size], ...], "asks": ...}` or a history, likewise.
            cross_exchange: Venue -> price or candle history, and `funding`, likewise.
            others: Candles of other symbols that the model knows, for the graph across assets.
            tables: Slower series by table and key, for this call.
            now: Instant of the decision, as a datetime, text or epoch; the newest close where None. With it, old candles are
                stale.
            explain: Fill in `feature_importance` and `temporal_attention`, for about as long as the forecast takes.

        Returns:
            The fields of `Prediction`: `direction`, `regime`, `volatility`, `position_size`, `quantiles`, `signal`,
            `feature_importance` (feature -> weight, largest first), `temporal_attention` (bars ago -> weight), `refusal`, ...

        Raises:
            BundleError: No model is loaded.
            DataError: The candles cannot be read.
        """
        name = normalise_symbol(symbol)
        if not isinstance(others or {}, Mapping):
            raise DataError(f"others must map symbols to candles, was {type(others).__name__}")
        frames = {key: frame for key, frame in (others or {}).items() if normalise_symbol(key) != name} | {name: current_data}
        readings = {"onchain": onchain, "orderbook": orderbook, "cross_exchange": cross_exchange}
        found = await self.predict_all(frames, readings={name: readings}, tables=tables, now=now, explain=explain)
        return found[name]

    async def predict_all(
        self,
        frames: Mapping[str, pd.DataFrame],
        *,
        readings: Mapping[str, Mapping[str, Any]] | None = None,
        tables: Tables | None = None,
        now: Any = None,
        explain: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """Forecast several symbols at once, which is quicker than one by one and shows the model all of them.

        Args:
            frames: Symbol -> candles, as `current_data` of `predict`.
            readings: Symbol -> `onchain`, `orderbook`, `cross_exchange`, as `predict` takes them.
            tables: As for `predict`.
            now: As for `predict`.
            explain: As for `predict`.

        Returns:
            What `predict` returns, by normalised symbol.
        """
        session, instant = self._loaded(), self._instant(now)

        def work() -> dict[str, Prediction]:
            tidy = self._tidy(frames)
            known = {normalise_symbol(name): given for name, given in (readings or {}).items()}
            told = tables_of_readings(tidy, known, session.predictor.timeframe, instant)
            return session.predict(tidy, told, tables or {}, now=instant, explain=explain)

        found = await asyncio.to_thread(work)
        return {symbol: dict(vars(one)) for symbol, one in found.items()}

    def get_trading_signal(self, symbol: str, min_confidence: float | None = None, *, now: Any = None) -> dict[str, Any] | None:
        """Return the signal of the symbol's latest prediction, with the position that all recent decisions add up to.

        None where there is none, and where it says HOLD.

        Args:
            symbol: Such as `"BTC/USDT"`.
            min_confidence: Least calibrated probability of the traded direction, in place of the setting; positions and
                performance go by the setting.
            now: Present instant; a prediction whose bar closed too long before it is stale, and gives None.

        Raises:
            ConfigError: `min_confidence` is no probability.
        """
        if min_confidence is not None:
            _check_share(min_confidence, "min_confidence")
        instant, session = self._instant(now), self._session
        prediction = session.latest.get(normalise_symbol(symbol)) if session is not None else None
        if session is None or prediction is None:
            return None
        signal = session.predictor.signal_of(prediction, min_confidence)
        if signal["action"] == "HOLD":
            return None
        if instant is not None and self._is_stale(prediction, instant):
            return None
        target = session.targets(prediction.timestamp)[prediction.symbol]
        return {**signal, "target_position": target}

    def target_positions(self, drawdown: float = 0.0) -> dict[str, float]:
        """Return the position to hold of every symbol after the decisions at the newest bar, signed fractions of equity.

        What the backtest holds: recent decisions add up as tranches under the limits; a symbol that was not forecast at that
        bar is flat.

        Args:
            drawdown: The account's loss from its highest equity, a fraction, for the drawdown brake.

        Raises:
            BundleError: No model is loaded.
            ConfigError: `drawdown` is no fraction.
        """
        _check_share(drawdown, "drawdown")
        return self._loaded().targets(drawdown=drawdown)

    async def adapt_to_new_regime(
        self,
        recent_data: Any,
        learning_rate: float = LEARNING_RATE,
        *,
        symbol: str | None = None,
        bars: int | None = None,
        regime: str | None = None,
        now: Any = None,
    ) -> Adaptation:
        """Adapt forecasts to the newest bars by MAML, in well under two seconds; the model's weights stay as they are.

        Where held-back bars show no gain, forecasts stay as they were and the result says so. It moves the forecasts of the
        symbols that it was given.

        Args:
            recent_data: Candles of one or several symbols, as `train_from_historical_data` takes them. Bars that were seen
                before need not come again.
            learning_rate: 0.0001 takes the learned step sizes as they are, twice that doubles them, and so on.
            symbol: Whose candles a frame of one symbol holds; found by comparison with candles seen before where None.
            bars: Newest bars to learn from, 10 to 50 are sensible.
            regime: Name to keep it under; the most probable one where None.
            now: As for `predict`: a bar that is not closed by then teaches nothing.

        Raises:
            BundleError: No model is loaded.
            ConfigError: `learning_rate`, `bars` or `regime` is impossible.
            DataError: The candles cannot be used, or nothing says whose they are.
        """
        self._loaded()
        instant = self._instant(now)
        if not isinstance(learning_rate, Real) or not 0 < learning_rate < float("inf"):
            raise ConfigError(f"learning_rate must be a number above 0, was {learning_rate!r}")
        if bars is not None and (not isinstance(bars, Integral) or bars < 1):
            raise ConfigError(f"bars must be a whole number of at least 1, was {bars!r}")
        if regime is not None and not isinstance(regime, str):
            raise ConfigError(f"regime must be text, was {regime!r}")

        def adapted(session: Session) -> Adaptation:
            frames = self._recent(session, recent_data, symbol)
            return session.adapt(frames, learning_rate / LEARNING_RATE, bars=bars, regime=regime, now=instant)

        def work() -> Adaptation:
            session = self._loaded()
            found = adapted(session)
            while session is not self._loaded():  # a new model came meanwhile, which must be adapted itself
                session = self._loaded()
                found = adapted(session)
            return found

        return await run_in(self._adapting, work)

    async def learn_continually(
        self, data: Any, symbols: Sequence[str] | None = None, *, judge_bars: int | None = None
    ) -> dict[str, Any]:
        """Teach the model its newest bars without forgetting the old (elastic weight consolidation and replay).

        The step makes a challenger, which serves from then on only if its loss is lower beyond noise on the newest bars, which
        neither model has seen. Positions and remembered data are kept; adaptations belong to the model that they were learned
        with.

        Args:
            data: All history, as `train_from_historical_data` takes it, with the bars since training.
            symbols: All that the data holds where None.
            judge_bars: Newest bars to judge by; the preset's number where None.

        Returns:
            `method`, `reason`, `promoted`, `drift`, `duel` (losses, interval, forgetting per regime) and `bars`.

        Raises:
            BundleError: No model is loaded.
            DataError: The candles cannot be used, or too few are new.
        """
        self._loaded()

        def work() -> dict[str, Any]:
            session, done = self._workshop.renew(data, _names(symbols), judge_bars)
            if session is not None:
                self._go_on_with(session)
            return done.row()

        return await run_in(self._learning, work)

    def save_state(self) -> Path:
        """Keep positions, adaptations, candles and readings as a new version in `model_dir/state`; return its folder.

        Raises:
            BundleError: No model is loaded, or the folder cannot be written.
        """
        return save_session_state(self._workshop.states, self._loaded())

    def load_state(self) -> None:
        """Load the model of `model_dir` and the newest state there, if any.

        Raises:
            BundleError: There is no model, or model, state or log are damaged; the message names file and field.
        """
        session = self._workshop.open()
        versions = state_versions(self._workshop.states)
        if versions:
            load_session_state(versions[-1], session)
        self._session = session

    def get_performance_report(self) -> dict[str, Any]:
        """Return how the forecasts of this bot came true, over all its runs on `model_dir`.

        Returns:
            `prediction_accuracy` (share of forecasts whose most probable direction came true), `sharpe_ratio` (annualised, of
            its decisions filled at the next open, after costs), `num_predictions`, `avg_confidence`, `active_symbols`,
            `device`, `model_parameters`. None where nothing is known yet.

        Raises:
            BundleError: No model is loaded.
        """
        session = self._loaded()
        with session.at_rest():
            log, trading = session.log, session.predictor.trading
            return {
                "prediction_accuracy": direction_accuracy(log),
                "sharpe_ratio": realised_sharpe_ratio(log, trading),
                "num_predictions": len(log),
                "avg_confidence": mean_confidence(log),
                "active_symbols": len({one.symbol for one in log.forecasts}),
                "device": self._workshop.device,
                "model_parameters": session.predictor.num_parameters,
            }

    def _go_on_with(self, session: Session) -> None:
        present = self._session
        if present is not None and present.predictor.timeframe == session.predictor.timeframe:
            session.take_over(present)
        self._session = session

    def _loaded(self) -> Session:
        if self._session is None:
            raise BundleError("no model is loaded: call load_state or train_from_historical_data first")
        return self._session

    def _tidy(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return tidy_frames(frames, self.settings.assume_timezone)

    def _recent(self, session: Session, data: Any, symbol: str | None) -> dict[str, pd.DataFrame]:
        if isinstance(data, pd.DataFrame) and symbol is None and not has_symbols(data):
            symbol = session.owner_of(tidy_candles(data, "recent data", self.settings.assume_timezone))
        return self._tidy(split_symbols(data, [] if symbol is None else [symbol]))

    def _instant(self, now: Any) -> pd.Timestamp | None:
        return None if now is None else to_instant(now, "now", self.settings.assume_timezone)

    def _is_stale(self, prediction: Prediction, now: pd.Timestamp) -> bool:
        step = parse_timeframe(self._loaded().predictor.timeframe)
        assert prediction.available_at is not None
        return bool((now - prediction.available_at) // step > self.settings.max_age_bars)


def _names(symbols: Sequence[str] | None) -> Sequence[str]:
    return [symbols] if isinstance(symbols, str) else symbols or ()


def _check_share(value: Any, name: str) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ConfigError(f"{name} must be a number from 0 to 1, was {value!r}")
