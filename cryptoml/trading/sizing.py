"""How much to hold: volatility-targeted, scaled by confidence, capped."""

import numpy as np

from cryptoml.trading.config import TradingConfig

__all__ = ["position_size"]

CHANCE = 1 / 3


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
