"""A freqtrade strategy that trades a bundle or a served model; subclass it in a file of freqtrade's strategies folder.

    from cryptoml.live.freqtrade import CryptomlStrategy

    class Mine(CryptomlStrategy):
        cryptoml_bundle = "runs/mine/bundle"
        can_short = True

cryptoml does not depend on freqtrade: install cryptoml into freqtrade's own environment.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from cryptoml.data.schema import normalise_symbol, parse_timeframe
from cryptoml.errors import ConfigError
from cryptoml.live.endpoint import EndpointSignals
from cryptoml.live.signal_source import BundleSignals, SignalSource

try:
    from freqtrade.strategy import IStrategy, stoploss_from_absolute
except ImportError as error:
    _MISSING: ImportError | None = error
    IStrategy = object
else:
    _MISSING = None

__all__ = ["CryptomlStrategy"]

logger = logging.getLogger(__name__)

CANDLES = ("date", "open", "high", "low", "close", "volume")
PREFIX = "cryptoml_"
STOP, TAKE = f"{PREFIX}stop_loss_pct", f"{PREFIX}take_profit_pct"


class CryptomlStrategy(IStrategy):
    """Trade the signals of a model: in at BUY (SELL where `can_short`), sized and stopped as the signal says.

    Entries fill at the open after the signal's bar. The stake is `position_size` of the account. Out at the opposite
    signal, when no signal of the trade's side was given for `holding_bars`, when there is no forecast, and inside the bar at
    the signal's stop or target. The data frame gets the columns `cryptoml_action`, `cryptoml_confidence`, ... of
    `SignalSource.signals`, all computed causally in one batch. The other symbols that the model knows are read as informative
    pairs where the exchange has them. A running bot computes the newest `holding_bars` rows only.

    Attributes:
        cryptoml_bundle: Folder of a bundle, or a registry whose champion is loaded at the start.
        cryptoml_endpoint: Address of a served model, in place of a bundle.
    """

    INTERFACE_VERSION = 3

    cryptoml_bundle: str | None = None
    cryptoml_endpoint: str | None = None

    stoploss = -0.99
    use_custom_stoploss = True
    use_custom_roi = True
    process_only_new_candles = True

    def __init__(self, config: dict[str, Any]) -> None:
        """Open the source of signals and take timeframe and startup candles from it.

        Raises:
            ImportError: freqtrade is not installed here.
            ConfigError: No source is named, or the configuration asks for another timeframe than the model's.
            BundleError: The bundle is damaged.
        """
        if _MISSING is not None:
            raise ImportError("CryptomlStrategy needs freqtrade; install cryptoml into freqtrade's environment") from _MISSING
        self.cryptoml_source = self.signal_source()
        self.timeframe = self.cryptoml_source.timeframe
        self.startup_candle_count = self.cryptoml_source.history_bars
        if config.get("timeframe") not in (None, self.timeframe):
            raise ConfigError(f"timeframe must be {self.timeframe}, which the model was trained on, was {config['timeframe']}")
        super().__init__(config)

    def signal_source(self) -> SignalSource:
        """Return where signals come from; override it for other decision settings or another source.

        Raises:
            ConfigError: Not exactly one of `cryptoml_bundle` and `cryptoml_endpoint` is set.
        """
        if (self.cryptoml_bundle is None) == (self.cryptoml_endpoint is None):
            raise ConfigError("exactly one of cryptoml_bundle and cryptoml_endpoint must be set in the strategy class")
        if self.cryptoml_endpoint is not None:
            return EndpointSignals(self.cryptoml_endpoint)
        assert self.cryptoml_bundle is not None
        return BundleSignals(self.cryptoml_bundle)

    def informative_pairs(self) -> list[tuple[str, str]]:
        """Ask for the candles of every symbol that the model knows and the exchange trades."""
        return [(pair, self.timeframe) for pair in self._pairs().values()]

    def populate_indicators(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        """Add a `cryptoml_` column for everything that is forecast and decided at each bar."""
        symbol = normalise_symbol(metadata["pair"])
        others = {name: self._informative(pair) for name, pair in self._pairs().items() if name != symbol}
        known = {name: _candles(frame) for name, frame in others.items() if len(frame)} | {symbol: _candles(dataframe)}
        running = self.config["runmode"].value in ("live", "dry_run")
        newest = self.cryptoml_source.holding_bars if running else None
        table = self.cryptoml_source.signals(symbol, known, newest)
        added = dataframe.join(table.add_prefix(PREFIX), on="date")
        return added.fillna({f"{PREFIX}action": "HOLD", f"{PREFIX}position_size": 0.0, f"{PREFIX}market_regime": "UNKNOWN"})

    def populate_entry_trend(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        """Enter long at BUY, short at SELL."""
        sized = dataframe[f"{PREFIX}position_size"] > 0
        dataframe["enter_long"] = (_is(dataframe, "BUY") & sized).astype(int)
        dataframe["enter_short"] = (_is(dataframe, "SELL") & sized & bool(self.can_short)).astype(int)
        return dataframe

    def populate_exit_trend(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        """Leave at the opposite signal, when the last one of the side is `holding_bars` old, and without a forecast."""
        blind = dataframe[f"{PREFIX}confidence"].isna()
        for side, for_it, against in (("long", "BUY", "SELL"), ("short", "SELL", "BUY")):
            held = _is(dataframe, for_it).rolling(self.cryptoml_source.holding_bars, min_periods=1).max() > 0
            dataframe[f"exit_{side}"] = (blind | ~held | _is(dataframe, against)).astype(int)
        return dataframe

    def custom_stake_amount(
        self, pair: str, current_time: datetime, proposed_stake: float, max_stake: float, leverage: float, **kwargs: Any
    ) -> float:
        """Return the signal's share of the account in stake currency."""
        signal = self._signal(pair, current_time)
        if signal is None or self.wallets is None:
            return proposed_stake
        account = self.wallets.get_total_stake_amount()
        return float(min(signal[f"{PREFIX}position_size"] * account / leverage, max_stake))

    def order_filled(self, pair: str, trade: Any, order: Any, current_time: datetime, **kwargs: Any) -> None:
        """Keep the distances of stop and target with the trade, as its signal gave them."""
        signal = self._signal(pair, trade.open_date_utc)
        if order.ft_order_side == trade.entry_side and signal is not None and trade.get_custom_data(STOP) is None:
            for name in (STOP, TAKE):
                if pd.notna(signal[name]):
                    trade.set_custom_data(name, float(signal[name]))

    def custom_stoploss(
        self,
        pair: str,
        trade: Any,
        current_time: datetime,
        current_rate: float,
        current_profit: float,
        after_fill: bool,
        **kwargs: Any,
    ) -> float | None:
        """Set the signal's stop once, when the entry is filled; it stays there."""
        distance = trade.get_custom_data(STOP) if after_fill else None
        if distance is None:
            return None
        stop = trade.open_rate * (1 + distance if trade.is_short else 1 - distance)
        return float(stoploss_from_absolute(stop, current_rate, is_short=trade.is_short, leverage=trade.leverage))

    def custom_roi(self, pair: str, trade: Any, current_time: datetime, **kwargs: Any) -> float | None:
        """Return the profit ratio, fees included, that the trade has at the signal's target."""
        distance = trade.get_custom_data(TAKE)
        if distance is None:
            return None
        return float(trade.calc_profit_ratio(trade.open_rate * (1 - distance if trade.is_short else 1 + distance)))

    def _pairs(self) -> Mapping[str, str]:
        """Return the exchange's pair for each symbol of the model, where it has one."""
        stake = str(self.config["stake_currency"])
        suffix = f"/{stake}:{stake}" if self.config.get("trading_mode") == "futures" else f"/{stake}"
        named = {name: name.removesuffix(stake) + suffix for name in self.cryptoml_source.symbols if name.endswith(stake)}
        return {name: pair for name, pair in named.items() if self.dp is not None and self.dp.market(pair) is not None}

    def _informative(self, pair: str) -> pd.DataFrame:
        return self.dp.get_pair_dataframe(pair, self.timeframe)

    def _signal(self, pair: str, instant: datetime) -> pd.Series | None:
        """Return the row of the last bar that was closed at an instant."""
        dataframe, _ = self.dp.get_analyzed_dataframe(pair, self.timeframe)
        if dataframe.empty:
            return None
        closed = dataframe["date"].searchsorted(pd.Timestamp(instant) - parse_timeframe(self.timeframe), side="right")
        return dataframe.iloc[closed - 1] if closed else None


def _candles(dataframe: pd.DataFrame) -> pd.DataFrame:
    return dataframe[list(CANDLES)].rename(columns={"date": "timestamp"})


def _is(dataframe: pd.DataFrame, action: str) -> pd.Series:
    return dataframe[f"{PREFIX}action"] == action
