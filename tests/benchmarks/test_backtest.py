"""The benchmark of the backtest runs, and trades what it says."""

import pytest

from benchmarks.backtest import Arguments, main, random_market, trade
from cryptoml.evaluation.backtest import BacktestConfig
from cryptoml.trading.config import TradingConfig


def test_a_small_run_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Arguments(small=True, repeats=1)) == 0
    shown = capsys.readouterr().out
    assert "seconds with stops, funding and drawdown brake" in shown
    assert "seconds to evaluate one candidate" in shown


def test_stops_and_brake_change_the_outcome() -> None:
    market = random_market(2, 500)
    plain = trade(market, TradingConfig(), BacktestConfig())
    stopped = trade(market, TradingConfig(), BacktestConfig(use_stops=True))
    braked = trade(market, TradingConfig(drawdown_brake=0.01), BacktestConfig(use_stops=True))
    assert len({plain, stopped, braked}) == 3
