"""Where a bot's models are made, renewed and opened: one folder, one set of settings."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cryptoml.config import ExperimentConfig
from cryptoml.data.market import Market
from cryptoml.data.panel import Panel
from cryptoml.data.schema import parse_timeframe
from cryptoml.errors import ConfigError
from cryptoml.live.candles import market_of
from cryptoml.live.outcomes import OutcomeLog
from cryptoml.live.predictor import Predictor
from cryptoml.live.renewing import renew_bundle
from cryptoml.live.schooling import chosen_features, train_bundle
from cryptoml.live.session import Session
from cryptoml.live.settings import LiveSettings
from cryptoml.models.bundle import load_bundle
from cryptoml.update import Update, UpdateConfig

__all__ = ["Workshop", "usable_device"]

logger = logging.getLogger(__name__)


def usable_device(device: Any) -> str:
    """Return the name of a device, `"cpu"` where None.

    Raises:
        ConfigError: This machine does not have it.
    """
    name = "cpu" if device is None else str(device)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device must be one that this machine has, was {name!r}: {str(error).splitlines()[0]}") from None
    return name


@dataclass(frozen=True)
class Workshop:
    """Makes sessions of the model in a folder.

    Attributes:
        settings: Of the bot.
        device: Where models run and are trained.
        folder: Holds `bundle`, `state` and the log of outcomes; or is a bundle itself.
    """

    settings: LiveSettings
    device: str
    folder: Path

    @property
    def states(self) -> Path:
        """Where versions of a session's memory lie."""
        return self.folder / "state"

    def open(self) -> Session:
        """Return a new session of the model, with the log of what was forecast before.

        Raises:
            BundleError: There is no model, or it or the log is damaged.
            ConfigError: The settings ask for another timeframe than the model's.
        """
        nested = self.folder / "bundle"
        bundle = load_bundle(nested if nested.is_dir() else self.folder)
        wanted = self.settings.timeframe
        if wanted is not None and parse_timeframe(wanted) != parse_timeframe(bundle.timeframe):
            raise ConfigError(f"timeframe must be {bundle.timeframe}, which the model was trained on, was {wanted!r}")
        trading = self.settings.trading_over(bundle.trading_config)
        adaptation, rate_scale = self.settings.adaptation_over(bundle.adaptation_config)
        bundle = replace(bundle, adaptation_config=adaptation.model_dump(mode="json"))
        predictor = Predictor(bundle, trading=trading, max_age_bars=self.settings.max_age_bars, device=self.device)
        log = OutcomeLog(self.folder / f"outcomes-{bundle.timeframe}.jsonl", bundle.timeframe)
        return Session(predictor, log, rate_scale)

    def train(self, data: Any, symbols: Sequence[str], *, epochs: int | None, **options: Any) -> tuple[Session, dict[str, Any]]:
        """Train a model, and return a session of it that remembers the newest bars, and the history.

        Args:
            data: As for `market_of`.
            symbols: Likewise.
            epochs: At most; the settings' number where None.
            options: As for `train_bundle`.
        """
        market = self._market(data, symbols)
        history = train_bundle(market, self._experiment(market.panel, epochs), self.folder, device=self.device, **options)
        session = self.open()
        session.recall(market.panel)
        needed = session.predictor.history_bars
        if market.panel.num_bars < needed:
            logger.warning("a forecast reads %d bars; trained on %d, it needs more candles", needed, market.panel.num_bars)
        return session, history

    def renew(self, data: Any, symbols: Sequence[str], judge_bars: int | None) -> tuple[Session | None, Update]:
        """Take a continual step, and return a session of the new model where the step was promoted."""
        rules = UpdateConfig(renewal=self.settings.base_experiment.renewal)
        if judge_bars is not None:
            rules = rules.model_copy(update={"judge_bars": judge_bars})
        done = renew_bundle(self.folder, self._market(data, symbols), rules)
        return (self.open() if done.promoted else None), done

    def _market(self, data: Any, symbols: Sequence[str]) -> Market:
        settings = self.settings
        market = market_of(data, symbols, timeframe=settings.timeframe, assume_timezone=settings.assume_timezone)
        if market.health.reasons() or market.health.file_errors:
            logger.warning("historical data:\n%s", market.health.to_text())
        return market

    def _experiment(self, panel: Panel, epochs: int | None) -> ExperimentConfig:
        config, size = self.settings.base_experiment, self.settings.input_size
        if epochs is not None:
            config = config.updated(training={"max_epochs": epochs})
        return config if size is None else config.updated(features={"include": chosen_features(panel, size)})
