"""What is evaluated: an ensemble or a baseline, in one form, on the test bars alone."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import norm

from cryptoml.data.panel import Panel
from cryptoml.evaluation.backtest import BacktestConfig
from cryptoml.features.targets import TargetConfig, Targets
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts

__all__ = [
    "BootstrapConfig",
    "Candidate",
    "EvaluationInput",
    "PredictionArrays",
    "candidate_from_predictions",
    "gaussian_quantiles",
]


class BootstrapConfig(BaseModel):
    """How intervals are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_draws: int = Field(default=1000, ge=10, description="Resamples")
    level: float = Field(default=0.95, gt=0, lt=1, description="Share of resamples inside the interval")
    mean_block_bars: int | None = Field(default=None, ge=1, description="Mean block; None takes twice the label's length")
    seed: int = Field(default=0, ge=0, description="Of the resampling")


@dataclass(frozen=True, eq=False)
class EvaluationInput:
    """What all candidates of one evaluation share.

    Attributes:
        panel: All bars, training ones too: baselines learn from them.
        targets: Labels of all bars.
        target_config: Horizons, primary horizon, quantile levels.
        train: Forecast origins `[start, stop)` that baselines may learn from, purged against the test span.
        test: Forecast origins `[start, stop)` that are judged and traded.
        trading: The decision path's settings, costs included.
        backtest: What the simulation of fills goes into.
        bootstrap: Intervals.
        num_trials: Configurations tried before the tuned candidates were chosen, for the deflated Sharpe ratio.
        trial_sharpe_variance: Variance of the trials' per-bar Sharpe ratios; None where they are not known.
        tuned: Names of the candidates whose settings the trials chose; the others were tried once.
    """

    panel: Panel
    targets: Targets
    target_config: TargetConfig
    train: tuple[int, int]
    test: tuple[int, int]
    trading: TradingConfig = field(default_factory=TradingConfig)
    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    num_trials: int = 1
    trial_sharpe_variance: float | None = None
    tuned: frozenset[str] = frozenset({"ensemble"})

    def __post_init__(self) -> None:
        for name, (start, stop) in (("train", self.train), ("test", self.test)):
            if not 0 <= start < stop <= self.panel.num_bars:
                raise ValueError(f"{name} must be a span inside [0, {self.panel.num_bars}), was [{start}, {stop})")

    @cached_property
    def test_panel(self) -> Panel:
        """The test bars."""
        return self.panel.slice_time(*self.test)

    @property
    def bars(self) -> slice:
        """The test bars as a slice of the time axis."""
        return slice(*self.test)

    @property
    def horizon_bars(self) -> int:
        """The primary horizon."""
        return self.target_config.primary_horizon

    @property
    def realised(self) -> np.ndarray:
        """Log return over the primary horizon of the test bars `[asset, time]`, NaN where unknown."""
        return self.targets.log_return[:, self.bars, self.target_config.horizons.index(self.horizon_bars)]

    def num_trials_of(self, name: str) -> int:
        """Return how many configurations were tried before a candidate was chosen, itself included."""
        return self.num_trials if name in self.tuned else 1

    @property
    def resampling(self) -> dict[str, Any]:
        """Arguments of every interval."""
        return {**self.bootstrap.model_dump(exclude={"mean_block_bars"}), "mean_block": self.mean_block}

    @property
    def ewma_volatility(self) -> np.ndarray:
        """Naive volatility over the primary horizon at the test bars `[asset, time]`: sigma * sqrt(H)."""
        return self.targets.sigma[:, self.bars] * np.sqrt(self.horizon_bars, dtype=np.float32)

    @property
    def mean_block(self) -> float:
        """Mean bootstrap block in bars: twice the label, at least the cube root of the sample."""
        if self.bootstrap.mean_block_bars is not None:
            return float(self.bootstrap.mean_block_bars)
        return float(max(2 * self.targets.label_bars, round((self.test[1] - self.test[0]) ** (1 / 3))))


@dataclass(frozen=True, eq=False)
class Candidate:
    """Forecasts and, where a rule trades without them, positions, on the test bars.

    Attributes:
        name: As the report shows it.
        forecasts: Of the primary horizon `[asset, time, ...]`; None where `skipped`.
        quantiles: Log-return quantiles `[asset, time, horizon, quantile]`, or None.
        target: Positions of a rule, signed fractions of equity `[asset, time]`, which the trading config limits like all
            others; None takes the decision path on the forecasts.
        skipped: Why this candidate could not be made.
    """

    name: str
    forecasts: Forecasts | None = None
    quantiles: np.ndarray | None = None
    target: np.ndarray | None = None
    skipped: str | None = None


class PredictionArrays(Protocol):
    """The part of an ensemble's predictions that is read; every array starts `[asset, time]`, NaN where missing."""

    @property
    def probabilities(self) -> np.ndarray:
        """`[asset, time, 3]`."""

    @property
    def volatility(self) -> np.ndarray:
        """`[asset, time]`."""

    @property
    def regime(self) -> np.ndarray:
        """`[asset, time, 4]`."""

    @property
    def quantiles(self) -> np.ndarray:
        """`[asset, time, horizon, quantile]`."""


def candidate_from_predictions(name: str, predictions: PredictionArrays, inputs: EvaluationInput) -> Candidate:
    """Take an ensemble's predictions over all bars of the panel, or over the test bars alone."""
    bars = slice(None) if predictions.volatility.shape[1] == inputs.test[1] - inputs.test[0] else inputs.bars
    config = inputs.target_config
    quantiles = predictions.quantiles[:, bars]
    forecasts = Forecasts.of(
        predictions.probabilities[:, bars],
        predictions.volatility[:, bars],
        horizon_bars=config.primary_horizon,
        timeframe=inputs.panel.timeframe,
        quantiles=quantiles[:, :, config.horizons.index(config.primary_horizon)],
        quantile_levels=config.quantiles,
        regime=predictions.regime[:, bars],
    )
    return Candidate(name, forecasts, quantiles)


def gaussian_quantiles(inputs: EvaluationInput) -> np.ndarray:
    """Return `[asset, time, horizon, quantile]` of a driftless Gaussian whose volatility is the EWMA estimate."""
    config = inputs.target_config
    scale = inputs.targets.sigma[:, inputs.bars, None] * np.sqrt(np.asarray(config.horizons))
    return scale[..., None] * norm.ppf(config.quantiles)
