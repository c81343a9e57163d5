"""The smallest experiment that goes through every stage: three assets, a few features, two epochs."""

from typing import Any

from cryptoml.config import ExperimentConfig, preset

__all__ = ["SETTINGS", "tiny_experiment"]

SETTINGS: dict[str, Any] = {
    "lookback": 16,
    "market": {"num_assets": 3, "num_bars": 1500, "with_tables": False},
    "features": {"categories": ["price", "time"], "include": None},
    "targets": {
        "horizons": [1, 4],
        "primary_horizon": 4,
        "volatility_halflife_bars": 12,
        "minimum_history_bars": 12,
        "long_run_halflife_bars": 24,
    },
    "members": [
        {"name": "tft", "architecture": "tft", "hidden_size": 8, "num_heads": 2, "variable_size": 2},
        {"name": "tcn", "architecture": "tcn", "hidden_size": 8, "num_heads": 2, "seed": 1},
    ],
    "training": {"max_epochs": 2, "chunk_bars": 128, "batch_size": 8},
    "sweep": {
        "num_trials": 2,
        "max_epochs": 1,
        "space": {"hidden_size": [8], "num_heads": [2], "num_layers": [1], "batch_size": [8]},
    },
    "bootstrap": {"num_draws": 20},
    "adaptation": {"rehearsals": 2, "tasks": 4, "markets": 1, "bars": 500, "every_bars": 48},
}
"""Changes to the preset `debug`, as a YAML file would state them."""


def tiny_experiment(**changes: Any) -> ExperimentConfig:
    """Return the experiment with further changes."""
    return preset("debug").updated(**SETTINGS).updated(**changes)
