"""The backtest: five bars by hand, a plain loop on random positions, stops, gaps, funding, speed."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.evaluation.backtest import BacktestConfig, backtest, cost_sweep
from cryptoml.evaluation.funding import Funding, funding_rates
from cryptoml.trading.config import CostConfig, TradingConfig
from tests.evaluation.plain_account import Rules, run

STOPS = BacktestConfig(use_stops=True)


def trading(side_bps: float = 5.0, **changes) -> TradingConfig:
    costs = CostConfig(fee_bps=side_bps, half_spread_bps=0, slippage_bps=0)
    return TradingConfig(**{"costs": costs, "max_position": 1.0, "max_gross": 1.0} | changes)


FREE, FIVE_BPS = trading(0.0), trading(5.0)


def panel_of(opens, highs, lows, closes, tables=None) -> Panel:
    shape = np.shape(opens)
    candles = np.full((*shape, len(CANDLE_FIELDS)), np.nan)
    for column, values in enumerate((opens, highs, lows, closes)):
        candles[:, :, column] = values
    stamps = pd.date_range("2024-01-01", periods=shape[1], freq="h", tz="UTC")
    return Panel(tuple(f"S{row}USDT" for row in range(shape[0])), "1h", stamps, candles, tables or {})


def random_panel(rng, num_assets=4, num_bars=80, missing=0.0) -> Panel:
    closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (num_assets, num_bars)), axis=1))
    opens = np.concatenate([np.full((num_assets, 1), 100.0), closes[:, :-1]], axis=1) * (1 + rng.normal(0, 0.003, closes.shape))
    highs, lows = np.maximum(opens, closes) * 1.004, np.minimum(opens, closes) * 0.996
    candles = [np.where(rng.random(closes.shape) < missing, np.nan, 1.0)] * 4
    return panel_of(*(values * mask for values, mask in zip((opens, highs, lows, closes), candles, strict=True)))


def test_five_bars_by_hand():
    """Buy at the close of bar 0, flip short at the close of bar 2, flat at the close of bar 3."""
    opens = [[100.0, 102.0, 104.0, 103.0, 101.0]]
    closes = [[101.0, 103.0, 104.0, 102.0, 100.0]]
    panel = panel_of(opens, np.maximum(opens, closes), np.minimum(opens, closes), closes)
    result = backtest(np.array([[1.0, 1.0, -1.0, 0.0, 1.0]]), panel, FIVE_BPS)
    assert result.position.tolist() == [[0, 1, 1, -1, 0]]
    assert result.price_return[0] == pytest.approx([0, 104 / 102 - 1, 103 / 104 - 1, -(101 / 103 - 1), 0])
    assert result.turnover.tolist() == [0, 1, 0, 2, 1]
    assert result.net == pytest.approx(result.price_return[0] - np.array([0, 1, 0, 2, 1]) * 5e-4)
    long, short = 104 / 102 - 1 + 103 / 104 - 1 - 1e-3, -(101 / 103 - 1) - 1e-3
    assert result.trade_returns() == pytest.approx([long, short])
    assert result.equity[-1] == pytest.approx(np.prod(1 + result.net))


def test_the_last_bar_is_valued_at_its_close():
    panel = panel_of([[100.0, 100.0]], [[110.0] * 2], [[90.0] * 2], [[100.0, 105.0]])
    assert backtest(np.array([[1.0, 0.0]]), panel, FREE).net == pytest.approx([0, 0.05])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([0.0, 0.15]),
    st.sampled_from([None, 0.05]),
    st.sampled_from([(1.0, 1.0), (0.2, 0.5)]),
)
def test_random_positions_against_a_plain_loop(seed, use_stops, missing, brake, limits):
    rng = np.random.default_rng(seed)
    panel = random_panel(rng, missing=missing)
    shape = panel.present.shape
    target = rng.choice([-0.6, -0.1, 0.0, 0.1, 0.6, np.nan], size=shape, p=[0.25, 0.1, 0.15, 0.1, 0.3, 0.1])
    target = np.where(panel.present & (rng.random(shape) < 0.4), target, np.roll(target, 1, axis=1))
    target[~panel.present] = np.nan
    stop, take = rng.uniform(0.003, 0.03, shape), rng.uniform(0.003, 0.03, shape)
    funding = Funding(*(np.where(rng.random(shape) < 0.2, rng.normal(0, 1e-4, shape), 0) for _ in range(2)))
    config = trading(max_position=limits[0], max_gross=limits[1], drawdown_brake=brake)
    result = backtest(
        target, panel, config, BacktestConfig(use_stops=use_stops), stop_loss_pct=stop, take_profit_pct=take, funding=funding
    )
    expected = run(target, panel, Rules(5.0, *limits, use_stops, brake), stop, take, *funding)
    np.testing.assert_allclose(result.asset_net, expected, atol=1e-12)
    np.testing.assert_allclose(result.net, expected.sum(axis=0), atol=1e-12)
    assert result.trade_returns().sum() == pytest.approx(expected.sum(), abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(5, 70))
def test_the_future_changes_no_past_trade(seed, bar):
    rng = np.random.default_rng(seed)
    panel, target = random_panel(rng), rng.choice([-1.0, 0.0, 1.0], size=(4, 80))
    pct = np.full((4, 80), 0.01)
    changed, later = panel.candles.copy(), target.copy()
    changed[:, bar + 1 :] *= 3
    later[:, bar:] = -later[:, bar:]
    other = Panel(panel.symbols, panel.timeframe, panel.timestamps, changed)
    config = trading(drawdown_brake=0.1)
    one = backtest(target, panel, config, STOPS, stop_loss_pct=pct, take_profit_pct=pct)
    two = backtest(later, other, config, STOPS, stop_loss_pct=pct, take_profit_pct=pct)
    np.testing.assert_array_equal(one.position[:, : bar + 1], two.position[:, : bar + 1])
    np.testing.assert_array_equal(one.asset_net[:, :bar], two.asset_net[:, :bar])


def one_bar_trade(open_, high, low, close, stop, take, side=1.0):
    panel = panel_of([[100.0, 100.0, open_]], [[100.0, 100.0, high]], [[100.0, 100.0, low]], [[100.0, 100.0, close]])
    pct = [np.full((1, 3), value) for value in (stop, take)]
    return backtest(np.full((1, 3), side), panel, FREE, STOPS, stop_loss_pct=pct[0], take_profit_pct=pct[1])


@pytest.mark.parametrize(
    ("bar", "side", "exit_price"),
    [
        ((100, 103, 97, 102), 1, 98.0),  # both touched: the stop first
        ((100, 103, 99, 102), 1, 102.0),  # target touched
        ((96, 97, 95, 96), 1, 96.0),  # gap through the stop: the worse open
        ((105, 106, 104, 105), 1, 102.0),  # gap through the target: its level
        ((100, 103, 97, 98), -1, 102.0),  # a short's stop is above
        ((104, 105, 103, 104), -1, 104.0),
        ((100, 101, 97, 98), -1, 98.0),
    ],
)
def test_stops_inside_the_bar_are_pessimistic(bar, side, exit_price):
    result = one_bar_trade(*bar, stop=0.02, take=0.02, side=float(side))
    assert result.net.sum() == pytest.approx(side * (bar[0] / 100 - 1) + side * (exit_price / bar[0] - 1))
    assert (result.exited[0] > 0).tolist() == [False, False, True]


def test_a_stopped_trade_waits_for_a_new_side():
    lows = [[100.0, 95.0, 100.0, 100.0, 100.0, 100.0]]
    flat = np.full((1, 6), 100.0)
    target = np.array([[1.0, 1.0, 1.0, 0.0, 1.0, 1.0]])
    pct = np.full((1, 6), 0.02)
    result = backtest(target, panel_of(flat, flat, lows, flat), FREE, STOPS, stop_loss_pct=pct)
    assert result.position.tolist() == [[0, 1, 0, 0, 0, 1]]


def test_gaps_carry_the_position_and_a_delisting_closes_it():
    nan = np.nan
    opens = np.array([[100.0, 100.0, nan, 110.0, 111.0, nan, nan]])
    panel = panel_of(opens, opens, opens, opens)
    result = backtest(np.array([[1.0, 1.0, nan, 1.0, 1.0, nan, nan]]), panel, FIVE_BPS)
    assert result.position.tolist() == [[0, 1, 1, 0, 1, 0, 0]]
    assert result.price_return[0] == pytest.approx([0, 0, 0.1, 0, 0, 0, 0])
    assert result.turnover.tolist() == [0, 1, 0, 1, 1, 1, 0]


def test_a_masked_forecast_is_flat_and_positions_are_limited():
    panel = random_panel(np.random.default_rng(0))
    masked = backtest(np.full((4, 80), np.nan), panel, FIVE_BPS)
    assert not masked.position.any()
    assert not masked.net.any()
    greedy = backtest(np.full((4, 80), 9.0), panel, trading(max_position=0.5, max_gross=1.2))
    np.testing.assert_allclose(greedy.position[:, 1:], 0.3)
    by_default = backtest(np.full((4, 80), 9.0), panel)
    np.testing.assert_allclose(by_default.position[:, 1:], TradingConfig().max_position)


def test_funding_at_the_open_is_paid_by_the_position_before_the_fill():
    opens = np.full((1, 4), 100.0)
    funding = Funding(np.array([[0.0, 0.01, 0.02, 0.04]]), np.zeros((1, 4)))
    result = backtest(np.array([[1.0, -1.0, 0.0, 0.0]]), panel_of(opens, opens, opens, opens), FREE, funding=funding)
    assert result.net == pytest.approx([0, 0, -0.02, 0.04])
    assert result.trade_returns() == pytest.approx([-0.02, 0.04])


def test_funding_inside_the_bar_is_paid_by_the_position_held_then():
    opens = np.full((1, 4), 100.0)
    funding = Funding(np.zeros((1, 4)), np.array([[0.08, 0.01, 0.02, 0.04]]))
    result = backtest(np.array([[1.0, -1.0, 0.0, 0.0]]), panel_of(opens, opens, opens, opens), FREE, funding=funding)
    assert result.net == pytest.approx([0, -0.01, 0.02, 0])
    assert result.trade_returns() == pytest.approx([-0.01, 0.02])


@pytest.mark.parametrize(("rate", "paid"), [(0.01, 0.01), (-0.01, 0.0)])
def test_a_stopped_position_pays_funding_inside_the_bar_but_never_receives_it(rate, paid):
    flat, lows = np.full((1, 3), 100.0), np.array([[100.0, 90.0, 100.0]])
    funding = Funding(np.zeros((1, 3)), np.full((1, 3), rate))
    result = backtest(
        np.ones((1, 3)), panel_of(flat, flat, lows, flat), FREE, STOPS, stop_loss_pct=np.full((1, 3), 0.02), funding=funding
    )
    assert result.net == pytest.approx([0, -0.02 - paid, 0])


def test_funding_table_is_put_on_the_grid():
    stamps = pd.to_datetime(
        ["2023-12-31T16:00Z", "2024-01-01T00:00:00.003Z", "2024-01-01T02:00Z", "2024-01-01T02:30Z", "2024-01-01T08:00Z"],
        format="ISO8601",
    )
    table = pd.DataFrame({"timestamp": stamps, "available_at": stamps, "funding_rate": [9.0, 1.0, 2.0, 3.0, 9.0]})
    opens = np.ones((2, 4))
    funding = funding_rates(panel_of(opens, opens, opens, opens, tables={"funding": {"S1USDT": table}}))
    assert funding.at_open.tolist() == [[0, 0, 0, 0], [1, 0, 2, 0]]
    assert funding.inside.tolist() == [[0, 0, 0, 0], [0, 0, 3, 0]]
    assert funding_rates(panel_of(opens, opens, opens, opens)) is None


def test_the_brake_shrinks_positions_by_the_loss_known_at_the_decision():
    """Half of the equity in a symbol that loses a fifth in each of two bars; the brake is at 40%."""
    opens = [[100.0, 100.0, 80.0, 64.0, 64.0, 64.0]]
    panel = panel_of(opens, opens, opens, opens)
    result = backtest(np.full((1, 6), 0.5), panel, trading(0.0, drawdown_brake=0.4))
    after_one, after_two = 0.9, 0.9 * 0.9
    expected = [0, 0.5, 0.5, 0.5 * (1 - 0.1 / 0.4), 0.5 * (1 - (1 - after_two) / 0.4), 0.5 * (1 - (1 - after_two) / 0.4)]
    assert result.equity[1:3] == pytest.approx([after_one, after_two])
    assert result.position[0] == pytest.approx(expected)


def test_cost_sweep_is_the_same_trades_at_other_costs():
    rng = np.random.default_rng(4)
    panel, target = random_panel(rng), rng.choice([-1.0, 0.0, 1.0], size=(4, 80))
    sweep = cost_sweep(backtest(target, panel, FIVE_BPS))
    assert list(sweep) == [0, 5, 10, 15, 20, 25, 30]
    at_twenty = backtest(target, panel, trading(20.0)).net
    np.testing.assert_allclose(sweep[20.0], at_twenty, atol=1e-15)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"panel's shape \(4, 80\), was \(4, 79\)"):
        backtest(np.zeros((4, 79)), random_panel(np.random.default_rng(0)))


@pytest.mark.parametrize("brake", [None, 0.2])
def test_fifteen_symbols_of_five_years_take_less_than_a_second(brake):
    rng = np.random.default_rng(0)
    panel, target = random_panel(rng, 15, 47_000), rng.choice([-0.05, 0.0, 0.05], size=(15, 47_000))
    pct, config = np.full(target.shape, 0.01), trading(drawdown_brake=brake)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        backtest(target, panel, config, STOPS, stop_loss_pct=pct, take_profit_pct=pct).net.sum()
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0
