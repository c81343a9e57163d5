"""Crypto market data to trading signals, on one laptop or a Ray cluster.

The public names below are loaded on first use (PEP 562), so `import cryptoml` costs neither torch nor ray.
Read `cryptoml/pipeline.py` first: it is the whole flow in one process.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AdvancedFeatureEngineer": "cryptoml.features.engineer",
    "BundleError": "cryptoml.errors",
    "ConfigError": "cryptoml.errors",
    "ContinualLearner": "cryptoml.training.continual",
    "CryptomlError": "cryptoml.errors",
    "DataError": "cryptoml.errors",
    "Ensemble": "cryptoml.models.ensemble",
    "ExperimentConfig": "cryptoml.config",
    "Forecaster": "cryptoml.models.forecaster",
    "GraphAttentionNetwork": "cryptoml.models.gat",
    "HyperparameterOptimizer": "cryptoml.distributed.tuning.optimizer",
    "Lake": "cryptoml.data.lake",
    "MetaLearningMAML": "cryptoml.training.maml",
    "MultiTaskLearningHead": "cryptoml.models.multitask",
    "OnChainMetrics": "cryptoml.features.onchain",
    "Panel": "cryptoml.data.panel",
    "Predictor": "cryptoml.live.predictor",
    "TemporalFusionTransformer": "cryptoml.models.tft",
    "UltimateTrainer": "cryptoml.training.trainer",
    "UltimateTradingAI": "cryptoml.live.trading_ai",
    "UncertaintyWeightedLoss": "cryptoml.training.losses",
    "create_ensemble_predictions": "cryptoml.training.combination",
    "integrate_with_existing_bot": "cryptoml.live.bots",
    "load_bundle": "cryptoml.models.bundle",
    "load_panel": "cryptoml.data.loading",
    "optimize_ensemble_weights": "cryptoml.training.combination",
    "run_pipeline": "cryptoml.pipeline",
    "synthetic_market": "cryptoml.data.synthetic",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cryptoml' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
