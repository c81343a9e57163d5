"""Built-in markets with one regime left out, markets in which it comes, and models that were trained on the former."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryptoml.data.panel import Panel
from cryptoml.data.splits import Fold, walk_forward
from cryptoml.data.synthetic.candles import draw_candles
from cryptoml.data.synthetic.config import MarketConfig
from cryptoml.data.synthetic.dynamics import REGIMES, make_dynamics, simulate
from cryptoml.features.engineer import AdvancedFeatureEngineer, FeaturePanel, build_features
from cryptoml.features.scaling import FeatureScaler, ScalingConfig
from cryptoml.features.selection import CORE_FEATURES
from cryptoml.features.targets import TargetConfig, make_targets, with_regimes
from cryptoml.models.bundle import Bundle, load_bundle, save_bundle
from cryptoml.models.ensemble import Ensemble
from cryptoml.trading.config import TradingConfig
from cryptoml.training.adaptation import AdaptationConfig, AdapterArrays
from cryptoml.training.config import TrainingConfig
from cryptoml.training.fold import ScaledFold, calibrated, forecast_member, scale_fold
from cryptoml.training.member import FoldData, MemberConfig, fit_member
from cryptoml.training.rehearsal import learn_adapter

__all__ = ["LOOKBACK", "Trained", "Unseen", "draw_market", "held_out_market", "train", "train_on", "unseen_regimes"]

NUM_ASSETS, LOOKBACK = 6, 32
BRIEF, USUAL, LONG = 1.0, 150.0, 200.0
TARGETS = TargetConfig()
MEMBERS = (
    MemberConfig(name="tft", hidden_size=16, num_heads=2, variable_size=4),
    MemberConfig(name="tcn", architecture="tcn", hidden_size=32, num_heads=2, seed=1),
)


@dataclass(frozen=True)
class Unseen:
    """A regime and the market in which it comes.

    Attributes:
        name: For the table.
        left_out: Index of the regime that the training market lacks, and whose place it takes here.
        market: Settings of the market in which it comes.
    """

    name: str
    left_out: int
    market: MarketConfig


@dataclass(frozen=True, eq=False)
class Trained:
    """A model that never saw one regime.

    Attributes:
        panel: Its past.
        data: Scaled features and labels of its past.
        regimes: True regime at each bar of its past.
        targets: Settings of the labels, with regimes as its past showed them.
    """

    ensemble: Ensemble
    engineer: AdvancedFeatureEngineer
    scaler: FeatureScaler
    panel: Panel
    data: FoldData
    regimes: np.ndarray
    targets: TargetConfig

    def scaled(self, panel: Panel) -> np.ndarray:
        """Return the scaled features of a panel."""
        return self.scaler.transform(build_features(panel, self.engineer).values)

    def rehearse(self, config: AdaptationConfig) -> AdapterArrays:
        """Learn to adapt on the past alone."""
        return learn_adapter(self.ensemble, self.panel, self.engineer, self.scaler, self.targets, LOOKBACK, config)


def unseen_regimes(num_bars: int) -> list[Unseen]:
    """Return each regime of the built-in market, left out, and four that are none of it, in place of HIGH_VOL."""
    known = [Unseen(name, index, _market(num_bars, index, LONG)) for index, name in enumerate(REGIMES)]
    loud = REGIMES.index("HIGH_VOL")
    base = _market(num_bars, loud, LONG)
    known_volatility = base.regime_volatility[:loud]
    strange = {
        "CRASH": {"regime_drift": (0.04, -0.04, 0.0, -0.15), "regime_volatility": (*known_volatility, 2.8)},
        "MANIA": {"regime_drift": (0.04, -0.04, 0.0, 0.15), "regime_volatility": (*known_volatility, 1.6)},
        "CALM": {"regime_volatility": (*known_volatility, 0.16)},
    }
    novel = [Unseen(name, loud, base.model_copy(update=changes)) for name, changes in strange.items()]
    quiet = (*known_volatility, 0.8)
    faded = base.model_copy(update={"flow_strength": 0.0, "lead_lag_strength": 0.0, "regime_volatility": quiet})
    return [*known, *novel, Unseen("FADED", loud, faded)]


def held_out_market(left_out: int, num_bars: int) -> MarketConfig:
    """Return a market in which a regime never lasts more than one bar."""
    return _market(num_bars, left_out, BRIEF)


def _market(num_bars: int, index: int, duration: float) -> MarketConfig:
    durations = [USUAL] * len(REGIMES)
    durations[index] = duration
    a, b, c, d = durations
    return MarketConfig(num_assets=NUM_ASSETS, num_bars=num_bars, with_tables=False, regime_duration_bars=(a, b, c, d))


def draw_market(config: MarketConfig, seed: int) -> tuple[Panel, np.ndarray]:
    """Return candles and true regimes; markets of all seeds have the same leaders and followers."""
    rng = np.random.default_rng((seed, 1))
    dynamics = make_dynamics(config, np.random.default_rng(0))
    path = simulate(dynamics, rng)
    stamps = pd.date_range(pd.Timestamp(config.start).as_unit("us"), periods=config.num_bars, freq="1h", name="timestamp")
    symbols = tuple(f"C{number}USDT" for number in range(config.num_assets))
    return Panel(symbols, config.timeframe, stamps, draw_candles(config, path, rng)), path.regimes


def train(config: MarketConfig, seed: int, epochs: int, kept: Path | None = None) -> Trained:
    """Train and calibrate on one market, all of it; `kept` is a bundle to save to, or to take the models from."""
    return train_on(*draw_market(config, seed), seed, epochs, kept)


def train_on(panel: Panel, regimes: np.ndarray, seed: int, epochs: int, kept: Path | None = None) -> Trained:
    """Train and calibrate on a panel, as `train` does."""
    engineer = AdvancedFeatureEngineer({"include": CORE_FEATURES})
    fold = _fold(panel, TARGETS.horizons[-1])
    config = with_regimes(TARGETS, panel.slice_time(fold.train.start, fold.train.stop))
    features = build_features(panel, engineer)
    scaled = scale_fold(features, make_targets(panel, config), fold, config, ScalingConfig())
    if kept is not None and kept.exists():
        ensemble = load_bundle(kept).ensemble
    else:
        ensemble = fit(scaled.data, seed, epochs)
        if kept is not None:
            save_bundle(kept, _bundle(ensemble, panel, features, engineer, scaled))
    return Trained(ensemble, engineer, scaled.scaler, panel, scaled.data, regimes, config)


def fit(data: FoldData, seed: int, epochs: int) -> Ensemble:
    """Fit and calibrate the members."""
    torch.manual_seed(seed)
    training = TrainingConfig(max_epochs=epochs, patience=6, lr_patience=1, chunk_bars=128, seed=seed)
    members = [fit_member(data, one.task(data, training, LOOKBACK, seed), progress=False).build() for one in MEMBERS]
    return calibrated(members, [forecast_member(one, data, LOOKBACK) for one in members], data)


def _bundle(
    ensemble: Ensemble, panel: Panel, features: FeaturePanel, engineer: AdvancedFeatureEngineer, scaled: ScaledFold
) -> Bundle:
    lookbacks = engineer.catalogue().set_index("name")["lookback"]
    return Bundle(
        ensemble=ensemble,
        symbols=panel.symbols,
        timeframe=panel.timeframe,
        context_bars=LOOKBACK,
        feature_names=features.names,
        feature_lookbacks=tuple(int(lookbacks[name]) for name in features.names),
        feature_config={"include": CORE_FEATURES},
        scaler=scaled.scaler.to_arrays(),
        target_config=scaled.data.config.model_dump(mode="json"),
        trading_config=TradingConfig().model_dump(mode="json"),
        metrics={},
        data_fingerprint=panel.fingerprint(),
        library_versions={"torch": torch.__version__},
        created_at=pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds"),
    )


def _fold(panel: Panel, label_bars: int) -> Fold:
    """Leave the last fifth for validation, and a test of the least length."""
    return walk_forward(
        panel.num_bars,
        test_start=panel.num_bars - label_bars - 1,
        label_bars=label_bars,
        embargo_bars=0,
        validation_bars=panel.num_bars // 5,
    )[0]
