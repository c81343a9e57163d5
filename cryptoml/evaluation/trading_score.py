"""What a trial of a sweep earns: its forecasts traded over the inner test by the one decision path, after costs."""

from dataclasses import dataclass

import numpy as np

from cryptoml.data.panel import Panel
from cryptoml.data.schema import bars_per_year
from cryptoml.evaluation.backtest import BacktestConfig
from cryptoml.evaluation.candidates import EvaluationInput, candidate_from_predictions
from cryptoml.evaluation.performance import max_drawdown, sharpe_ratio
from cryptoml.evaluation.protocol import trade
from cryptoml.models.forecaster import Forecaster
from cryptoml.trading.config import TradingConfig
from cryptoml.training.fold import calibrated, forecast_member, forecast_test
from cryptoml.training.member import FoldData
from cryptoml.training.sweep_trial import RETURNS

__all__ = ["TradingScore"]


@dataclass(frozen=True, eq=False)
class TradingScore:
    """Judges a fitted member by trading on it.

    Attributes:
        panel: The bars of the outer training span, which the inner folds cut.
        trading: The decision path's settings, costs included.
        backtest: What the simulation of fills goes into.
        lookback: Bars of history that a forecast reads.
    """

    panel: Panel
    trading: TradingConfig
    backtest: BacktestConfig
    lookback: int

    def __call__(self, member: Forecaster, data: FoldData) -> dict[str, float | np.ndarray]:
        """Return `sharpe` (annual, 0 without a trade), `drawdown` (positive fraction) and net `returns` on the fold's test span.

        The member is calibrated on the fold's validation span.
        """
        fold, panel = data.fold, self.panel.slice_time(0, data.features.shape[1])
        forecasts = [forecast_member(member, data, self.lookback)]
        predictions = forecast_test(calibrated([member], forecasts, data), forecasts, data)
        inputs = EvaluationInput(
            panel,
            data.targets,
            data.config,
            (fold.train.start, fold.train.stop),
            (fold.test.start, fold.test.stop),
            self.trading,
            self.backtest,
        )
        net = trade(inputs, candidate_from_predictions("trial", predictions, inputs))[1].net
        sharpe = sharpe_ratio(net, bars_per_year(panel.timeframe))
        return {"sharpe": float(np.nan_to_num(sharpe)), "drawdown": max_drawdown(net), RETURNS: net.astype(np.float32)}
