"""Give a model to a trading bot that already exists."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptoml.errors import ConfigError
from cryptoml.live.settings import LiveSettings, nearest_key
from cryptoml.live.trading_ai import UltimateTradingAI
from cryptoml.trading.config import TradingConfig

__all__ = ["integrate_with_existing_bot"]

logger = logging.getLogger(__name__)

SECTION = "cryptoml"


async def integrate_with_existing_bot(
    bot_instance: Any,
    config: Mapping[str, Any] | None = None,
    train_on_startup: bool = False,
    historical_data_path: str | Path | None = None,
    *,
    symbols: Sequence[str] | None = None,
    device: Any = None,
    model_dir: str | Path = "models/ultimate",
) -> UltimateTradingAI:
    """Load or train a model and set it as the bot's attribute `ai_system`.

    A bot without an event loop calls `asyncio.run(integrate_with_existing_bot(self, ...))`, and each forecast likewise.

    Args:
        bot_instance: Any object that takes attributes.
        config: The bot's own configuration. Its section `cryptoml`, where there is one, holds the settings of
            `UltimateTradingAI`; else those of its keys that are settings count, and the others are left alone.
        train_on_startup: Train on historical data and save the state; else the model and state of `model_dir` are loaded.
        historical_data_path: A candle file, a folder of them, or a lake.
        symbols: Markets to train on; the bot's `symbols` where None, and all of the data where it has none.
        device: Where the models run.
        model_dir: Folder of the model and its state.

    Raises:
        ConfigError: A setting is unknown or impossible, a key of the bot's is misspelled, or training lacks the data's path.
        BundleError: There is nothing to load, or it is damaged.
        DataError: The historical data cannot be used.
    """
    ai = UltimateTradingAI(settings_of(config or {}), device, model_dir)
    if train_on_startup:
        if historical_data_path is None:
            raise ConfigError("historical_data_path must be given where train_on_startup is set, was None")
        wanted = symbols or getattr(bot_instance, "symbols", None)
        await ai.train_from_historical_data(historical_data_path, wanted)
        ai.save_state()
    else:
        ai.load_state()
    bot_instance.ai_system = ai
    return ai


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a bot's configuration holds for the model.

    Raises:
        ConfigError: A key is no setting, but nearly one.
    """
    section = config.get(SECTION)
    if isinstance(section, Mapping):
        return dict(section)
    known = {key: value for key, value in config.items() if key in LiveSettings.model_fields or key in TradingConfig.model_fields}
    others = [str(key) for key in config if key not in known]
    misspelled = next(((key, near) for key in others if (near := nearest_key(key, 0.85)) is not None), None)
    if misspelled is not None:
        raise ConfigError(
            f"setting {misspelled[0]!r} is unknown, the nearest known name is {misspelled[1]!r}; "
            f"if it is the bot's own, put the model's settings under {SECTION!r}"
        )
    if others:
        logger.info("not settings of the model: %s", ", ".join(others))
    return known
