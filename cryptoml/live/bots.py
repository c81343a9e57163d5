"""Give a model to a trading bot that already exists."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptoml.data.schema import normalise_symbol
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
        bot_instance: Any object that takes the attribute; it is set once before, for a moment, to see whether it does.
        config: The bot's own configuration. Its section `cryptoml`, where there is one, holds the settings of
            `UltimateTradingAI`; else those of its keys that are settings count, and the others are left alone.
        train_on_startup: Train on historical data and save the state; else the model and state of `model_dir` are loaded.
        historical_data_path: A candle file, a folder of them, or a lake.
        symbols: Markets to train on; the bot's `symbols` where None, and all of the data where it has none. Text is one.
        device: Where the models run.
        model_dir: Folder of the model and its state.

    Raises:
        ConfigError: A setting is unknown or impossible, a key of the bot's is misspelled, training lacks the data's path,
            `symbols` are none, or the bot does not take the attribute.
        BundleError: There is nothing to load, or it is damaged.
        DataError: The historical data cannot be used.
    """
    ai = UltimateTradingAI(settings_of({} if config is None else config), device, model_dir)
    _check_takes(bot_instance, ai)
    if train_on_startup:
        if historical_data_path is None:
            raise ConfigError("historical_data_path must be given where train_on_startup is set, was None")
        own = getattr(bot_instance, "symbols", None)
        wanted = _symbol_list(symbols, "symbols") or _symbol_list(own, "symbols of the bot")
        await ai.train_from_historical_data(historical_data_path, wanted)
        ai.save_state()
    else:
        ai.load_state()
    bot_instance.ai_system = ai
    return ai


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a bot's configuration holds for the model.

    Raises:
        ConfigError: It is no mapping, its section is none or misspelled, or a key is no setting, but nearly one.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"config must map names to settings, was {type(config).__name__}")
    miscased = next((key for key in config if key != SECTION and str(key).lower() == SECTION), None)
    if miscased is not None:
        raise ConfigError(f"config section must be called {SECTION!r}, was {miscased!r}")
    if SECTION in config:
        if not isinstance(config[SECTION], Mapping):
            raise ConfigError(f"config section {SECTION!r} must map names to settings, was {config[SECTION]!r}")
        return dict(config[SECTION])
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


def _check_takes(bot: Any, ai: UltimateTradingAI) -> None:
    """Raise a ConfigError where a bot does not take `ai_system`; it is left as it was."""
    had, before = hasattr(bot, "ai_system"), getattr(bot, "ai_system", None)
    try:
        bot.ai_system = ai
    except (AttributeError, TypeError, ValueError) as error:
        found = f"{type(bot).__name__} does not: {error}"
        raise ConfigError(f"bot_instance must take the attribute ai_system, {found}") from None
    with suppress(AttributeError, TypeError, ValueError):  # a property may take a model only
        if had:
            bot.ai_system = before
        else:
            del bot.ai_system


def _symbol_list(symbols: Any, name: str) -> list[str] | None:
    """Return symbols as a list, None where there are none; `name` is theirs in an error."""
    if symbols is None:
        return None
    if callable(symbols) or not isinstance(symbols, Iterable):
        raise ConfigError(f"{name} must be a sequence of symbols, was {type(symbols).__name__}")
    found = [symbols] if isinstance(symbols, str) else list(symbols)
    for symbol in found:
        normalise_symbol(symbol)
    return found or None
