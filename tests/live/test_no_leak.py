"""No prediction, signal or trade reads what comes after it: all data after a bar is replaced, and nothing up to it changes.

The chain is walked whole: candles and every table, features of all categories, a bundle's forecasts, decisions, positions,
fills; then once more as a bot lives it, and as the pipeline forecasts its test.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.market import Market
from cryptoml.data.panel import CANDLE_FIELDS, Panel
from cryptoml.data.synthetic import MarketConfig, synthetic_market
from cryptoml.data.validation import HealthSummary
from cryptoml.evaluation.backtest import BacktestConfig, backtest
from cryptoml.features.contract import CATEGORIES, category_of
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeaturePanel, build_features
from cryptoml.live.predictor import Predictor
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.models.bundle import Bundle, save_bundle
from cryptoml.pipeline import run_pipeline
from cryptoml.trading.config import TradingConfig
from cryptoml.trading.forecasts import Forecasts
from cryptoml.trading.positions import plan_trades
from tests.live.conftest import drawn_bundle
from tests.tiny import tiny_experiment

BARS, BAR = 2300, 2240
CONFIG: dict[str, Any] = {"timeframe": "1h", "categories": None}
TRADING = TradingConfig(min_confidence=0.34, cost_multiple=0.0, holding_bars=3, max_gross=0.06)


def replaced_after(panel: Panel, bar: int, seed: int = 7) -> Panel:
    """Replace every number that nobody could have read by the close of a bar, in candles and in all tables."""
    rng = np.random.default_rng(seed)
    candles = panel.candles.copy()
    later = candles[:, bar + 1 :]
    walk = np.exp(np.cumsum(0.03 * rng.standard_normal(later.shape[:2]), axis=1))
    for index, name in enumerate(CANDLE_FIELDS):
        later[..., index] *= walk if name in ("open", "high", "low", "close") else rng.uniform(0.2, 5, later.shape[:2])
    known_until = panel.timestamps[bar] + pd.Timedelta(hours=1)
    tables = {
        name: {key: _replaced(frame, known_until, rng) for key, frame in rows.items()} for name, rows in panel.tables.items()
    }
    return replace(panel, candles=candles, tables=tables)


def _replaced(frame: pd.DataFrame, known_until: pd.Timestamp, rng: np.random.Generator) -> pd.DataFrame:
    """Scale the later rows' numbers, and drop every third of these rows."""
    later = frame["available_at"] > known_until
    changed = frame.copy()
    for name in frame.columns.difference(["timestamp", "available_at", "metric", "num_trades"]):
        factor = float(rng.uniform(0.3, 3))
        changed[name] = [value * factor if row else value for value, row in zip(frame[name], later, strict=True)]
    return changed[~(later & (np.arange(len(frame)) % 3 == 0))]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return synthetic_market(MarketConfig(num_assets=3, num_bars=BARS)).panel


@pytest.fixture(scope="module")
def moved(panel: Panel) -> Panel:
    return replaced_after(panel, BAR)


@pytest.fixture(scope="module")
def features(panel: Panel) -> FeaturePanel:
    return build_features(panel, AdvancedFeatureEngineer(CONFIG))


@pytest.fixture(scope="module")
def bundle(panel: Panel, features: FeaturePanel) -> Bundle:
    return drawn_bundle(panel, features, CONFIG, BAR - 40, seed=10)  # which buys and sells about as often


def test_features_of_every_category(panel: Panel, moved: Panel, features: FeaturePanel) -> None:
    assert set(panel.tables) == {"funding", "onchain", "venue_candles", "orderbook"}
    after = build_features(moved, AdvancedFeatureEngineer(CONFIG)).values
    known, later = slice(None, BAR + 1), slice(BAR + 1, None)
    np.testing.assert_array_equal(features.values[:, known], after[:, known])
    told = np.any((features.values[:, later] != after[:, later]) & ~np.isnan(after[:, later]), axis=(0, 1))
    changed = {category_of(name) for name, row in zip(features.names, told, strict=True) if row}
    assert changed >= set(CATEGORIES) - {"time"}


def traded(bundle: Bundle, panel: Panel) -> dict[str, np.ndarray]:
    """Walk from raw candles to fills; every array is `[asset, time, ...]`."""
    predictor = Predictor(bundle, trading=TRADING)
    predictions, signals = predictor.decide_bars(panel, 120)
    recent = panel.slice_time(BARS - 120, None)
    forecasts = Forecasts.of(
        predictions.probabilities,
        predictions.volatility,
        horizon_bars=24,
        timeframe="1h",
        quantiles=predictions.quantiles[:, :, 2],
        quantile_levels=(0.1, 0.5, 0.9),
        regime=predictions.regime,
    )
    plan = plan_trades(forecasts, TRADING)
    stops = {"stop_loss_pct": plan.stop_loss_pct, "take_profit_pct": plan.take_profit_pct}
    account = backtest(plan.target, recent, TRADING, BacktestConfig(use_stops=True), **stops)
    parts = {part.name: getattr(predictions, part.name) for part in fields(predictions)}
    parts |= {part.name: getattr(signals, part.name) for part in fields(signals)}
    return parts | {"target": plan.target, "held": account.position, "turnover": account.asset_turnover, "net": account.asset_net}


def test_forecasts_signals_and_trades(panel: Panel, moved: Panel, bundle: Bundle) -> None:
    before, after = traded(bundle, panel), traded(bundle, moved)
    known = BAR - (BARS - 120) + 1
    assert len(np.unique(before["action"][:, :known])) > 1
    for name, values in before.items():
        # a bar's return ends at the next open, and a stop is met inside the bar
        last = known - 1 if name in ("net", "turnover") else known + 1 if name == "held" else known
        np.testing.assert_array_equal(values[:, :last], after[name][:, :last], err_msg=name)
        assert not np.array_equal(values[:, known + 1 :], after[name][:, known + 1 :], equal_nan=True), name


def lived(folder: Path, panel: Panel, tables: Mapping[str, Any], after: Panel) -> tuple[list[Any], list[Any]]:
    """Let a bot ask at the last bars; it has the open bar's candle and whole tables, of which `now` lets it see a part."""
    ai = UltimateTradingAI(TRADING.model_dump(exclude={"costs"}), model_dir=folder)
    ai.load_state()
    found, held = [], []
    for bar in range(BAR - 3, BAR + 1):
        now = panel.timestamps[bar] + pd.Timedelta(hours=1)
        closed, unfinished = panel.slice_time(None, bar + 1), after.slice_time(bar + 1, bar + 2)
        frames = {name: pd.concat([closed.frame(name), unfinished.frame(name)], ignore_index=True) for name in panel.symbols}
        found.append(asyncio.run(ai.predict_all(frames, tables=tables, now=now)))
        held.append((ai.target_positions(), [ai.get_trading_signal(name) for name in panel.symbols]))
    return found, held


def test_what_a_bot_sees_and_does(panel: Panel, moved: Panel, bundle: Bundle, tmp_path: Path) -> None:
    results = []
    for name, tables, after in (("before", panel.tables, panel), ("after", moved.tables, moved)):
        save_bundle(tmp_path / name / "bundle", bundle)
        results.append(lived(tmp_path / name, panel, tables, after))
    assert results[0] == results[1]
    assert {one["refusal"] for found in results[0][0] for one in found.values()} == {None}
    assert any(value for targets, _ in results[0][1] for value in targets.values())


@pytest.mark.slow
def test_forecasts_of_the_pipeline(tmp_path: Path) -> None:
    """Training ends before the bar, so that both runs have the same models; the tables change with the candles."""
    config = tiny_experiment(
        features={"categories": ["price", "onchain", "microstructure", "cross_exchange", "cross_section"], "include": None},
        sweep={"num_trials": 0},
        shuffled_label_run=False,
    )
    panel = synthetic_market(MarketConfig(num_assets=3, num_bars=1200)).panel
    bar, train_end = 1100, panel.timestamps[900]
    runs = {}
    for name, one in (("before", panel), ("after", replaced_after(panel, bar))):
        market = Market(one, HealthSummary(), name)
        runs[name] = run_pipeline(config, market, tmp_path / name, train_end=train_end).predictions
    known = runs["before"]["timestamp"] <= panel.timestamps[bar]
    pd.testing.assert_frame_equal(runs["before"][known], runs["after"][known], check_exact=True)
    assert known.sum() > 300
    assert not np.array_equal(runs["before"].loc[~known, "p_up"], runs["after"].loc[~known, "p_up"])
