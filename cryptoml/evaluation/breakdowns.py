"""The main figures of one candidate by symbol, by calendar year and by regime, as plain dictionaries."""

import numpy as np

from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation import classification, forecast, performance
from cryptoml.evaluation.account import Account
from cryptoml.evaluation.candidates import EvaluationInput
from cryptoml.evaluation.figures import Figures, counted_rows, figure, right_rows
from cryptoml.evaluation.statistics import accuracy_statistic, sharpe_statistic
from cryptoml.features.targets import REGIMES
from cryptoml.trading.forecasts import Forecasts

__all__ = ["regime_breakdown", "symbol_breakdown", "year_breakdown"]


def symbol_breakdown(inputs: EvaluationInput, forecasts: Forecasts, account: Account) -> dict[str, Figures]:
    """The main figures of every symbol; returns and drawdown are what it adds to the account, fractions of equity."""
    breakdown = {}
    for row, symbol in enumerate(inputs.panel.symbols):
        only = slice(row, row + 1)
        own, bars = account.of_assets(only), np.ones(inputs.test[1] - inputs.test[0], dtype=bool)
        trades = own.trade_returns()
        breakdown[symbol] = {
            **_forecast_figures(inputs, forecasts[only], only, bars[None]),
            **_return_figures(inputs, own.net, own.turnover, bars),
            "num_trades": int(trades.size),
            "win_rate": performance.win_rate(trades),
            "payoff_ratio": performance.payoff_ratio(trades),
        }
    return breakdown


def year_breakdown(inputs: EvaluationInput, forecasts: Forecasts, account: Account) -> dict[str, Figures]:
    """The main figures of every calendar year (UTC) of the test."""
    years, everyone = inputs.test_panel.timestamps.year.to_numpy(), slice(None)
    return {
        str(year): {
            **_forecast_figures(inputs, forecasts, everyone, np.broadcast_to(years == year, account.position.shape)),
            **_return_figures(inputs, account.net, account.turnover, years == year),
        }
        for year in np.unique(years)
    }


def regime_breakdown(inputs: EvaluationInput, forecasts: Forecasts, account: Account) -> dict[str, Figures]:
    """The main figures by the market's regime (known for sure only afterwards)."""
    regime = inputs.targets.regime[:, inputs.bars]
    breakdown = {}
    for code, name in enumerate(REGIMES):
        inside = regime == code
        # the position that a decision at bar t opens earns from bar t + 1 on
        earning = np.zeros_like(inside)
        earning[:, 1:] = inside[:, :-1]
        net, turnover = ((values * earning).sum(axis=0) for values in (account.asset_net, account.asset_turnover))
        breakdown[name] = {
            **_forecast_figures(inputs, forecasts, slice(None), inside),
            **_return_figures(inputs, net, turnover, earning.any(axis=0)),
            "share_of_bars": float(inside.sum() / max((regime >= 0).sum(), 1)),
        }
    return breakdown


def _forecast_figures(inputs: EvaluationInput, forecasts: Forecasts, assets: slice, inside: np.ndarray) -> Figures:
    """Return the figures of some assets' forecasts at the bars that `inside` marks."""
    labels = np.where(inside, inputs.targets.direction[assets, inputs.bars], -1)
    realised = np.where(inside, inputs.realised[assets], np.nan)
    volatility = np.where(inside, inputs.targets.volatility[assets, inputs.bars], np.nan)
    counted, score = counted_rows(forecasts.probabilities, labels), forecasts.tilt
    return {
        "num_forecasts": int(counted.sum()),
        "accuracy": figure(inputs, accuracy_statistic(right_rows(forecasts.probabilities, labels), counted)),
        "majority_share": classification.majority_share(np.where(counted, labels, -1), 3),
        "expected_calibration_error": classification.expected_calibration_error(forecasts.probabilities, labels),
        "auc": classification.auc(score, np.where(np.isfinite(realised), realised > 0, -1)),
        "rank_ic": forecast.rank_information_coefficient(score, realised),
        "qlike": forecast.qlike(forecasts.volatility, volatility),
    }


def _return_figures(inputs: EvaluationInput, net: np.ndarray, turnover: np.ndarray, counted: np.ndarray) -> Figures:
    """Return the figures of net returns and turnover `[time]` over the bars that `counted` marks, drawdown among them alone."""
    per_year = bars_per_year(inputs.panel.timeframe)
    return {
        "sharpe_ratio": figure(inputs, sharpe_statistic(net, per_year, counted)),
        "net_return": float(net[counted].sum()),
        "max_drawdown": performance.max_drawdown(net[counted]),
        "turnover": float(turnover[counted].sum()),
    }
