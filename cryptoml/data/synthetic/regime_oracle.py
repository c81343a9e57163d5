"""What can be known of the hidden regime of the built-in market by one who knows all else."""

import numpy as np

from cryptoml.data.markov import filter_states, sticky_transitions, student_evidence
from cryptoml.data.synthetic.dynamics import Dynamics, Path

__all__ = ["regime_probabilities"]


def regime_probabilities(dynamics: Dynamics, path: Path) -> np.ndarray:
    """Return P(regime that rules the bar after t | all bars up to t) `[time, regime]`, given all but the regimes.

    The filter knows the equations and every other state (flow, leaders, log volatility), which a trader must estimate. The
    shocks, a sum of two Student-t ones, count as one of the same degrees of freedom; that costs it next to nothing.
    """
    config = dynamics.config
    usual = dynamics.base_volatility * np.exp(path.log_volatility[:-1])
    returns = np.stack([path.log_return(asset)[1:] for asset in range(config.num_assets)], axis=1)
    seen = (returns + path.deviation[:-1] / config.reversion_bars) / usual
    planted = config.flow_strength * path.flow[:-1] + config.lead_lag_strength * dynamics.lead_lag(path.trail[:-1])
    factor, drift = np.asarray(config.regime_volatility), np.asarray(config.regime_drift)
    shocks = seen[:, None] / factor[:, None] - drift[:, None] - planted[:, None]
    common = np.full((config.num_assets, config.num_assets), config.market_share)
    precision = np.linalg.inv(common + (1 - config.market_share) * np.eye(config.num_assets))
    distance = np.einsum("tki,ij,tkj->tk", shocks, precision, shocks)
    evidence = student_evidence(distance, factor, config.tail_degrees, config.num_assets)
    transitions = sticky_transitions(config.regime_duration_bars)
    nothing = np.zeros((1, len(factor)))  # of the first bar
    return filter_states(np.concatenate([nothing, evidence]), transitions) @ transitions
