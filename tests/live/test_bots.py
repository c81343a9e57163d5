"""A bot that exists already gets a model: with an event loop and without, with settings among its own."""

import asyncio
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cryptoml import integrate_with_existing_bot
from cryptoml.data.panel import Panel
from cryptoml.errors import BundleError, ConfigError
from cryptoml.live.bots import settings_of
from tests.live.schools import CONFIG, SYMBOLS, historical_frame, market_panel

WINDOW = 300


class PaperExchange:
    """Answers with the candles up to a clock, as an exchange's client does."""

    def __init__(self, panel: Panel, first_bar: int) -> None:
        self.panel, self.bar = panel, first_bar

    def candles(self, symbol: str, limit: int) -> pd.DataFrame:
        cut = self.panel.slice_time(None, self.bar + 1)
        return cut.frame(symbol.replace("/", "")).tail(limit)

    def tick(self) -> bool:
        self.bar += 1
        return self.bar < self.panel.num_bars

    def price(self, symbol: str) -> float:
        return float(self.candles(symbol, 1)["close"].iloc[-1])


class Wallet:
    """Equity and positions in units of the base asset."""

    def __init__(self) -> None:
        self.cash, self.units, self.orders = 10_000.0, dict.fromkeys(SYMBOLS, 0.0), 0

    def equity(self, exchange: PaperExchange) -> float:
        return self.cash + sum(units * exchange.price(symbol) for symbol, units in self.units.items())

    def hold(self, exchange: PaperExchange, symbol: str, fraction: float) -> None:
        wanted = fraction * self.equity(exchange) / exchange.price(symbol)
        self.cash -= (wanted - self.units[symbol]) * exchange.price(symbol)
        self.orders += abs(wanted - self.units[symbol]) > 0
        self.units[symbol] = wanted


class AsyncBot:
    """A bot with an event loop; its configuration is its own, with the model's settings among it."""

    symbols = ("BTC/USDT", "ETH/USDT", "BNB/USDT")

    def __init__(self, exchange: PaperExchange, config: dict[str, Any]) -> None:
        self.exchange, self.config, self.wallet = exchange, config, Wallet()
        self.ai_system: Any = None

    async def run(self, history: Path, models: Path) -> None:
        await integrate_with_existing_bot(
            bot_instance=self, config=self.config, train_on_startup=True, historical_data_path=history, model_dir=models
        )
        while self.exchange.tick():
            await asyncio.gather(*(self.trade(symbol) for symbol in self.symbols))

    async def trade(self, symbol: str) -> None:
        await self.ai_system.predict(self.exchange.candles(symbol, WINDOW), symbol)
        signal = self.ai_system.get_trading_signal(symbol)
        self.wallet.hold(self.exchange, symbol.replace("/", ""), signal["target_position"] if signal else 0.0)


class PlainBot(AsyncBot):
    """A bot without one: it starts a loop for each call."""

    def start(self, models: Path) -> None:
        asyncio.run(integrate_with_existing_bot(bot_instance=self, config=self.config, train_on_startup=False, model_dir=models))

    def step(self) -> None:
        for symbol in self.symbols:
            asyncio.run(self.trade(symbol))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return market_panel(920)


@pytest.fixture(scope="module")
def traded(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> tuple[AsyncBot, Path]:
    folder = tmp_path_factory.mktemp("bot")
    historical_frame(panel.slice_time(None, 900)).to_csv(folder / "historical.csv", index=False)
    bot = AsyncBot(PaperExchange(panel, 899), CONFIG | {"exchange": "paper", "api_url": "http://127.0.0.1", "pairs": 3})
    asyncio.run(bot.run(folder / "historical.csv", folder / "models"))
    return bot, folder / "models"


def test_an_asynchronous_bot_trains_and_trades(traded: tuple[AsyncBot, Path]) -> None:
    bot, models = traded
    report = bot.ai_system.get_performance_report()
    assert report["num_predictions"] == 3 * 20
    assert report["active_symbols"] == 3
    assert report["prediction_accuracy"] is not None
    assert bot.wallet.orders > 10
    assert bot.wallet.equity(PaperExchange(bot.exchange.panel, 919)) == pytest.approx(10_000, rel=0.2)
    assert (models / "bundle").is_dir()
    assert (models / "state").is_dir()


def test_a_plain_bot_goes_on_with_the_model(traded: tuple[AsyncBot, Path], panel: Panel) -> None:
    _, models = traded
    bot = PlainBot(PaperExchange(panel, 910), {"cryptoml": CONFIG, "min_confidense": "the bot's own"})
    bot.start(models)
    before = bot.ai_system.get_performance_report()["num_predictions"]
    bot.step()
    assert bot.ai_system.get_performance_report()["num_predictions"] == before == 60


def test_a_bot_without_a_model_is_told(panel: Panel, tmp_path: Path) -> None:
    bot = PlainBot(PaperExchange(panel, 910), {})
    with pytest.raises(BundleError, match=r"bundle\.json"):
        bot.start(tmp_path)
    with pytest.raises(ConfigError, match="historical_data_path must be given"):
        asyncio.run(integrate_with_existing_bot(bot, {}, train_on_startup=True, model_dir=tmp_path))
    assert bot.ai_system is None


def test_settings_among_a_bots_own() -> None:
    assert settings_of({"dropout": 0.1, "min_confidence": 0.5, "exchange": "kraken"}) == {"dropout": 0.1, "min_confidence": 0.5}
    assert settings_of({"cryptoml": {"dropout": 0.1}, "dropout": 0.9}) == {"dropout": 0.1}
    with pytest.raises(ConfigError, match="'min_confidense' is unknown, the nearest known name is 'min_confidence'"):
        settings_of({"min_confidense": 0.5})
