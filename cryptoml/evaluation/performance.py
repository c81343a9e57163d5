"""Performance of return series: Sharpe ratio, drawdown, trades, turnover.

Returns are simple, per bar, net unless a name says otherwise; NaN counts as a bar without a position (0).
"""

import numpy as np

__all__ = [
    "annual_return",
    "annual_volatility",
    "break_even_cost_bps",
    "drawdowns",
    "equity_curve",
    "max_drawdown",
    "payoff_ratio",
    "sharpe_ratio",
    "win_rate",
]


def sharpe_ratio(returns: np.ndarray, bars_per_year: float) -> float:
    """Return the annualised Sharpe ratio over a zero risk-free rate; NaN where returns never vary.

    `mean / std(ddof=1) * sqrt(bars_per_year)`, with 365 days a year for crypto.
    """
    returns = np.nan_to_num(returns)
    if returns.size < 2:
        return float("nan")
    spread = returns.std(ddof=1)
    return float(returns.mean() / spread * np.sqrt(bars_per_year)) if spread > 1e-15 else float("nan")


def annual_return(returns: np.ndarray, bars_per_year: float) -> float:
    """Return the compound growth per year, as a fraction; -1 where the account is lost."""
    if not returns.size:
        return float("nan")
    final = equity_curve(returns)[-1]
    return float(final ** (bars_per_year / returns.size) - 1) if final > 0 else -1.0


def annual_volatility(returns: np.ndarray, bars_per_year: float) -> float:
    """Return the standard deviation of returns, annualised."""
    return float(np.nan_to_num(returns).std(ddof=1) * np.sqrt(bars_per_year)) if returns.size > 1 else float("nan")


def equity_curve(returns: np.ndarray) -> np.ndarray:
    """Return the compounded account value `[time]` after each bar, from 1."""
    return np.cumprod(1 + np.nan_to_num(returns))


def drawdowns(returns: np.ndarray) -> np.ndarray:
    """Return the loss from the highest account value so far `[time]`, a fraction, 0 or negative."""
    equity = equity_curve(returns)
    return equity / np.maximum(np.maximum.accumulate(equity), 1.0) - 1


def max_drawdown(returns: np.ndarray) -> float:
    """Return the largest loss from a peak, as a positive fraction."""
    return float(np.abs(drawdowns(returns)).max()) if returns.size else float("nan")


def win_rate(trade_returns: np.ndarray) -> float:
    """Return the share of trades that gained after costs."""
    return float(np.mean(trade_returns > 0)) if trade_returns.size else float("nan")


def payoff_ratio(trade_returns: np.ndarray) -> float:
    """Return the mean gain over the mean loss of a trade; NaN where either is absent."""
    gains, losses = trade_returns[trade_returns > 0], trade_returns[trade_returns < 0]
    return float(gains.mean() / -losses.mean()) if gains.size and losses.size else float("nan")


def break_even_cost_bps(gross: np.ndarray, turnover: np.ndarray) -> float:
    """Return the cost per side, in bps of traded notional, at which the mean return is zero; NaN without trades.

    Args:
        gross: Returns before trading costs `[time]`.
        turnover: Traded notional as a fraction of equity `[time]`.
    """
    traded = float(np.nansum(turnover))
    return float(np.nansum(gross) / traded * 1e4) if traded > 0 else float("nan")
