"""Baselines on the same bars, targets and costs as the ensemble.

Rules (buy and hold, last value, time-series momentum) hold the largest allowed position by their own sign; their class
probabilities are the frequencies with which each class followed in the training span. Learned baselines trade through
the decision path. Every volatility is the EWMA estimate, every quantile a driftless Gaussian with it; HAR forecasts
volatility alone.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from cryptoml.evaluation.candidates import Candidate, EvaluationInput, gaussian_quantiles
from cryptoml.evaluation.learned_baselines import (
    BaselineConfig,
    LightGbmBaseline,
    LogisticBaseline,
    RidgeBaseline,
    RowModel,
    TrainingRows,
)
from cryptoml.evaluation.volatility_baselines import heterogeneous_autoregression
from cryptoml.trading.forecasts import Forecasts

__all__ = ["BASELINES", "buy_and_hold", "last_value", "learned_baseline", "momentum", "run_baselines", "training_rows"]


def run_baselines(
    inputs: EvaluationInput,
    features: np.ndarray,
    config: BaselineConfig | None = None,
    *,
    names: tuple[str, ...] | None = None,
    on_baseline: Callable[[str], object] | None = None,
) -> list[Candidate]:
    """Make every baseline; one that cannot be made comes back with the reason in `skipped`.

    Args:
        inputs: Shared by all candidates.
        features: Scaled features of all bars `[asset, time, feature]`, NaN where missing.
        config: Sizes and seeds.
        names: Which of `BASELINES`, in order; None makes all.
        on_baseline: Called with each name before the baseline is made.
    """
    config = config or BaselineConfig()
    candidates = []
    for name in names or tuple(BASELINES):
        if on_baseline is not None:
            on_baseline(name)
        try:
            candidates.append(BASELINES[name](inputs, features, config))
        except (ImportError, OSError, np.linalg.LinAlgError, _NothingToLearnError) as error:
            candidates.append(Candidate(name, skipped=f"{type(error).__name__}: {error}"))
    return candidates


def buy_and_hold(inputs: EvaluationInput) -> Candidate:
    """Hold every symbol throughout, as much as is allowed; forecast the class frequencies of the training span."""
    labels = inputs.targets.direction[:, slice(*inputs.train)]
    rates = _frequencies(labels[labels >= 0])
    shape = inputs.test_panel.present.shape
    return _rule("buy_and_hold", inputs, np.broadcast_to(rates, (*shape, 3)), np.ones(shape))


def last_value(inputs: EvaluationInput) -> Candidate:
    """Expect the next horizon's return to repeat the last one's."""
    return _past_return_rule("last_value", inputs, inputs.horizon_bars)


def momentum(inputs: EvaluationInput, lookback_bars: int) -> Candidate:
    """Hold the sign of the return over the last `lookback_bars` (Moskowitz, Ooi & Pedersen 2012, without scaling)."""
    return _past_return_rule("momentum", inputs, lookback_bars)


def learned_baseline(
    name: str, inputs: EvaluationInput, features: np.ndarray, fit: Callable[[TrainingRows], RowModel], config: BaselineConfig
) -> Candidate:
    """Fit on training rows, forecast the test bars; a bar without any feature gets NaN."""
    model = fit(training_rows(inputs, features, config))
    probabilities = np.full((*inputs.test_panel.present.shape, 3), np.nan, dtype=np.float32)
    for row, values in enumerate(features[:, inputs.bars]):
        known = np.isfinite(values).any(axis=-1)
        if known.any():
            probabilities[row, known] = model.probabilities(values[known])
    return Candidate(name, _forecasts(inputs, probabilities), gaussian_quantiles(inputs))


def training_rows(inputs: EvaluationInput, features: np.ndarray, config: BaselineConfig) -> TrainingRows:
    """Draw at most `max_train_rows` labelled rows of the training span, in time order within each symbol.

    Raises:
        _NothingToLearnError: Fewer than 100 labelled rows.
    """
    span = slice(*inputs.train)
    scale = inputs.targets.sigma * np.sqrt(inputs.horizon_bars)
    horizon = inputs.target_config.horizons.index(inputs.horizon_bars)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = inputs.targets.log_return[..., horizon] / scale
    usable = (inputs.targets.direction >= 0) & np.isfinite(normalised)
    asset, time = np.nonzero(usable[:, span])
    if len(asset) < 100:
        raise _NothingToLearnError(f"the training span holds {len(asset)} labelled rows, 100 are the least")
    if len(asset) > config.max_train_rows:
        chosen = np.random.default_rng(config.seed).choice(len(asset), config.max_train_rows, replace=False)
        chosen.sort()
        asset, time = asset[chosen], time[chosen]
    time = time + inputs.train[0]
    return TrainingRows(features[asset, time], inputs.targets.direction[asset, time], normalised[asset, time])


class _NothingToLearnError(Exception):
    """The training span has too few labels."""


def _past_return_rule(name: str, inputs: EvaluationInput, lookback: int) -> Candidate:
    """Trade the sign of the past return; forecast what followed each class of it in training."""
    close = inputs.panel.field("close")
    past = np.full(close.shape, np.nan)
    past[:, lookback:] = np.log(close[:, lookback:] / close[:, :-lookback])
    # the threshold of the targets is for one horizon; a longer past spreads wider
    threshold = inputs.targets.threshold * np.sqrt(lookback / inputs.horizon_bars)
    known = np.isfinite(past) & np.isfinite(threshold)
    state = np.where(known, 1 + (past > threshold) - (past < -threshold), -1)
    span = slice(*inputs.train)
    table = _transition_table(state[:, span], inputs.targets.direction[:, span])
    probabilities = np.where((state >= 0)[..., None], table[np.maximum(state, 0)], np.nan)[:, inputs.bars]
    return _rule(name, inputs, probabilities, np.sign(past[:, inputs.bars]))


def _transition_table(state: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return P(class | state) `[state, class]`; a state never seen gets the overall frequencies."""
    known = (state >= 0) & (following >= 0)
    counts = np.zeros((3, 3))
    np.add.at(counts, (state[known], following[known]), 1)
    overall = _frequencies(following[following >= 0])
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), overall)


def _frequencies(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels.astype(np.int64), minlength=3)
    return counts / counts.sum() if counts.sum() else np.full(3, 1 / 3)


def _rule(name: str, inputs: EvaluationInput, probabilities: np.ndarray, target: np.ndarray) -> Candidate:
    target = np.where(inputs.test_panel.present, inputs.trading.max_position * target, np.nan)
    return Candidate(name, _forecasts(inputs, probabilities), gaussian_quantiles(inputs), target)


def _forecasts(inputs: EvaluationInput, probabilities: np.ndarray) -> Forecasts:
    absent = ~inputs.test_panel.present
    return Forecasts.of(
        np.where(absent[..., None], np.nan, probabilities),
        np.where(absent, np.nan, inputs.ewma_volatility),
        horizon_bars=inputs.horizon_bars,
        timeframe=inputs.panel.timeframe,
    )


def _ridge(rows: TrainingRows, threshold: float, config: BaselineConfig) -> RowModel:
    return RidgeBaseline(rows, threshold, config.ridge_penalty)


def _make_ridge(inputs: EvaluationInput, features: np.ndarray, config: BaselineConfig) -> Candidate:
    fit = partial(_ridge, threshold=inputs.target_config.direction_threshold, config=config)
    return learned_baseline("ridge", inputs, features, fit, config)


def _make_logistic(inputs: EvaluationInput, features: np.ndarray, config: BaselineConfig) -> Candidate:
    fit = partial(LogisticBaseline, penalty=config.logistic_penalty, max_iterations=config.logistic_iterations)
    return learned_baseline("logistic", inputs, features, fit, config)


def _make_lightgbm(inputs: EvaluationInput, features: np.ndarray, config: BaselineConfig) -> Candidate:
    return learned_baseline("lightgbm", inputs, features, partial(LightGbmBaseline, config=config), config)


BASELINES: Mapping[str, Callable[[EvaluationInput, np.ndarray, BaselineConfig], Candidate]] = {
    "buy_and_hold": lambda inputs, _features, _config: buy_and_hold(inputs),
    "last_value": lambda inputs, _features, _config: last_value(inputs),
    "momentum": lambda inputs, _features, config: momentum(inputs, config.momentum_bars),
    "har": lambda inputs, _features, _config: heterogeneous_autoregression(inputs),
    "ridge": _make_ridge,
    "logistic": _make_logistic,
    "lightgbm": _make_lightgbm,
}
"""Name -> maker, in the order of the report."""
