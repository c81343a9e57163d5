"""Volatility from past volatility: the heterogeneous autoregression that any volatility forecast must beat."""

import numpy as np

from cryptoml.data.schema import parse_timeframe
from cryptoml.evaluation.candidates import Candidate, EvaluationInput
from cryptoml.features.rolling import rolling_sum
from cryptoml.trading.forecasts import Forecasts

__all__ = ["har_volatility", "heterogeneous_autoregression"]

_DAYS = (1, 7, 30)  # Corsi's day, week and month, in a market without weekends
_LEAST_ROWS = 100


def heterogeneous_autoregression(inputs: EvaluationInput) -> Candidate:
    """Forecast volatility by HAR-RV, and nothing else: directions are NaN, nothing is traded."""
    volatility = har_volatility(inputs)[:, inputs.bars]
    if not np.isfinite(volatility).any():
        return Candidate("har", skipped=f"fewer than {_LEAST_ROWS} training bars with {_DAYS[-1]} days of history")
    silent = np.full((*volatility.shape, 3), np.nan)
    forecasts = Forecasts.of(silent, volatility, horizon_bars=inputs.horizon_bars, timeframe=inputs.panel.timeframe)
    return Candidate("har", forecasts, target=np.zeros(volatility.shape))


def har_volatility(inputs: EvaluationInput) -> np.ndarray:
    """Return HAR-RV forecasts of the volatility over the primary horizon at every bar `[asset, time]`.

    The log of the realised variance over the horizon is regressed on the logs of the mean squared return of the last day,
    week and month (Corsi 2009; in logs: Andersen, Bollerslev & Diebold 2007), each symbol by itself on the training span
    alone; the way back from logs takes the mean of the residuals' exponentials (Duan 1983). A forecast outside what training
    saw happen is drawn to its border, without which a short training span makes the baseline explode (the "insanity filter" of
    Swanson & White 1997, after Bollerslev, Patton & Quaedvlieg 2016). NaN where fewer than half of the month's returns are
    there.
    """
    regressors = np.stack([_log_variance(inputs, days) for days in _DAYS], axis=-1)
    volatility = inputs.targets.volatility.astype(np.float64)
    outcome = 2 * np.log(np.where(volatility > 0, volatility, np.nan))
    span = slice(*inputs.train)
    forecasts = [_fitted(x, y, span) for x, y in zip(regressors, outcome, strict=True)]
    return np.sqrt(np.stack(forecasts))


def _log_variance(inputs: EvaluationInput, days: int) -> np.ndarray:
    """Return the log of the mean squared log return over the last days `[asset, time]`, over the bars that are there."""
    bars = max(1, round(days * 86400 / parse_timeframe(inputs.panel.timeframe).total_seconds()))
    log_close = np.log(inputs.panel.field("close"))
    squares = np.full(log_close.shape, np.nan)
    squares[:, 1:] = np.diff(log_close, axis=1) ** 2
    total, count = rolling_sum(np.nan_to_num(squares), bars), rolling_sum(np.isfinite(squares).astype(np.float64), bars)
    return np.log(np.where((total > 0) & (count >= bars / 2), total, np.nan) / np.maximum(count, 1))


def _fitted(regressors: np.ndarray, outcome: np.ndarray, span: slice) -> np.ndarray:
    """Return the variance forecast of one symbol `[time]`."""
    design = np.column_stack([np.ones(len(regressors)), regressors])
    known = np.isfinite(design[span]).all(axis=1) & np.isfinite(outcome[span])
    if known.sum() < _LEAST_ROWS:
        return np.full(len(outcome), np.nan)
    x, y = design[span][known], outcome[span][known]
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    smearing = np.exp(y - x @ weights).mean()
    return np.exp(np.clip(design @ weights + np.log(smearing), y.min(), y.max()))
