"""Out-of-sample forecasts and signals as one table: a row per symbol and decision time."""

import numpy as np
import pandas as pd

from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.features.targets import TargetConfig
from cryptoml.models.ensemble import Predictions
from cryptoml.trading.forecasts import REGIMES
from cryptoml.trading.signals import Signals, action_names

__all__ = ["predictions_frame"]


def predictions_frame(panel: Panel, predictions: Predictions, signals: Signals, config: TargetConfig) -> pd.DataFrame:
    """Return one row per symbol and bar that has a forecast, sorted by symbol and timestamp.

    Args:
        panel: The bars of the forecasts.
        predictions: `[asset, time, ...]` on the same bars.
        signals: Decisions on the same bars.
        config: Horizons and quantile levels.

    Returns:
        Columns `symbol`, `timestamp` (bar open, UTC), `available_at` (the bar's close, when the forecast could be made),
        `horizon_bars`, `p_down`, `p_sideways`, `p_up`, one `qNN` per quantile level (forward log return over the horizon),
        `volatility` (over the horizon), `regime`, `position_size` (fraction of equity of the signal, unsigned),
        `action`, `confidence`, `stop_loss_pct`, `take_profit_pct`.
    """
    asset, bar = np.nonzero(np.isfinite(predictions.probabilities).all(axis=-1) & panel.present)
    probabilities = predictions.probabilities[asset, bar]
    quantiles = predictions.quantiles[asset, bar, config.horizons.index(config.primary_horizon)]
    opens = panel.timestamps[bar]
    columns = {
        "symbol": np.asarray(panel.symbols)[asset],
        "timestamp": opens,
        "available_at": opens + parse_timeframe(panel.timeframe),
        "horizon_bars": np.full(len(asset), config.primary_horizon, dtype=np.int32),
        "p_down": probabilities[:, 0],
        "p_sideways": probabilities[:, 1],
        "p_up": probabilities[:, 2],
        **{quantile_column(level): quantiles[:, index] for index, level in enumerate(config.quantiles)},
        "volatility": predictions.volatility[asset, bar],
        "regime": np.asarray(REGIMES)[predictions.regime[asset, bar].argmax(axis=-1)],
        "position_size": signals.position_size[asset, bar].astype(np.float32),
        "action": action_names(signals.action[asset, bar]),
        "confidence": signals.confidence[asset, bar].astype(np.float32),
        "stop_loss_pct": signals.stop_loss_pct[asset, bar].astype(np.float32),
        "take_profit_pct": signals.take_profit_pct[asset, bar].astype(np.float32),
    }
    return pd.DataFrame(columns).sort_values(["symbol", "timestamp"], ignore_index=True)


def quantile_column(level: float) -> str:
    """Return the column of a quantile level: `q10` for 0.1, `q2.5` for 0.025."""
    return f"q{round(100 * level, 6):g}"
