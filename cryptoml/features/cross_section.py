"""Cross-sectional features: each asset against the market, the leader and its peers.

The lookback and the rule for gaps apply to the asset itself. Peers that miss a bar drop out of that bar's averages and
ranks. All values `[asset, time]`.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryptoml.features.contract import days, feature, hours
from cryptoml.features.market import Market
from cryptoml.features.rolling import (
    decay_of_halflife,
    delay,
    ema,
    ema_window,
    rolling_comoment,
    rolling_mean,
    rolling_moments,
    rolling_std,
    rolling_sum,
    safe_ratio,
)

__all__: list[str] = []

FloatArray = NDArray[np.float64]
JEGADEESH = "Jegadeesh & Titman 1993"
SHARPE = "Sharpe 1964"
MOSKOWITZ = "Moskowitz, Ooi & Pedersen 2012"
LO = "Lo & MacKinlay 1990, lead-lag effects"
LEAD_SPANS = (hours(4), hours(16), hours(48))
LEAD_HALFLIFE = hours(16)
NUM_PEERS = 16
LEAD_EVIDENCE = 3.0  # standard errors


def _rank(values: FloatArray) -> FloatArray:
    """Return the rank among the assets that have a value, from -0.5 to 0.5; 0 for one alone."""
    rank = pd.DataFrame(values).rank(axis=0).to_numpy()
    count = np.broadcast_to(np.isfinite(rank).sum(axis=0), rank.shape)
    return safe_ratio(rank - 1.0, count - 1.0, 0.5) - 0.5 + 0.0 * rank


def _deviation(values: FloatArray) -> FloatArray:
    """Return the deviation from the assets' mean in standard deviations over assets; 0 where all agree."""
    seen = np.isfinite(values)
    centred = values - Market.mean(values)
    spread = np.sqrt(Market.mean(np.where(seen, centred, np.nan) ** 2))
    noise = 1e-13 * (1.0 + Market.mean(np.abs(values)))
    return np.where(spread > noise, safe_ratio(centred, np.broadcast_to(spread, values.shape), 0.0), 0.0 * centred)


def _return(market: Market, n: int) -> FloatArray:
    return market.memo(("return", n), lambda: rolling_sum(market.log_return, n))


def _log_volatility(market: Market, n: int) -> FloatArray:
    volatility = market.memo(("volatility", n), lambda: rolling_std(market.log_return, n))
    return np.where(volatility > 0, np.log(np.where(volatility > 0, volatility, 1.0)), np.nan)


def _turnover(market: Market, n: int) -> FloatArray:
    gaps = np.where(market.present, market.columns["close"] * market.columns["volume"], np.nan)
    return market.memo(("turnover", n), lambda: rolling_sum(gaps, n))


def _relative_volume(market: Market, n: int, m: int) -> FloatArray:
    return np.log(safe_ratio(_turnover(market, n) * m, _turnover(market, m) * n))


@feature("cross_section", lookback=lambda n: n + 1, params=(hours(1), days(1), days(7)), source=JEGADEESH)
def rank_return(market: Market, n: int) -> FloatArray:
    """Rank over assets of the log return of n bars, -0.5 to 0.5"""
    return _rank(_return(market, n))


@feature("cross_section", lookback=lambda n: n + 1, params=(hours(1), hours(4), days(1), days(7)), source=JEGADEESH)
def deviation_return(market: Market, n: int) -> FloatArray:
    """z-score over assets of the log return of n bars"""
    return _deviation(_return(market, n))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(1, at_least=2), days(7, at_least=2)), source="Ang et al. 2006")
def rank_volatility(market: Market, n: int) -> FloatArray:
    """Rank over assets of the volatility of n bars, -0.5 to 0.5"""
    return _rank(_log_volatility(market, n))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(1, at_least=2),), source="Ang et al. 2006")
def deviation_volatility(market: Market, n: int) -> FloatArray:
    """z-score over assets of the log volatility of n bars"""
    return _deviation(_log_volatility(market, n))


@feature("cross_section", lookback=lambda n: n, params=(days(1),), inputs=("close", "volume"), source="Gervais et al. 2001")
def rank_turnover(market: Market, n: int) -> FloatArray:
    """Rank over assets of the turnover of n bars, -0.5 to 0.5"""
    return _rank(_turnover(market, n))


@feature(
    "cross_section",
    lookback=lambda n, m: m,
    params=((days(1), days(7)),),
    inputs=("close", "volume"),
    source="Gervais et al. 2001",
)
def deviation_volume(market: Market, n: int, m: int) -> FloatArray:
    """z-score over assets of ln(mean turnover of n bars / of m bars)"""
    return _deviation(_relative_volume(market, n, m))


def _squares(market: Market, n: int) -> FloatArray:
    return market.memo(("squares", n), lambda: rolling_moments(market.log_return, n)[1])


def _comoment(market: Market, reference: FloatArray, name: str, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    return market.memo(("comoment", name, n), lambda: _moments(market, reference, n))


def _moments(market: Market, reference: FloatArray, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `[asset, time]`, `[time]`, `[asset, time]`: squares of the asset, of the reference, and products over n bars."""
    return _squares(market, n), rolling_moments(reference, n)[1], rolling_comoment(market.log_return, reference, n)


def _beta(moments: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    return safe_ratio(moments[2], moments[1])


def _correlation(moments: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    return safe_ratio(moments[2], np.sqrt(moments[0]) * np.sqrt(moments[1]))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(5), days(20)), source=SHARPE)
def beta_market(market: Market, n: int) -> FloatArray:
    """cov_n(r, market) / var_n(market), market the equally weighted mean return"""
    return _beta(_comoment(market, market.market_return, "market", n))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(5), days(20)), source=SHARPE)
def correlation_market(market: Market, n: int) -> FloatArray:
    """corr_n(r, market)"""
    return _correlation(_comoment(market, market.market_return, "market", n))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(5), days(20)), source=SHARPE)
def beta_leader(market: Market, n: int) -> FloatArray:
    """cov_n(r, leader) / var_n(leader), leader bitcoin or else the first symbol by name"""
    return _beta(_comoment(market, market.leader_return, "leader", n))


@feature("cross_section", lookback=lambda n: n + 1, params=(days(5), days(20)), source=SHARPE)
def correlation_leader(market: Market, n: int) -> FloatArray:
    """corr_n(r, leader)"""
    return _correlation(_comoment(market, market.leader_return, "leader", n))


@feature("cross_section", lookback=lambda n, m: m + 1, params=((days(1), days(5)),), source="Blitz, Huij & Martens 2011")
def residual_return(market: Market, n: int, m: int) -> FloatArray:
    """(sum_n r - beta_m sum_n market) / (std_m(r) sqrt(n))"""
    moments = _comoment(market, market.market_return, "market", m)
    left = _return(market, n) - _beta(moments) * rolling_sum(market.market_return, n)
    return safe_ratio(left, np.sqrt(moments[0] / max(m - 1, 1) * n), 0.0)


def _trailing(returns: FloatArray, halflife: int) -> FloatArray:
    """Exponential mean of returns over the root of their exponential mean square, scaled to unit variance for noise."""
    decay = decay_of_halflife(halflife)
    scale = np.sqrt(ema(returns**2, decay) * (1.0 - decay) / (1.0 + decay))
    return safe_ratio(ema(returns, decay), scale, 0.0)


def _own_trailing(market: Market, halflife: int) -> FloatArray:
    return market.memo(("trailing", halflife), lambda: _trailing(market.log_return, halflife))


def _lead_window(halflife: int) -> int:
    return ema_window(decay_of_halflife(halflife)) + 1


@feature("cross_section", lookback=_lead_window, params=LEAD_SPANS, source=LO)
def trailing_return(market: Market, halflife: int) -> FloatArray:
    """Exponential mean of own log returns in standard errors, by half-life"""
    return _own_trailing(market, halflife)


@feature("cross_section", lookback=_lead_window, params=LEAD_SPANS, source=LO)
def market_lead(market: Market, halflife: int) -> FloatArray:
    """Exponential mean of the market's log returns in standard errors, by half-life"""
    return np.broadcast_to(_trailing(market.market_return, halflife), market.present.shape)


@feature("cross_section", lookback=_lead_window, params=LEAD_SPANS, source=LO)
def leader_lead(market: Market, halflife: int) -> FloatArray:
    """Exponential mean of the leader's log returns in standard errors, by half-life"""
    return np.broadcast_to(_own_trailing(market, halflife)[market.leader], market.present.shape)


@feature("cross_section", lookback=_lead_window, params=(LEAD_SPANS[1],), source=LO)
def leader_gap(market: Market, halflife: int) -> FloatArray:
    """Leader's trailing return minus one's own, in standard errors"""
    own = _own_trailing(market, halflife)
    return own[market.leader] - own


@feature(
    "cross_section",
    lookback=lambda h, n: _lead_window(h) + n,
    params=((LEAD_HALFLIFE, days(60)),),
    inputs=("close", "volume"),
    source=LO,
)
def peer_lead(market: Market, halflife: int, n: int) -> FloatArray:
    """sum over peers j of c_j x_j: x_j the peer's trailing return, c_j = corr_n(r_t, x_j at t-1) where |c_j| > 3 / sqrt(n)

    Peers are, bar by bar, the 16 assets of the largest turnover of n bars, ties included, without the asset itself; one
    whose own window has gaps is none.
    """
    trailing = _own_trailing(market, halflife)
    place = pd.DataFrame(-_turnover(market, n)).rank(axis=0, method="min").to_numpy()
    total = np.zeros(trailing.shape)
    for peer in np.flatnonzero((place <= NUM_PEERS).any(axis=1)):
        strength = _correlation(_moments(market, delay(trailing[peer], 1), n))
        usable = (np.abs(strength) > LEAD_EVIDENCE / np.sqrt(n)) & np.isfinite(trailing[peer]) & (place[peer] <= NUM_PEERS)
        usable[peer] = False
        total += np.where(usable, strength * np.nan_to_num(trailing[peer]), 0.0)
    return total


@feature("cross_section", lookback=lambda n: n + 1, params=(days(1),), source="Zweig 1986")
def breadth(market: Market, n: int) -> FloatArray:
    """Mean over assets of the sign of the log return of n bars"""
    return np.broadcast_to(Market.mean(np.sign(_return(market, n))), market.present.shape)


@feature("cross_section", lookback=lambda n: n + 1, params=(1,), source=SHARPE)
def market_return(market: Market, n: int) -> FloatArray:
    """Mean over assets of the log return of a bar, summed over n bars"""
    return np.broadcast_to(rolling_sum(market.market_return, n), market.present.shape)


@feature(
    "cross_section",
    lookback=lambda n, m: m,
    params=((1, days(80)), (days(1), days(80)), (days(5), days(80))),
    inputs=("high", "low"),
    source="Alizadeh, Brandt & Diebold 2002",
)
def market_loudness(market: Market, n: int, m: int) -> FloatArray:
    """Mean over assets of ln(mean of ln(high / low) over n bars / that over m bars)"""
    log_range = np.where(market.present, np.log(market.columns["high"] / market.columns["low"]), np.nan)
    recent, usual = rolling_mean(log_range, n), rolling_mean(log_range, m)
    moved = (recent > 0) & (usual > 0)
    loudness = np.log(safe_ratio(np.where(moved, recent, np.nan), np.where(moved, usual, np.nan)))
    return np.broadcast_to(Market.mean(loudness), market.present.shape)


@feature(
    "cross_section", lookback=lambda n: n, params=(days(80),), inputs=("high", "low"), source="Alizadeh, Brandt & Diebold 2002"
)
def market_range(market: Market, n: int) -> FloatArray:
    """Mean over assets of ln(mean of ln(high / low) over n bars)"""
    usual = rolling_mean(np.where(market.present, np.log(market.columns["high"] / market.columns["low"]), np.nan), n)
    return np.broadcast_to(Market.mean(np.log(np.where(usual > 0, usual, np.nan))), market.present.shape)


@feature("cross_section", lookback=lambda n: n + 1, params=(days(1, at_least=2), days(5), days(10)), source=MOSKOWITZ)
def market_trend(market: Market, n: int) -> FloatArray:
    """sum_n(market) / (std_n(market) sqrt(n)), market the equally weighted mean return; 0 where nothing moved"""
    spread = rolling_std(market.market_return, n) * np.sqrt(n)
    trend = safe_ratio(rolling_sum(market.market_return, n), spread, 0.0)
    return np.broadcast_to(trend, market.present.shape)
