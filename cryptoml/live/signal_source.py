"""Signals at every bar of a table of candles: what a bot that thinks in data frames asks for."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.validation import check_candles
from cryptoml.evaluation.predictions import quantile_column
from cryptoml.features.targets import REGIMES
from cryptoml.live.intake import panel_of
from cryptoml.live.predictor import Predictor
from cryptoml.models.bundle import Bundle, load_bundle
from cryptoml.models.ensemble import Predictions
from cryptoml.models.registry import Registry
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.positions import holding_bars
from cryptoml.trading.signals import Signals, action_names

__all__ = ["COLUMNS", "BundleSignals", "SignalSource", "open_bundle", "present_candles"]

logger = logging.getLogger(__name__)

COLUMNS = (
    "action",
    "position_size",
    "confidence",
    "stop_loss_pct",
    "take_profit_pct",
    "market_regime",
    "predicted_volatility",
    "expected_edge",
)
"""What every source gives for a bar; named as in `cryptoml.trading.description.describe`."""


class SignalSource(Protocol):
    """Where signals come from: a bundle in this process, or a service."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the model knows."""
        ...

    @property
    def timeframe(self) -> str:
        """Length of a bar."""
        ...

    @property
    def history_bars(self) -> int:
        """Closed bars that the first signal needs."""
        ...

    @property
    def holding_bars(self) -> int:
        """Bars that a decision is held."""
        ...

    def signals(self, symbol: str, frames: Mapping[str, pd.DataFrame], newest: int | None = None) -> pd.DataFrame:
        """Return what is decided at the close of each bar of one symbol, causally.

        Args:
            symbol: One of `frames` and of `symbols`.
            frames: Symbol -> closed candles, with a `timestamp` column (UTC opens). Those of other symbols help.
            newest: Only that many bars at the end are needed; all where None.

        Returns:
            A row per bar with `COLUMNS`, indexed by `timestamp`; bars without a forecast may lack, or are HOLD with NaN.
        """
        ...


class BundleSignals:
    """Signals of a bundle, all bars in one batch; the last batch is kept, since bots ask symbol by symbol.

    It is kept by the content of all candles, so a changed candle anywhere is never answered from an old batch.

    Args:
        bundle: Folder of a bundle, a registry (its champion is taken), or a loaded bundle.
        trading: Settings of the decision; the bundle's own where None.
        device: Where the models run.

    Raises:
        BundleError: There is no bundle, or it is damaged.
    """

    def __init__(self, bundle: str | Path | Bundle, *, trading: TradingConfig | None = None, device: str = "cpu") -> None:
        loaded = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._predictor = Predictor(loaded, trading=trading, device=device)
        self._kept: tuple[tuple[str, int | None], dict[str, pd.DataFrame]] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the model knows."""
        return self._predictor.symbols

    @property
    def timeframe(self) -> str:
        """Length of a bar."""
        return self._predictor.timeframe

    @property
    def history_bars(self) -> int:
        """Closed bars that the first signal needs."""
        return self._predictor.history_bars

    @property
    def holding_bars(self) -> int:
        """Bars that a decision is held."""
        return holding_bars(self._predictor.trading, self._predictor.horizon_bars)

    def signals(self, symbol: str, frames: Mapping[str, pd.DataFrame], newest: int | None = None) -> pd.DataFrame:
        """As `SignalSource.signals` says; beside `COLUMNS` the probabilities `p_down`, `p_sideways`, `p_up` and quantiles
        such as `q10` (log return over the horizon)."""
        checked = {name: present_candles(frame, name, self.timeframe) for name, frame in frames.items() if name in self.symbols}
        checked = {name: frame for name, frame in checked.items() if len(frame)}
        if symbol not in checked:
            return pd.DataFrame(columns=list(COLUMNS), index=pd.DatetimeIndex([], tz="UTC", name="timestamp"))
        panel = panel_of(self.symbols, _beside(checked, symbol), self.timeframe)
        key = (panel.fingerprint(), newest)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._tables(panel, newest))
        return self._kept[1][symbol]

    def _tables(self, panel: Panel, newest: int | None) -> dict[str, pd.DataFrame]:
        predictions, signals = self._predictor.decide_bars(panel, newest)
        stamps = panel.timestamps[panel.num_bars - predictions.volatility.shape[1] :]
        present = panel.present[:, panel.num_bars - len(stamps) :]
        extra = self._forecast_columns(predictions)
        return {
            name: pd.DataFrame({**_decided(signals[row]), **{key: values[row] for key, values in extra.items()}}, index=stamps)[
                present[row]
            ]
            for row, name in enumerate(panel.symbols)
        }

    def _forecast_columns(self, predictions: Predictions) -> dict[str, np.ndarray]:
        levels, position = self._predictor.quantile_levels, self._predictor.primary_position
        names = ("p_down", "p_sideways", "p_up")
        return {
            **{name: predictions.probabilities[..., place] for place, name in enumerate(names)},
            **{quantile_column(level): predictions.quantiles[:, :, position, place] for place, level in enumerate(levels)},
        }


def open_bundle(address: str | Path) -> Bundle:
    """Return the bundle of a folder, or the champion of a registry (a folder or an `s3://` address).

    Raises:
        BundleError: There is none, or it is damaged.
    """
    remote = str(address).startswith("s3://")
    if remote or (Path(address) / "champion.json").is_file():
        return Registry(address).load()
    return load_bundle(address)


def present_candles(frame: pd.DataFrame, symbol: str, timeframe: str) -> pd.DataFrame:
    """Return the candles that can be used: no broken rows, and none that only fill a gap (no volume, one price).

    Raises:
        DataError: The candles cannot be read at all, or are of another timeframe.
    """
    good = check_candles(frame, symbol=symbol, timeframe=timeframe, source="candles").good
    filled = (good["volume"] == 0) & (good["high"] == good["low"]) & (good["open"] == good["close"])
    return good[~filled]


def _beside(frames: Mapping[str, pd.DataFrame], symbol: str) -> dict[str, pd.DataFrame]:
    """Cut every symbol to the bars from the first to the last one of `symbol`; drop those that share none with it."""
    stamps = frames[symbol]["timestamp"]
    cut = {name: frame[frame["timestamp"].between(stamps.iloc[0], stamps.iloc[-1])] for name, frame in frames.items()}
    return {name: frame for name, frame in cut.items() if frame["timestamp"].isin(stamps).any()}


def _decided(signals: Signals) -> dict[str, np.ndarray]:
    regimes = np.array([*REGIMES, "UNKNOWN"])
    columns = {name: getattr(signals, name) for name in COLUMNS}
    return columns | {"action": action_names(signals.action), "market_regime": regimes[signals.market_regime]}
