"""How much to hold: volatility-targeted, scaled by confidence, capped."""

import numpy as np

from cryptoml.trading.config import TradingConfig

__all__ = ["overlap_tranches", "position_size"]

CHANCE = 1 / 3
_ROUNDING = 1e-9  # a running sum leaves dust that would count as a position


def position_size(annual_volatility: np.ndarray, confidence: np.ndarray, config: TradingConfig) -> np.ndarray:
    """Return the fraction of equity to hold, in `[0, max_position]`.

    `base * (target_volatility / predicted volatility) * (confidence / min_confidence)`: equal risk per symbol, and more
    of it the surer the forecast (Moreira & Muir 2017 for the volatility part). Any shape.

    Args:
        annual_volatility: Predicted volatility, annualised fraction; NaN or zero gives 0.
        confidence: Calibrated probability of the traded direction; NaN gives 0.
        config: Base size, cap and target volatility.
    """
    reference = max(config.min_confidence, CHANCE)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = config.position_size * (config.target_volatility / annual_volatility) * (confidence / reference)
    return np.where(np.isfinite(size), np.clip(size, 0, config.max_position), 0.0)


def overlap_tranches(target: np.ndarray, holding_bars: int) -> np.ndarray:
    """Return the position that overlapping tranches add up to, along the last (time) axis.

    Each decision moves 1/holding_bars of the capital and is held for `holding_bars` bars (Jegadeesh & Titman 1993), as
    long as its forecast looks ahead: the position is the mean of the last decisions, and turnover falls with it.
    Causal; a decision before the first bar, or NaN, counts as flat.
    """
    if holding_bars == 1:
        return target
    total = np.cumsum(np.nan_to_num(target), axis=-1, dtype=np.float64)
    held = total.copy()
    held[..., holding_bars:] -= total[..., :-holding_bars]
    return np.where(np.abs(held) < _ROUNDING, 0.0, held) / holding_bars
