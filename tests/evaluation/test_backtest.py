"""The backtest: five bars by hand, a plain loop on random positions, stops, gaps, funding, speed."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.evaluation.backtest import BacktestConfig, backtest, cost_sweep, funding_rates
from cryptoml.trading.config import CostConfig

FREE = CostConfig(fee_bps=0, half_spread_bps=0, slippage_bps=0)
FIVE_BPS = CostConfig()
STOPS = BacktestConfig(use_stops=True)


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


def plain_loop(target, panel, side_bps, stop, take, use_stops, funding) -> np.ndarray:
    """One bar and one symbol at a time; returns net contributions `[asset, time]`."""
    num_assets, num_bars = target.shape
    opens, highs, lows, closes = (panel.field(name) for name in CANDLE_FIELDS[:4])
    net = np.zeros(target.shape)
    for asset in range(num_assets):
        alive = np.flatnonzero(np.isfinite(closes[asset]))
        held, wanted_side, entry, levels, blocked, last_close = 0.0, 0, np.nan, (np.nan, np.nan), False, np.nan
        for bar in range(num_bars):
            net[asset, bar] -= held * np.nan_to_num(funding[asset, bar])
            new = held
            if np.isfinite(opens[asset, bar]):
                wanted = np.nan_to_num(target[asset, bar - 1]) / num_assets if bar else 0.0
                if np.sign(wanted) != wanted_side:
                    wanted_side, entry, blocked = np.sign(wanted), opens[asset, bar], False
                    levels = (stop[asset, bar - 1], take[asset, bar - 1])
                new = 0.0 if blocked else wanted
            if alive.size and bar > alive[-1]:
                new = 0.0
            net[asset, bar] -= abs(new - held) * side_bps * 1e-4
            held = new
            last_close = closes[asset, bar] if np.isfinite(closes[asset, bar]) else last_close
            start = opens[asset, bar] if np.isfinite(opens[asset, bar]) else last_close
            end = last_close
            if bar + 1 < num_bars and np.isfinite(opens[asset, bar + 1]):
                end = opens[asset, bar + 1]
            exit_price = None
            if use_stops and held and np.isfinite(opens[asset, bar]):
                side = np.sign(held)
                stop_price, take_price = entry * (1 - side * levels[0]), entry * (1 + side * levels[1])
                worst, best = (lows, highs) if side > 0 else (highs, lows)
                if side * worst[asset, bar] <= side * stop_price:
                    exit_price = side * min(side * opens[asset, bar], side * stop_price)
                elif side * best[asset, bar] >= side * take_price:
                    exit_price = take_price
            if exit_price is not None:
                net[asset, bar] += held * (exit_price / start - 1) - abs(held) * side_bps * 1e-4
                held, blocked = 0.0, True
            elif held:
                net[asset, bar] += held * (end / start - 1)
    return net


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.15]))
def test_random_positions_against_a_plain_loop(seed, use_stops, missing):
    rng = np.random.default_rng(seed)
    panel = random_panel(rng, missing=missing)
    shape = panel.present.shape
    target = rng.choice([-1.0, -0.4, 0.0, 0.4, 1.0, np.nan], size=shape, p=[0.25, 0.1, 0.15, 0.1, 0.3, 0.1])
    target = np.where(panel.present & (rng.random(shape) < 0.4), target, np.roll(target, 1, axis=1))
    target[~panel.present] = np.nan
    stop, take = rng.uniform(0.003, 0.03, shape), rng.uniform(0.003, 0.03, shape)
    funding = np.where(rng.random(shape) < 0.2, 1e-4, 0)
    config = BacktestConfig(use_stops=use_stops)
    result = backtest(target, panel, FIVE_BPS, config, stop_loss_pct=stop, take_profit_pct=take, funding=funding)
    expected = plain_loop(target, panel, 5.0, stop, take, use_stops, funding)
    np.testing.assert_allclose(result.asset_net, expected, atol=1e-12)
    np.testing.assert_allclose(result.net, expected.sum(axis=0), atol=1e-12)
    assert result.trade_returns().sum() == pytest.approx(expected.sum())


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
    one = backtest(target, panel, FIVE_BPS, STOPS, stop_loss_pct=pct, take_profit_pct=pct)
    two = backtest(later, other, FIVE_BPS, STOPS, stop_loss_pct=pct, take_profit_pct=pct)
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
    assert result.exited[0].tolist() == [0, 0, 1]


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
    greedy = backtest(np.full((4, 80), 9.0), panel, FIVE_BPS)
    assert np.abs(greedy.position).sum(axis=0).max() == pytest.approx(1.0)
    lone = np.zeros((4, 80))
    lone[2] = 1
    shared = backtest(lone, panel, FIVE_BPS, BacktestConfig(allocation="gross", max_gross=2))
    assert shared.position[2, 1:].tolist() == [2.0] * 79


def test_funding_is_paid_by_the_position_before_the_fill():
    opens = np.full((1, 4), 100.0)
    funding = np.array([[0.0, 0.01, 0.02, 0.04]])
    result = backtest(np.array([[1.0, -1.0, 0.0, 0.0]]), panel_of(opens, opens, opens, opens), FREE, funding=funding)
    assert result.net == pytest.approx([0, 0, -0.02, 0.04])
    assert result.trade_returns() == pytest.approx([-0.02, 0.04])


def test_funding_table_is_put_on_the_grid():
    stamps = pd.to_datetime(
        ["2023-12-31T16:00Z", "2024-01-01T00:00:00.003Z", "2024-01-01T02:00Z", "2024-01-01T08:00Z"], format="ISO8601"
    )
    table = pd.DataFrame({"timestamp": stamps, "available_at": stamps, "funding_rate": [9.0, 1.0, 2.0, 9.0]})
    opens = np.ones((2, 4))
    panel = panel_of(opens, opens, opens, opens, tables={"funding": {"S1USDT": table}})
    assert funding_rates(panel).tolist() == [[0, 0, 0, 0], [1, 0, 2, 0]]
    assert funding_rates(panel_of(opens, opens, opens, opens)) is None


def test_cost_sweep_is_the_same_trades_at_other_costs():
    rng = np.random.default_rng(4)
    panel, target = random_panel(rng), rng.choice([-1.0, 0.0, 1.0], size=(4, 80))
    sweep = cost_sweep(backtest(target, panel, FIVE_BPS))
    assert list(sweep) == [0, 5, 10, 15, 20, 25, 30]
    at_twenty = backtest(target, panel, CostConfig(fee_bps=20, half_spread_bps=0, slippage_bps=0)).net
    np.testing.assert_allclose(sweep[20.0], at_twenty, atol=1e-15)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"panel's shape \(4, 80\), was \(4, 79\)"):
        backtest(np.zeros((4, 79)), random_panel(np.random.default_rng(0)))


def test_fifteen_symbols_of_five_years_take_less_than_a_second():
    rng = np.random.default_rng(0)
    panel, target = random_panel(rng, 15, 47_000), rng.choice([-1.0, 0.0, 1.0], size=(15, 47_000))
    pct = np.full(target.shape, 0.01)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        backtest(target, panel, FIVE_BPS, STOPS, stop_loss_pct=pct, take_profit_pct=pct).net.sum()
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0
