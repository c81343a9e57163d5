"""The calls on `UltimateTradingAI` that the product promises, block by block: only imports are changed and placeholders filled.

Charts are drawn on a stand-in, so that no plotting library is needed. The blocks keep their own form.
"""
# fmt: off
# ruff: noqa: T201

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cryptoml.data.panel import Panel
from tests import test_product_examples
from tests.conftest import REPOSITORY
from tests.live.schools import CONFIG, historical_frame, market_panel
from tests.test_product_examples import Chart


@pytest.fixture(scope="module")
def panel() -> Panel:
    return market_panel(900)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("product")


@pytest.fixture(autouse=True)
def working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def trading(panel: Panel, place: Path) -> Iterator[dict[str, Any]]:
    """The block of `UltimateTradingAI` as it stands, and what it leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield asyncio.run(trading_block(panel))


async def trading_block(panel: Panel) -> dict[str, Any]:
    long = historical_frame(panel)
    historical_df = long[long["symbol"].isin(["BTCUSDT", "ETHUSDT"])]
    config_dict = CONFIG
    latest_price_data = recent_data = panel.frame("BTCUSDT")
    close = float(latest_price_data["close"].iloc[-1])
    orderbook_snapshot = {"bids": [[close * 0.999, 1.0]], "asks": [[close * 1.001, 2.0]]}
    cross_exchange_data = {"kraken": close * 1.0005, "funding": 0.0001}

    from cryptoml import OnChainMetrics, UltimateTradingAI

    onchain_metrics = OnChainMetrics(active_addresses=50000)

    # Initialize
    ai = UltimateTradingAI(
        config=config_dict,
        device=torch.device('cuda' if torch.cuda.is_available() else 'cpu'),
        model_dir='models/ultimate'
    )

    # Train on historical data
    history = await ai.train_from_historical_data(
        data=historical_df,
        symbols=['BTC/USDT', 'ETH/USDT'],
        epochs=100,
        optimize_hyperparams=True  # Run AutoML
    )

    # Make predictions
    prediction = await ai.predict(
        current_data=latest_price_data,
        symbol='BTC/USDT',
        onchain=onchain_metrics,
        orderbook=orderbook_snapshot,
        cross_exchange=cross_exchange_data
    )

    # Get trading signal
    signal = ai.get_trading_signal('BTC/USDT', min_confidence=0.65)

    # Adapt to new market regime (fast adaptation with MAML)
    await ai.adapt_to_new_regime(recent_data, learning_rate=0.0001)

    # Save everything
    ai.save_state()

    # Get performance report
    report = ai.get_performance_report()

    return {"ai": ai, "history": history, "prediction": prediction, "signal": signal, "report": report}


def test_ultimate_trading_ai(trading: dict[str, Any]) -> None:
    assert list(trading["report"]) == [
        *("prediction_accuracy", "sharpe_ratio", "num_predictions", "avg_confidence"),
        *("active_symbols", "device", "model_parameters"),
    ]
    assert trading["report"]["num_predictions"] == trading["report"]["active_symbols"] == 1
    assert trading["history"]["best_parameters"]
    prediction = trading["prediction"]
    assert set(prediction["direction"]) == {"DOWN", "SIDEWAYS", "UP"}
    assert trading["signal"] is None or trading["signal"]["confidence"] >= 0.65
    signal = trading["ai"].get_trading_signal("BTC/USDT")
    promised = [
        *("action", "position_size", "confidence", "stop_loss_pct", "take_profit_pct"),
        *("market_regime", "predicted_volatility", "reasoning"),
    ]
    assert signal is None or set(promised) <= set(signal)
    assert set(promised) <= set(prediction["signal"])


def test_basic_usage(trading: dict[str, Any], panel: Panel, capsys: pytest.CaptureFixture[str]) -> None:
    current_data = panel.frame("BTCUSDT")

    import asyncio

    from cryptoml import UltimateTradingAI

    async def main():
        # Initialize
        ai = UltimateTradingAI(config={})

        # Load pre-trained model or train new
        ai.load_state()  # Or train_from_historical_data()

        # Make prediction
        prediction = await ai.predict(current_data, 'BTC/USDT')

        # Get trading signal
        signal = ai.get_trading_signal('BTC/USDT', min_confidence=0.6)

        if signal:
            print(f"Action: {signal['action']}")
            print(f"Size: {signal['position_size']*100}%")
            print(f"Confidence: {signal['confidence']*100}%")

        return prediction, signal

    prediction, signal = asyncio.run(main())
    assert prediction["refusal"] is None
    assert bool(capsys.readouterr().out) == bool(signal)


@pytest.mark.parametrize("train", [False, True])
def test_integration_with_existing_bot(trading: dict[str, Any], panel: Panel, train: bool) -> None:
    Path("data").mkdir(exist_ok=True)
    historical_frame(panel).to_csv("data/historical.csv", index=False)

    from cryptoml import integrate_with_existing_bot

    class Bot:
        config = CONFIG | {"num_epochs": 1}

        async def start(self) -> Any:
            # In your bot's __init__ or startup:
            await integrate_with_existing_bot(
                bot_instance=self,
                config=self.config,
                train_on_startup=train,  # Set True to train on historical data
                historical_data_path='data/historical.csv'
            )

            # Now bot has ai_system attribute
            signal = self.ai_system.get_trading_signal('BTC/USDT')
            return signal

    bot = Bot()
    assert asyncio.run(bot.start()) is None
    assert bot.ai_system.get_performance_report()["model_parameters"] > 0


def test_configuration() -> None:
    config = {
        # Model architecture
        'input_size': 150,  # Number of features
        'hidden_size': 160,  # Hidden layer size
        'num_attention_heads': 4,  # Multi-head attention
        'num_layers': 3,  # LSTM layers
        'dropout': 0.2,  # Dropout rate

        # Training
        'batch_size': 64,
        'learning_rate': 0.001,
        'num_epochs': 100,
        'patience': 15,  # Early stopping
        'grad_clip': 1.0,  # Gradient clipping

        # Trading
        'min_confidence': 0.65,  # Minimum confidence for signals
        'position_size': 0.02,  # Base position size (2%)
        'stop_loss_pct': 0.02,  # Stop loss (2%)
        'take_profit_pct': 0.04,  # Take profit (4%)

        # Meta-learning
        'inner_lr': 0.01,  # Inner loop learning rate
        'num_inner_steps': 5,  # Adaptation steps

        # Continual learning
        'memory_size': 1000,  # Experience replay buffer
        'importance_weight': 0.5,  # EWC regularization
    }

    # Reduce batch size
    config['batch_size'] = 32  # or 16

    from cryptoml import UltimateTradingAI

    assert UltimateTradingAI(config).settings.base_experiment.training.batch_size == 32


def test_feature_importance(trading: dict[str, Any], panel: Panel, capsys: pytest.CaptureFixture[str]) -> None:
    ai, data = trading["ai"], panel.frame("BTCUSDT")

    async def block() -> dict[str, float]:
        # Get feature importance from TFT
        prediction = await ai.predict(data, 'BTC/USDT')
        importance = prediction['feature_importance']

        # Top 10 features
        for feature, weight in sorted(importance.items(), key=lambda x: x[1], reverse=True)[:10]:
            print(f"{feature}: {weight:.4f}")
        return importance

    importance = asyncio.run(block())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == min(10, len(importance))
    assert sum(importance.values()) == pytest.approx(1, abs=1e-4)


def test_attention_visualization(trading: dict[str, Any]) -> None:
    prediction, plt = trading["prediction"], Chart()

    # See what time steps model focuses on
    attention = prediction['temporal_attention']

    plt.bar(range(len(attention)), list(attention.values()))
    plt.xlabel('Time Step (bars ago)')
    plt.ylabel('Attention Weight')
    plt.title('Temporal Attention Weights')
    plt.show()

    _, (positions, weights) = plt.drawn[0]
    assert list(attention) == list(positions)
    assert sum(weights) == pytest.approx(1, abs=1e-4)


def test_every_block_of_the_description_is_here() -> None:
    """Compare with the description itself where it lies beside the checkout: line by line, but for imports and placeholders."""
    description = REPOSITORY.parent / "shared" / "product.md"
    if not description.is_file():
        pytest.skip(f"no description at {description}")
    modules = (test_product_examples, inspect.getmodule(_bare))
    here = {_bare(line) for module in modules for line in inspect.getsource(module).splitlines()}
    blocks = re.findall(r"```python\n(.*?)```", description.read_text(), flags=re.DOTALL)
    assert len(blocks) > 15
    absent = [line for block in blocks for line in block.splitlines() if _bare(line) not in here and not _is_filled(line)]
    assert not absent


def _bare(line: str) -> str:
    return line.split("#")[0].strip().rstrip(",")


def _is_filled(line: str) -> bool:
    """Tell whether a line is an import, a comment, or has a placeholder that the tests fill."""
    code = line.split("#")[0].strip()
    filled = ("...", "device=torch.device('cuda'),", "train_on_startup=False", "scaler = GradScaler()", "with autocast():")
    named = ("scaler.step(optimizer)", "scaler.scale(loss)", "asyncio.run(main())", "class MyCustom", "super().__init__()")
    quoted = code.startswith("'") and "]" in code
    return not code or "import" in code or quoted or any(text in code for text in (*filled, *named))
