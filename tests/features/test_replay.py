"""Recorded formulas: what can be recorded, and that a replay has the bits of the batch, bar by bar, on any market."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptoml.features.bars import Bars
from cryptoml.features.contract import Feature, feature
from cryptoml.features.engineer import AdvancedFeatureEngineer
from cryptoml.features.joins import bars_from_panel
from cryptoml.features.live_plan import LivePlan
from cryptoml.features.replay import Program, Replay
from cryptoml.features.rolling import delay, ema, rolling_comoment, rolling_slope, rolling_sum, safe_ratio, zscore
from cryptoml.features.trace import Tape, UntraceableError

NUM_BARS = 120
CLOCKED = 13
"""Features of the calendar: they read stamps."""


@pytest.fixture(scope="module")
def plan(engineer):
    return LivePlan(engineer.features, "6h")


def replayed(program: Program, columns: dict[str, np.ndarray], start: int) -> np.ndarray:
    """Return `[output, time]` of the bars from `start` on, those before worked through at once."""
    filled = Bars(pd.date_range("2024", periods=start, freq="6h", tz="UTC"), "6h", {k: v[:start] for k, v in columns.items()})
    replay = Replay(program)
    replay.run({name: filled.column(name) for name in program.columns})
    rows = []
    for bar in range(start, len(columns["close"])):
        replay.step(np.array([columns[name][bar] for name in program.columns]))
        rows.append(replay.outputs)
    return np.array(rows).T


def test_nearly_every_formula_is_recorded(plan):
    direct = [plan.features[one].name for members in plan.direct.values() for one in members]
    assert sorted(name for name in direct if not name.startswith("time_")) == ["momentum_aroon_25", "pattern_streak"]
    assert len(direct) == CLOCKED + 2


@pytest.mark.parametrize("start", [0, 1, 1_500])
def test_replay_has_the_bits_of_the_batch_at_every_bar(engineer, panel, plan, start):
    bars = bars_from_panel(panel, "SOLUSDT").slice(0, 2_400)
    rows = replayed(plan.program, dict(bars.columns), start)
    for row, place in zip(rows, plan.replayed, strict=True):
        whole = engineer.features[place](bars)[start:]
        defined = np.isfinite(whole)
        np.testing.assert_array_equal(row[defined], whole[defined], err_msg=engineer.features[place].name)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([0, 0, 1, -1, 5]), min_size=NUM_BARS, max_size=NUM_BARS),
    st.sampled_from([1e-8, 0.1, 1e6]),
    st.sets(st.integers(0, NUM_BARS - 1), max_size=3),
    st.integers(0, NUM_BARS - 1),
)
def test_replay_has_the_bits_of_the_batch_on_any_market(engineer, plan, steps, tick, gaps, start):
    close = np.maximum(500 + np.cumsum(steps), 1) * tick
    columns = {"open": np.r_[close[:1], close[:-1]], "close": close, "volume": np.abs(np.array(steps, float))}
    columns |= {"high": np.maximum(columns["open"], close), "low": np.minimum(columns["open"], close)}
    columns = {name: np.where(np.isin(np.arange(NUM_BARS), list(gaps)), np.nan, values) for name, values in columns.items()}
    absent = {name: np.full(NUM_BARS, np.nan) for name in plan.program.columns if name not in columns}
    bars = Bars(pd.date_range("2024", periods=NUM_BARS, freq="6h", tz="UTC"), "6h", columns)
    rows = replayed(plan.program, columns | absent, start)
    for row, place in zip(rows, plan.replayed, strict=True):
        whole = engineer.features[place](bars)[start:]
        defined = np.isfinite(whole)
        np.testing.assert_array_equal(row[defined], whole[defined], err_msg=engineer.features[place].name)


FORMULAS = {
    "chained delays": lambda x, y: delay(delay(x, 3), 2) + x,
    "in place": lambda x, y: _doubled(x * 1.0),
    "conditions": lambda x, y: np.where((x > y) & ~(x < 0) | (x == 0), x, -1.0),
    "powers": lambda x, y: x**2 + abs(x) ** 0.5,
    "ratio": lambda x, y: safe_ratio(x, np.maximum(y, 0.0), 7.0),
    "kernels": lambda x, y: zscore(x, 5) + ema(y, 0.5) + rolling_comoment(x, y, 7) + rolling_slope(x, 6)[1],
    "nested": lambda x, y: rolling_sum(zscore(rolling_sum(x, 3), 4), 5),
    "window of one bar": lambda x, y: zscore(x, 1) + rolling_sum(y, 1),
}


def _doubled(values):
    values *= 2.0
    values -= 1.0
    return values


@pytest.mark.parametrize("name", FORMULAS)
def test_what_can_be_recorded_means_what_it_means_for_arrays(name):
    rng, formula = np.random.default_rng(0), FORMULAS[name]
    columns = {"close": rng.normal(size=60).round(1), "open": rng.normal(size=60).round(1)}
    tape = Tape()
    result = formula(tape.column("close"), tape.column("open"))
    program = Program(tape.steps, [result.place])
    whole = formula(columns["close"], columns["open"])
    for start in (0, 40):
        row = replayed(program, columns, start)[0]
        defined = np.isfinite(whole[start:])
        assert defined.sum() > 10
        np.testing.assert_array_equal(row[defined], whole[start:][defined])


REFUSED = {
    "sum": lambda x: np.sum(x),
    "reduce": lambda x: np.add.reduce(x),
    "branch": lambda x: x if x > 0 else -x,
    "single value": lambda x: x - x[-1],
    "head": lambda x: x[:5],
    "array": lambda x: np.asarray(x),
    "constant per bar": lambda x: x + np.arange(3),
    "whole numbers": lambda x: x.astype(int),
    "number": lambda x: float(x),
    "loop": lambda x: list(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_value_bar_by_bar_is_not_recorded(name):
    with pytest.raises(TypeError):
        REFUSED[name](Tape().column("close"))


def test_equal_steps_are_recorded_once():
    tape = Tape()
    first, second = (np.log(tape.column("close")) * 2.0 for _ in range(2))
    assert first.place == second.place
    with pytest.raises(UntraceableError):
        bool(first)


def test_steps_that_no_output_needs_are_left_out():
    tape = Tape()
    wanted, _ = tape.column("close") + 1.0, np.exp(tape.column("open"))
    assert Program(tape.steps, [wanted.place]).columns == ("close",)


def test_methods_run_anew_at_every_bar(make_candles):
    class Mine(AdvancedFeatureEngineer):
        scale = 1.0

        @feature("price", lookback=2, inputs=("close",))
        def scaled(self, bars):
            """scale x change"""
            return self.scale * (bars.close - delay(bars.close, 1))

    mine, candles = Mine({"timeframe": "6h", "categories": ("price",)}), make_candles(30, 0)
    live = mine.live(candles.iloc[:28])
    before = live.update(candles.iloc[28])["price_scaled"]
    mine.scale = 2.0
    assert live.update(candles.iloc[29])["price_scaled"] == pytest.approx(2 * candles["close"].diff().iloc[29], rel=1e-5)
    assert before == pytest.approx(candles["close"].diff().iloc[28], rel=1e-5)


def test_formula_that_cannot_be_recorded_runs_on_its_lookback():
    def last_over_mean(bars):
        return np.full(len(bars), bars.close[-1] / bars.close.mean())

    one = Feature("price_x", "price", ("close",), 3, last_over_mean)
    plan = LivePlan([one], "1h")
    assert plan.direct == {3: [0]}
    assert not len(plan.replayed)
