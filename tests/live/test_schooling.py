"""A bot's model is trained beside its event loop, goes on after an interruption, and obeys every key of the configuration."""

import asyncio
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryptoml.data.panel import Panel
from cryptoml.errors import ConfigError, DataError
from cryptoml.live.candles import market_of
from cryptoml.live.schooling import chosen_features
from cryptoml.live.settings import LiveSettings
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.models.bundle import load_bundle
from tests.live.schools import CONFIG, SYMBOLS, historical_frame, market_panel

PRODUCT = {
    **{"input_size": 150, "hidden_size": 160, "num_attention_heads": 4, "num_layers": 3, "dropout": 0.2},
    **{"batch_size": 64, "learning_rate": 0.001, "num_epochs": 100, "patience": 15, "grad_clip": 1.0},
    **{"min_confidence": 0.65, "position_size": 0.02, "stop_loss_pct": 0.02, "take_profit_pct": 0.04},
    **{"inner_lr": 0.01, "num_inner_steps": 5, "memory_size": 1000, "importance_weight": 0.5},
}
NO_LOOP_BLOCK_S = 0.1


@pytest.fixture(scope="module")
def panel() -> Panel:
    return market_panel()


def train(folder: Path, data: Any, config: dict[str, Any] | None = None, **options: Any) -> tuple[UltimateTradingAI, Any]:
    ai = UltimateTradingAI(CONFIG | (config or {}), model_dir=folder)
    return ai, asyncio.run(ai.train_from_historical_data(data, list(SYMBOLS), **options))


@pytest.fixture(scope="module")
def trained_once(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("school")
    _, history = train(folder, historical_frame(panel), epochs=3)
    return folder, history


def test_history_is_ready_for_a_chart(trained_once: tuple[Path, dict[str, Any]]) -> None:
    folder, history = trained_once
    assert len(history["train_loss"]) == len(history["val_loss"]) == 3
    assert history["members"]["tft"]["train_loss"] == history["train_loss"]
    assert history["weights"] == {"tft": 1.0}
    assert load_bundle(folder / "bundle").symbols == SYMBOLS
    assert not (folder / ".work").exists()


def test_it_learns_up_to_the_newest_bars(trained_once: tuple[Path, dict[str, Any]], panel: Panel) -> None:
    bundle = load_bundle(trained_once[0] / "bundle")
    horizon = 4
    assert panel.timestamps[-1] - pd.Timestamp(bundle.known_until) <= (2 * horizon + 2) * pd.Timedelta(hours=1)


def test_after_training_the_new_bars_alone_will_do(panel: Panel, tmp_path: Path) -> None:
    ai, _ = train(tmp_path, panel.slice_time(None, 890), epochs=1)
    found = asyncio.run(ai.predict_all({symbol: panel.frame(symbol).tail(12) for symbol in SYMBOLS}))
    assert {one["refusal"] for one in found.values()} == {None}


@pytest.mark.parametrize("form", ["mapping", "index", "panel", "csv", "folder"])
def test_data_in_any_form_trains_the_same_model(
    form: str, panel: Panel, trained_once: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    frames = {symbol: panel.frame(symbol) for symbol in panel.symbols}
    data: Any = {"mapping": frames, "panel": panel, "index": historical_frame(panel).set_index("timestamp")}.get(form)
    if form == "csv":
        data = tmp_path / "historical.csv"
        historical_frame(panel).to_csv(data, index=False)
    if form == "folder":
        data = tmp_path / "candles"
        data.mkdir()
        for symbol, frame in frames.items():
            frame.to_parquet(data / f"{symbol}-1h.parquet")
    market = market_of(data, SYMBOLS)
    assert market.panel.symbols == SYMBOLS
    np.testing.assert_allclose(market.panel.candles, panel.select(SYMBOLS).candles, rtol=1e-12)


def test_an_interrupted_training_goes_on(panel: Panel, trained_once: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    heard: list[int] = []

    async def interrupted() -> None:
        ai = UltimateTradingAI(CONFIG, model_dir=tmp_path)
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hear(name: str, epoch: Any) -> None:
            heard.append(epoch.epoch)
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.2)

        task = asyncio.create_task(ai.train_from_historical_data(panel, list(SYMBOLS), epochs=3, on_epoch_end=hear))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert heard == [1]
    assert not (tmp_path / "bundle").exists()
    again: list[int] = []
    _, history = train(tmp_path, panel, epochs=3, on_epoch_end=lambda name, epoch: again.append(epoch.epoch))
    assert again == [2, 3]
    assert history["val_loss"] == trained_once[1]["val_loss"]


def test_the_event_loop_goes_on_while_a_model_is_trained(panel: Panel, tmp_path: Path) -> None:
    gaps: list[float] = []

    async def beat() -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.002)
            now = time.process_time()
            gaps.append(now - last)
            last = now

    async def work() -> None:
        pulse = asyncio.create_task(beat())
        ai = UltimateTradingAI(CONFIG, model_dir=tmp_path)
        await ai.train_from_historical_data(panel, epochs=2)
        pulse.cancel()

    asyncio.run(work())
    assert len(gaps) > 50
    assert max(gaps) < NO_LOOP_BLOCK_S


def test_hyperparameters_are_searched_on_request(panel: Panel, tmp_path: Path) -> None:
    _, history = train(tmp_path, panel, epochs=1, optimize_hyperparams=True)
    assert history["best_parameters"]
    assert (tmp_path / "sweep").is_dir()


def test_every_key_of_the_product_reaches_its_part() -> None:
    settings = LiveSettings.of(PRODUCT)
    config = settings.base_experiment
    for member in config.members:
        assert (member.hidden_size, member.num_heads, member.num_layers, member.dropout) == (160, 4, 3, 0.2)
        assert member.learning_rate is None
    loop = config.training
    assert (loop.batch_size, loop.learning_rate, loop.max_epochs, loop.patience, loop.grad_clip) == (64, 0.001, 100, 15, 1.0)
    trading = settings.trading_over({"min_confidence": 0.4, "max_position": 0.07})
    assert (trading.min_confidence, trading.position_size, trading.max_position) == (0.65, 0.02, 0.07)
    assert (trading.stop_loss_pct, trading.take_profit_pct) == (0.02, 0.04)
    assert config.trading == settings.trading_over({})
    assert (config.adaptation.inner_lr, config.adaptation.num_inner_steps) == (0.01, 5)
    assert (config.renewal.memory_size, config.renewal.importance_weight) == (1000, 0.5)
    steps, scale = LiveSettings.of({"inner_lr": 0.02, "num_inner_steps": 7}).adaptation_over({"inner_lr": 0.01})
    assert (steps.num_inner_steps, scale) == (7, 2.0)


def test_keys_shape_the_model(panel: Panel, tmp_path: Path) -> None:
    keys = {"input_size": 12, "hidden_size": 12, "num_attention_heads": 3, "num_layers": 2, "dropout": 0.0, "stop_loss_pct": 0.02}
    train(tmp_path, panel, keys, epochs=1)
    bundle = load_bundle(tmp_path / "bundle")
    shape = bundle.ensemble.config
    assert (shape.num_features, shape.hidden_size, shape.num_heads, shape.num_layers, shape.dropout) == (12, 12, 3, 2, 0.0)
    assert bundle.trading_config["stop_loss_pct"] == 0.02


@pytest.mark.parametrize("promoted", [True, False])
def test_a_continual_step_serves_only_where_it_is_better(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    monkeypatch.setattr("cryptoml.update.Duel.won", property(lambda self: promoted))
    keys = {"memory_size": 3, "importance_weight": 2.0}
    ai, _ = train(tmp_path, panel.slice_time(None, 700), keys, epochs=1)
    asyncio.run(ai.predict_all({symbol: panel.frame(symbol) for symbol in SYMBOLS}))
    held, before = ai.target_positions(), load_bundle(tmp_path / "bundle")
    done = asyncio.run(ai.learn_continually(panel, list(SYMBOLS), judge_bars=48))
    after = load_bundle(tmp_path / "bundle")
    assert (done["method"], done["promoted"]) == ("continual", promoted)
    assert set(done["duel"]) >= {"champion", "challenger", "difference", "forgetting"}
    assert (after.known_until > before.known_until) == promoted
    assert ai.target_positions() == held
    assert asyncio.run(ai.predict_all({symbol: panel.frame(symbol).tail(3) for symbol in SYMBOLS}))
    assert ai.get_performance_report()["num_predictions"] == 3


def test_input_size_counts_features_that_the_data_fills(panel: Panel) -> None:
    names = chosen_features(panel, 150)
    assert len(set(names)) == 150
    assert not any(name.startswith(("onchain", "cross_exchange")) for name in names)
    with pytest.raises(ConfigError, match=r"input_size must be at most \d+, the features that this data can fill, was 400"):
        chosen_features(panel, 400)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hiden_size": 64}, "'hiden_size' is unknown, the nearest known name is 'hidden_size'"),
        ({"learning_rates": 0.1}, "'learning_rates' is unknown, the nearest known name is 'learning_rate'"),
        ({"dropout": 1.5}, "dropout: .* less than 1, was 1.5"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "multiple of num_heads 4, was 30"),
        ({"position_size": 0.5}, "position_size must be at most max_position 0.05, was 0.5"),
        ({"experiment": {"lookbak": 3}}, "lookbak"),
    ],
)
def test_impossible_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UltimateTradingAI(config)


@pytest.mark.parametrize(
    ("data", "symbols", "message"),
    [
        ("frame", None, "need a column 'symbol'"),
        ("long", ["DOGE/USDT"], "must hold DOGEUSDT"),
        ("short", None, "training needs at least|must be longer|too short|test_start"),
        ("naive", None, "timezone"),
        (3, None, "was int"),
        ("missing.csv", None, "missing.csv"),
    ],
)
def test_unusable_data(panel: Panel, tmp_path: Path, data: Any, symbols: Any, message: str) -> None:
    long = historical_frame(panel)
    given = {
        "frame": panel.frame("BTCUSDT"),
        "long": long,
        "short": panel.slice_time(None, 20),
        "naive": long.assign(timestamp=long["timestamp"].dt.tz_localize(None)),
    }.get(data, data)
    ai = UltimateTradingAI(CONFIG, model_dir=tmp_path / "model")
    with pytest.raises((DataError, ConfigError), match=message):
        asyncio.run(ai.train_from_historical_data(given, symbols))


def test_bad_rows_are_told(panel: Panel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = historical_frame(panel)
    long.loc[5, "close"] = -1.0
    caplog.set_level(logging.WARNING)
    train(tmp_path, long, epochs=1)
    assert "quarantined" in caplog.text


def test_a_model_folder_travels(trained_once: tuple[Path, dict[str, Any]], panel: Panel, tmp_path: Path) -> None:
    shutil.copytree(trained_once[0], tmp_path / "elsewhere")
    ai = UltimateTradingAI(CONFIG, model_dir=tmp_path / "elsewhere")
    ai.load_state()
    found = asyncio.run(ai.predict(panel.frame("BTCUSDT"), "BTC/USDT"))
    assert found["refusal"] is None
    assert found["feature_importance"]
