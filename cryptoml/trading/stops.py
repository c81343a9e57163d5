"""Where to get out: stop loss and take profit from predicted volatility and quantiles."""

import numpy as np

from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts

__all__ = ["stop_distances"]


def stop_distances(forecasts: Forecasts, side: np.ndarray, config: TradingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return `(stop_loss_pct, take_profit_pct)` as fractions of the entry price, any shape.

    The stop lies outside the move that the forecast itself calls ordinary: at the farther of `stop_loss_multiple`
    volatilities and the outermost adverse quantile; the target likewise on the favourable side. NaN where the
    volatility is NaN.

    Args:
        forecasts: One horizon's forecasts.
        side: +1 long, -1 short, 0 none; quantiles are mirrored for a short.
        config: Multiples, fixed overrides and limits.
    """
    adverse, favourable = _outer_moves(forecasts, side)
    stop = _distance(config.stop_loss_multiple * forecasts.volatility, adverse, config.stop_loss_pct)
    take = _distance(config.take_profit_multiple * forecasts.volatility, favourable, config.take_profit_pct)
    return np.clip(stop, config.min_stop_pct, config.max_stop_pct), np.maximum(take, config.min_stop_pct)


def _distance(multiple: np.ndarray, move: np.ndarray, fixed: float | None) -> np.ndarray:
    if fixed is not None:
        return np.where(np.isnan(multiple), np.nan, fixed)
    return np.expm1(np.fmax(multiple, move))


def _outer_moves(forecasts: Forecasts, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the adverse and favourable outer quantiles as positive log moves; NaN where there are none."""
    if len(forecasts.quantile_levels) < 2:
        nothing = np.full(np.shape(forecasts.volatility), np.nan)
        return nothing, nothing
    order = np.argsort(forecasts.quantile_levels)
    low, high = forecasts.quantiles[..., order[0]], forecasts.quantiles[..., order[-1]]
    short = side < 0
    return np.where(short, high, -low), np.where(short, -low, high)
