"""A model to serve in benchmarks: shapes of the baseline preset with drawn weights, and candles that end just now."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryptoml.data.panel import panel_from_frames
from cryptoml.data.schema import parse_timeframe
from cryptoml.features.engineer import AdvancedFeatureEngineer, build_features
from cryptoml.features.scaling import FeatureScaler
from cryptoml.features.targets import TargetConfig
from cryptoml.models.bundle import Bundle, save_bundle
from cryptoml.models.ensemble import Calibration, Ensemble
from cryptoml.models.forecaster import ForecasterConfig, build_forecaster
from cryptoml.trading.config import TradingConfig

__all__ = ["BASE", "CONTEXT", "frames_until_now", "save_served_bundle", "symbols_of"]

BASE = 300
BARS = 2400
CONTEXT = 64
CATEGORIES = {"1h": ("price", "volatility", "momentum", "cross_section"), "1m": ("pattern", "time")}
"""Features by timeframe; windows given in hours or days are too long for a service that starts without minutes of months."""


def symbols_of(assets: int) -> tuple[str, ...]:
    """Return names of markets."""
    return tuple(f"C{number:03d}USDT" for number in range(assets))


def frames_until_now(assets: int, bars: int = BARS, timeframe: str = "1h") -> dict[str, pd.DataFrame]:
    """Return drawn candles by symbol, the last of which closed just now."""
    step = parse_timeframe(timeframe)
    stamps = pd.date_range(end=pd.Timestamp.now("UTC").floor(step) - step, periods=bars, freq=step)
    return {symbol: _candles(number, stamps) for number, symbol in enumerate(symbols_of(assets))}


def save_served_bundle(path: Path, assets: int, timeframe: str = "1h") -> Path:
    """Write a bundle of two members, a transformer and convolutions."""
    if (path / "bundle.json").is_file():
        return path
    settings = {"timeframe": timeframe, "categories": CATEGORIES[timeframe]}
    engineer, frames = AdvancedFeatureEngineer(settings), frames_until_now(min(assets, 3), timeframe=timeframe)
    panel = panel_from_frames(frames, timeframe)
    features = build_features(panel, engineer)
    scaler = FeatureScaler().fit(features.values, (panel.timestamps[0], panel.timestamps[-1]), panel.timestamps)
    torch.manual_seed(0)
    shapes = {"num_features": len(features.names), "num_assets": assets, "hidden_size": 32, "lookback": CONTEXT}
    members = [build_forecaster(ForecasterConfig(architecture=name, **shapes)).eval() for name in ("tft", "tcn")]
    bundle = Bundle(
        ensemble=Ensemble(members, (0.6, 0.4), Calibration(1.2)),
        symbols=symbols_of(assets),
        timeframe=timeframe,
        context_bars=CONTEXT,
        feature_names=features.names,
        feature_lookbacks=tuple(one.lookback for one in (*engineer.features, *engineer.panel_features)),
        feature_config=settings,
        scaler=scaler.to_arrays(),
        target_config=TargetConfig(volatility_halflife_bars=12, minimum_history_bars=12).model_dump(mode="json"),
        trading_config=TradingConfig().model_dump(mode="json"),
        metrics={},
        data_fingerprint=panel.fingerprint(),
        library_versions={"torch": torch.__version__},
        created_at="2024-03-01T00:00:00Z",
    )
    save_bundle(path, bundle)
    return path


def _candles(seed: int, stamps: pd.DatetimeIndex) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.01, len(stamps))))
    opened = np.append(close[0], close[:-1])
    spread = np.abs(draw.normal(0, 0.004, (2, len(stamps))))
    return pd.DataFrame(
        {
            "timestamp": stamps,
            "open": opened,
            "high": np.maximum(opened, close) * (1 + spread[0]),
            "low": np.minimum(opened, close) * (1 - spread[1]),
            "close": close,
            "volume": draw.lognormal(3, 0.5, len(stamps)),
        }
    )
