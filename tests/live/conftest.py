"""A small bundle with drawn weights, and what it forecasts offline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cryptoml.data.panel import Panel, panel_from_frames
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeaturePanel, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig, make_targets
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.models.bundle import Bundle, save_bundle
from cryptoml.models.ensemble import Calibration, Ensemble, Predictions
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.trading.config import TradingConfig

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
CONTEXT = 16
TRAIN_BARS = 2200
TARGETS = TargetConfig(volatility_halflife_bars=12, minimum_history_bars=12)
TRADING = TradingConfig(min_confidence=0.34, cost_multiple=0.0)
FEATURES = {
    "timeframe": "1h",
    "categories": ("price", "volatility", "cross_section"),
    # all but the level of the market's ranges, which encoders do not read
    "include": ("price_*", "volatility_*", "cross_section_[!m]*", "cross_section_market_return_*", "cross_section_market_[!r]*"),
}


@dataclass(frozen=True)
class Trained:
    """A bundle on disk with the panel and the offline predictions that it must reproduce."""

    path: Path
    bundle: Bundle
    panel: Panel
    offline: Predictions

    def frames(self, stop: int) -> dict[str, pd.DataFrame]:
        """Return every symbol's candles before bar `stop`."""
        cut = self.panel.slice_time(None, stop)
        return {symbol: cut.frame(symbol) for symbol in self.panel.symbols}


def random_candles(seed: int, bars: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.01, bars)))
    opened = np.append(close[0], close[:-1])
    spread = np.abs(draw.normal(0, 0.004, (2, bars)))
    return pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=bars, freq="h", tz="UTC"),
            "open": opened,
            "high": np.maximum(opened, close) * (1 + spread[0]),
            "low": np.minimum(opened, close) * (1 - spread[1]),
            "close": close,
            "volume": draw.lognormal(3, 0.5, bars),
        }
    )


def drawn_ensemble(num_features: int, seed: int = 5) -> Ensemble:
    torch.manual_seed(seed)
    shapes = {"num_features": num_features, "num_assets": len(SYMBOLS), "hidden_size": 8, "num_heads": 2, "lookback": CONTEXT}
    members = [build_forecaster(ForecasterConfig(architecture=name, **shapes)) for name in ("tft", "tcn")]
    shift = np.tile([-0.1, 0.0, 0.1], (3, 1))
    return Ensemble([member.eval() for member in members], (0.6, 0.4), Calibration(1.3, shift))


@pytest.fixture
def open_ai(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., UltimateTradingAI]:
    """Return a function that opens the bundle for a bot, each time in a folder of its own unless one is given."""

    def opened(config: dict[str, Any] | None = None, folder: Path | None = None) -> UltimateTradingAI:
        folder = folder or tmp_path_factory.mktemp("model")
        if not (folder / "bundle").is_dir():
            save_bundle(folder / "bundle", trained.bundle)
        ai = UltimateTradingAI(config, model_dir=folder)
        ai.load_state()
        return ai

    return opened


@pytest.fixture(scope="session")
def shifted(trained: Trained) -> dict[str, pd.DataFrame]:
    """Every symbol's candles with 60 newest bars that rise as the model has never seen it."""
    return {symbol: risen(frame, 60) for symbol, frame in trained.frames(2300).items()}


def risen(frame: pd.DataFrame, bars: int) -> pd.DataFrame:
    factor = np.exp(0.02 * np.r_[np.zeros(len(frame) - bars), np.arange(1, bars + 1)])
    prices = ["open", "high", "low", "close"]
    return frame.assign(**{name: frame[name] * factor for name in prices})


def drawn_bundle(panel: Panel, features: FeaturePanel, config: dict[str, Any], train_bars: int, seed: int = 5) -> Bundle:
    """Return a bundle with weights drawn from a seed and a scaler that is fitted on the panel's first bars."""
    engineer = AdvancedFeatureEngineer(config)
    span = (panel.timestamps[0], panel.timestamps[train_bars])
    return Bundle(
        ensemble=drawn_ensemble(len(features.names), seed),
        symbols=panel.symbols,
        timeframe="1h",
        context_bars=CONTEXT,
        feature_names=features.names,
        feature_lookbacks=tuple(one.lookback for one in (*engineer.features, *engineer.panel_features)),
        feature_config=config,
        scaler=FeatureScaler().fit(features.values, span, panel.timestamps).to_arrays(),
        target_config=TARGETS.model_dump(mode="json"),
        trading_config=TRADING.model_dump(mode="json"),
        metrics={},
        data_fingerprint=panel.fingerprint(),
        library_versions={"torch": torch.__version__},
        created_at="2024-03-01T00:00:00Z",
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    bars = TRAIN_BARS + 200
    panel = panel_from_frames({symbol: random_candles(seed, bars) for seed, symbol in enumerate(SYMBOLS)}, "1h")
    features = build_features(panel, AdvancedFeatureEngineer(FEATURES))
    bundle = drawn_bundle(panel, features, FEATURES, TRAIN_BARS)
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(path, bundle)
    scaled = FeatureScaler.from_arrays(bundle.scaler).transform(features.values)
    offline = bundle.ensemble.predict(scaled, make_targets(panel, TARGETS).sigma, CONTEXT)
    return Trained(path, bundle, panel, offline)
