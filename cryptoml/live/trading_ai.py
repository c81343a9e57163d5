"""A trading bot's view of a model: asynchronous predictions, the latest signal per symbol."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from cryptoml.data.schema import normalise_symbol
from cryptoml.errors import BundleError, ConfigError
from cryptoml.live.prediction import Prediction
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import load_bundle
from cryptoml.trading.config import TradingConfig

__all__ = ["UltimateTradingAI"]


class UltimateTradingAI:
    """Thin face over `Predictor` for use inside an event loop, which model work never blocks.

    Args:
        config: Settings of the decision (fields of `TradingConfig`) that replace those of the bundle.
        device: Where the models run, `"cpu"` where None; a `torch.device` will do.
        model_dir: Folder of a bundle, or a folder that holds one as `bundle`.

    Raises:
        ConfigError: An unknown setting or an impossible value.
    """

    def __init__(
        self, config: Mapping[str, Any] | None = None, device: Any = None, model_dir: str | Path = "models/ultimate"
    ) -> None:
        self._config = dict(config or {})
        self._device = "cpu" if device is None else str(device)
        self._model_dir = Path(model_dir)
        self._predictor: Predictor | None = None
        self._latest: dict[str, Prediction] = {}
        _trading_config({}, self._config)

    def load_state(self) -> None:
        """Load the bundle of `model_dir`.

        Raises:
            BundleError: It is missing or damaged.
        """
        nested = self._model_dir / "bundle"
        bundle = load_bundle(nested if nested.is_dir() else self._model_dir)
        self._predictor = Predictor(bundle, trading=_trading_config(bundle.trading_config, self._config), device=self._device)
        self._latest.clear()

    async def predict(
        self,
        current_data: pd.DataFrame,
        symbol: str,
        *,
        others: Mapping[str, pd.DataFrame] | None = None,
        tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
        now: Any = None,
    ) -> dict[str, Any]:
        """Forecast one symbol at its last closed bar, in a thread, and keep its signal for `get_trading_signal`.

        Args:
            current_data: The symbol's candles, as `Predictor.predict` takes them.
            symbol: Such as `"BTC/USDT"`.
            others: Candles of other symbols that the model knows, for the graph across assets.
            tables: Slower series by table and key.
            now: Instant of the decision; the newest close where None.

        Returns:
            `symbol, timestamp, available_at, horizon_bars, direction, regime, volatility, position_size, quantiles, signal,
            refusal`, as in `Prediction`.

        Raises:
            BundleError: No model is loaded.
            DataError: The candles cannot be read.
        """
        if self._predictor is None:
            raise BundleError("no model is loaded: call load_state first")
        name = normalise_symbol(symbol)
        frames = {key: frame for key, frame in (others or {}).items() if normalise_symbol(key) != name} | {name: current_data}
        predictions = await asyncio.to_thread(self._predictor.predict, frames, tables, now=now)
        prediction = next(one for one in predictions if one.symbol == name)
        self._latest[name] = prediction
        return dict(vars(prediction))

    def get_trading_signal(self, symbol: str, min_confidence: float | None = None) -> dict[str, Any] | None:
        """Return the signal of the symbol's latest prediction.

        None where there is none, where it says HOLD, and where its confidence is below `min_confidence` (by default the
        one the decision was made with). How old that prediction is, its `available_at` tells.
        """
        prediction = self._latest.get(normalise_symbol(symbol))
        if prediction is None or prediction.signal["action"] == "HOLD":
            return None
        if min_confidence is not None and prediction.signal["confidence"] < min_confidence:
            return None
        return dict(prediction.signal)


def _trading_config(stored: Mapping[str, Any], changes: Mapping[str, Any]) -> TradingConfig:
    try:
        return TradingConfig.model_validate({**stored, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"setting {'.'.join(map(str, first['loc'])) or 'trading'}: {first['msg']}") from None
