"""What is planted in the built-in market, and how it moves from bar to bar.

The log-return of asset i from the close of bar t to the close of bar t + 1 is `sigma_it * z_i,t+1` with

    z_i,t+1 = drift[regime_t]                                    hidden, the same for all assets
            + flow_strength * f_it                               planted, observable in the candles of i
            + lead_lag_strength * sum_j w_ij * e_jt              planted, observable in the closes of the leaders j
            - (log price_it - log start_i) / (reversion_bars * sigma_it)
            + sqrt(market_share) * m_t+1 + sqrt(1 - market_share) * eps_i,t+1

    sigma_it = base_i * exp(h_it) * factor[regime_t]             h: AR(1), stochastic volatility
    f_it = phi * f_i,t-1 + sqrt(1 - phi^2) * eta_it              unit variance; taker_buy_volume / volume = 1/2 + flow_share * f
    e_jt = d * e_j,t-1 + sqrt(1 - d^2) * z_jt                    trailing exponentially weighted return of the leader in sigmas

`m` and `eps` are Student-t of unit variance, all else is normal. The regime is a market-wide Markov chain over BULL, BEAR,
RANGING and HIGH_VOL with geometric durations, each change going to any of the other three alike. Leaders have no leaders
of their own, so the graph has no cycles. Every quantity with index t is known to the oracle at the close of bar t.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from cryptoml.data.synthetic.config import MarketConfig

__all__ = ["REGIMES", "Dynamics", "Path", "draw_graph", "make_dynamics", "simulate"]

REGIMES = ("BULL", "BEAR", "RANGING", "HIGH_VOL")
WARM_UP_BARS = 200


@dataclass(frozen=True)
class Dynamics:
    """Parameters of the equations above, with arrays over assets.

    Attributes:
        config: Settings that the rest was derived from.
        base_volatility: float64 `[asset]`.
        leaders: int `[asset, 2]`, first and second leader; the asset itself with weight 0 where there is none.
        weights: float64 `[asset, 2]`, squares summing to 1 for followers and to 0 for leaders.
        flow_decay, volatility_decay, trail_decay: AR(1) coefficients phi, of h, and d.
    """

    config: MarketConfig
    base_volatility: np.ndarray
    leaders: np.ndarray
    weights: np.ndarray
    flow_decay: float
    volatility_decay: float
    trail_decay: float

    @property
    def adjacency(self) -> np.ndarray:
        """Bool `[asset, asset]`: `adjacency[i, j]` says that j leads i."""
        matrix = np.zeros((len(self.leaders), len(self.leaders)), dtype=bool)
        rows, ranks = np.nonzero(self.weights)
        matrix[rows, self.leaders[rows, ranks]] = True
        return matrix

    def lead_lag(self, trail: np.ndarray) -> np.ndarray:
        """Weight the leaders' trailing returns: `[..., asset]` to `[..., asset]`."""
        first, second = self.leaders.T
        return trail[..., first] * self.weights[:, 0] + trail[..., second] * self.weights[:, 1]

    def volatility(self, log_volatility: np.ndarray, regimes: np.ndarray) -> np.ndarray:
        """Return sigma `[..., asset]` from h `[..., asset]` and the regime `[...]`."""
        factor = np.asarray(self.config.regime_volatility, dtype=log_volatility.dtype)[regimes]
        return self.base_volatility * np.exp(log_volatility) * factor[..., None]

    def mean(
        self, flow: np.ndarray, trail: np.ndarray, deviation: np.ndarray, volatility: np.ndarray, regimes: np.ndarray
    ) -> np.ndarray:
        """Return the expected z of the next bar: `[..., asset]` for states `[..., asset]` and regimes `[...]`."""
        drift = np.asarray(self.config.regime_drift, dtype=flow.dtype)[regimes]
        planted = self.config.flow_strength * flow + self.config.lead_lag_strength * self.lead_lag(trail)
        return drift[..., None] + planted - deviation / (self.config.reversion_bars * volatility)

    def next_trail(self, trail: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Update the trailing return in sigmas with the bar that just closed."""
        return self.trail_decay * trail + (1 - self.trail_decay**2) ** 0.5 * z

    def next_regimes(self, rng: np.random.Generator, regimes: np.ndarray) -> np.ndarray:
        """Draw the regime of the next bar for each entry of an int array."""
        leaving = 1 / np.asarray(self.config.regime_duration_bars)
        leaves = rng.random(regimes.shape, dtype=np.float32) < leaving[regimes]
        jumps = rng.integers(1, len(REGIMES), regimes.shape, dtype=np.int8)
        return np.where(leaves, (regimes + jumps) % len(REGIMES), regimes)


@dataclass(frozen=True)
class Path:
    """One simulated history: true states at the close of each bar, `[time, asset]` (regimes int8 `[time]`).

    `z[t]` and `past_volatility[t]` belong to the bar that closes at t; the other states, which the equations of the
    module name, rule the bar after it. `deviation` is log price minus log start.
    """

    regimes: np.ndarray
    flow: np.ndarray
    log_volatility: np.ndarray
    trail: np.ndarray
    deviation: np.ndarray
    z: np.ndarray
    past_volatility: np.ndarray

    def log_return(self, asset: int) -> np.ndarray:
        """Return the close-to-close log-return of each bar of one asset `[time]`."""
        return self.z[:, asset] * self.past_volatility[:, asset]


def make_dynamics(config: MarketConfig, rng: np.random.Generator) -> Dynamics:
    """Draw the graph and the assets' own parameters."""
    leaders, weights = draw_graph(config, rng)
    base = config.base_volatility * np.exp(rng.uniform(-0.25, 0.25, config.num_assets))
    decays = [
        0.5 ** (1 / half_life)
        for half_life in (config.flow_half_life_bars, config.log_volatility_half_life_bars, config.lead_lag_half_life_bars)
    ]
    return Dynamics(config, base, leaders, weights, *decays)


def draw_graph(config: MarketConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return leaders int `[asset, 2]` and weights `[asset, 2]`: the first assets lead, each other has one or two of them."""
    num_assets = config.num_assets
    num_leaders = max(1, round(config.leader_fraction * num_assets))
    leaders = np.tile(np.arange(num_assets)[:, None], 2)
    weights = np.zeros((num_assets, 2))
    for asset in range(num_leaders, num_assets):
        chosen = rng.permutation(num_leaders)[: rng.integers(1, 3)]
        leaders[asset, : len(chosen)] = chosen
        weights[asset, : len(chosen)] = (0.8, 0.6) if len(chosen) == 2 else (1.0,)
    return leaders, weights


def simulate(dynamics: Dynamics, rng: np.random.Generator) -> Path:
    """Simulate one history, started from the states' long-run distribution by a warm-up that is thrown away."""
    config = dynamics.config
    shape = (config.num_bars + WARM_UP_BARS, config.num_assets)
    flow = _autoregression(rng, shape, dynamics.flow_decay)
    log_volatility = config.log_volatility_std * _autoregression(rng, shape, dynamics.volatility_decay)
    regimes = _regime_path(dynamics, rng, shape[0])
    noise = _noise(config, rng, shape)
    volatility = dynamics.volatility(log_volatility, regimes)
    z, trail, deviation = _feed_back(dynamics, flow, volatility, regimes, noise)
    past = np.vstack([volatility[:1], volatility[:-1]])
    kept = slice(WARM_UP_BARS, None)
    return Path(regimes[kept], flow[kept], log_volatility[kept], trail[kept], deviation[kept], z[kept], past[kept])


def _feed_back(
    dynamics: Dynamics, flow: np.ndarray, volatility: np.ndarray, regimes: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk through time for what depends on past returns: z, trailing returns and log-price deviation, each `[time, asset]`."""
    z, trail, deviation = np.zeros_like(noise), np.zeros_like(noise), np.zeros_like(noise)
    for now in range(len(noise) - 1):
        mean = dynamics.mean(flow[now], trail[now], deviation[now], volatility[now], regimes[now])
        z[now + 1] = mean + noise[now + 1]
        trail[now + 1] = dynamics.next_trail(trail[now], z[now + 1])
        deviation[now + 1] = deviation[now] + volatility[now] * z[now + 1]
    return z, trail, deviation


def _autoregression(rng: np.random.Generator, shape: tuple[int, int], decay: float) -> np.ndarray:
    """Draw stationary AR(1) series of unit variance `[time, asset]`."""
    shocks = rng.standard_normal(shape)
    shocks[1:] *= (1 - decay**2) ** 0.5
    return lfilter([1.0], [1.0, -decay], shocks, axis=0)


def _regime_path(dynamics: Dynamics, rng: np.random.Generator, num_bars: int) -> np.ndarray:
    duration = np.asarray(dynamics.config.regime_duration_bars)
    regimes = np.empty(num_bars, dtype=np.int8)
    current = int(rng.choice(len(REGIMES), p=duration / duration.sum()))
    bar = 0
    while bar < num_bars:
        length = int(rng.geometric(1 / duration[current]))
        regimes[bar : bar + length] = current
        bar += length
        current = (current + int(rng.integers(1, len(REGIMES)))) % len(REGIMES)
    return regimes


def _noise(config: MarketConfig, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    scale = ((config.tail_degrees - 2) / config.tail_degrees) ** 0.5
    market = rng.standard_t(config.tail_degrees, (shape[0], 1))
    own = rng.standard_t(config.tail_degrees, shape)
    return scale * (config.market_share**0.5 * market + (1 - config.market_share) ** 0.5 * own)
