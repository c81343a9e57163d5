"""The calls that the product promises, block by block: only imports are changed and placeholders filled.

Charts are drawn on a stand-in, so that no plotting library is needed. The blocks keep their own form.
"""
# fmt: off
# ruff: noqa: RUF059, T201

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.data.panel import Panel
from tests.conftest import REPOSITORY
from tests.live.schools import CONFIG, historical_frame, market_panel

SYMBOLS = ["BTC/USDT", "ETH/USDT"]


class Chart:
    """What is drawn, in place of a plotting library."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **_: self.drawn.append((name, values))


def examples(rows: int = 48, features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=generator)
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*examples()), batch_size=16)


def small_model(size: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return market_panel(900)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("product")


@pytest.fixture(autouse=True)
def working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_temporal_fusion_transformer() -> None:
    x = torch.randn(2, 24, 150)

    from cryptoml import TemporalFusionTransformer

    model = TemporalFusionTransformer(
        input_size=150,
        hidden_size=160,
        num_attention_heads=4,
        output_quantiles=[0.1, 0.5, 0.9]
    )

    predictions, interpretability = model(x)
    # interpretability contains attention weights and feature importance

    assert predictions.shape[0] == 2
    assert predictions.shape[-1] == 3
    assert {"attention", "variable_selection"} <= set(interpretability)


def test_graph_attention_network() -> None:
    features = torch.randn(2, 10, 150)

    from cryptoml import GraphAttentionNetwork

    gat = GraphAttentionNetwork(
        num_assets=10,
        input_features=150,
        hidden_features=64,
        num_attention_heads=4
    )

    asset_features, learned_graph = gat(features, adj_matrix=None)
    # learned_graph shows which cryptocurrencies are correlated

    assert asset_features.shape == (2, 10, 64)
    assert learned_graph.shape == (2, 10, 10)


def test_meta_learning() -> None:
    your_model, loss_fn = small_model(), nn.functional.mse_loss
    support_x, support_y = examples(10)
    query_x, _ = examples(4)

    from cryptoml import MetaLearningMAML

    maml = MetaLearningMAML(
        base_model=your_model,
        inner_lr=0.01,
        num_inner_steps=5
    )

    # Adapt to new market regime
    adapted_model = maml.adapt(support_x, support_y, loss_fn)
    predictions = adapted_model(query_x)

    assert predictions.shape == (4, 1)


def test_multi_task_learning() -> None:
    shared_features = torch.randn(5, 160)

    from cryptoml import MultiTaskLearningHead

    mtl = MultiTaskLearningHead(shared_size=160, hidden_size=128)
    outputs = mtl(shared_features)

    shapes = {name: list(value.shape) for name, value in outputs.items()}
    assert shapes == {"price_direction": [5, 3], "volatility": [5, 1], "market_regime": [5, 4], "position_size": [5, 1]}


def test_feature_engineering(panel: Panel, capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = {}
    price_data = panel.frame("BTCUSDT").tail(400).set_index("timestamp")
    close = float(price_data["close"].iloc[-1])
    order_book_snapshot = {"bids": [[close * 0.999, 1.0]], "asks": [[close * 1.001, 2.0]]}
    cross_exchange_data = {"kraken": close * 1.0005, "funding": 0.0001}

    from cryptoml import AdvancedFeatureEngineer, OnChainMetrics

    engineer = AdvancedFeatureEngineer(config)

    # Extract all features
    features = engineer.extract_all_features(
        ohlcv=price_data,
        onchain=OnChainMetrics(
            whale_movements=1500,
            exchange_inflows=2000,
            exchange_outflows=3000,
            active_addresses=50000,
            transaction_count=100000,
            gas_fees=50,
            stablecoin_supply=150000000000,
            long_term_holder_supply=18000000
        ),
        orderbook=order_book_snapshot,
        cross_exchange=cross_exchange_data
    )

    print(f"Extracted {len(features.columns)} features")
    # Output: Extracted 150+ features

    assert int(re.findall(r"\d+", capsys.readouterr().out)[0]) >= 150


def test_ultimate_trainer() -> None:
    your_model, train_loader, val_loader = small_model(), loader(), loader()

    from cryptoml import UltimateTrainer

    trainer = UltimateTrainer(
        model=your_model,
        device=torch.device('cuda' if torch.cuda.is_available() else 'cpu'),
        save_dir='models/checkpoints'
    )

    history = trainer.train(
        train_loader=train_loader,
        val_loader=val_loader,
        num_epochs=100,
        learning_rate=0.001,
        patience=10,
        grad_clip=1.0
    )

    # Automatically saves best model and checkpoints
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert any(Path("models/checkpoints").iterdir())

    plt = Chart()  # View training history

    plt.plot(history['train_loss'], label='Train Loss')
    plt.plot(history['val_loss'], label='Val Loss')
    plt.legend()
    plt.show()

    assert [len(values[0]) for name, values in plt.drawn if name == "plot"] == [len(history["train_loss"])] * 2


@pytest.mark.slow
def test_hyperparameter_optimizer() -> None:
    X_train, y_train = examples()
    X_val, y_val = examples(24)
    device = torch.device("cpu")

    def create_model_fn(hidden_size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))

    from cryptoml import HyperparameterOptimizer

    optimizer = HyperparameterOptimizer(
        model_factory=create_model_fn,
        train_data=(X_train, y_train),
        val_data=(X_val, y_val),
        device=device,
        n_trials=50
    )

    best_params = optimizer.optimize()
    # Returns: {'hidden_size': 128, 'num_layers': 3, 'learning_rate': 0.0005, ...}

    assert {"hidden_size", "num_layers", "learning_rate"} <= set(best_params)


def test_continual_learner() -> None:
    your_model, device, val_loader, loss_fn = small_model(), torch.device("cpu"), loader(), nn.functional.mse_loss
    new_data_x, new_data_y = examples(16)
    optimizer = torch.optim.SGD(your_model.parameters(), lr=0.01)

    from cryptoml import ContinualLearner

    learner = ContinualLearner(
        model=your_model,
        device=device,
        memory_size=1000,
        importance_weight=0.5
    )

    # Compute importance of parameters on current market regime
    learner.compute_fisher_information(val_loader, loss_fn)

    # Later, when market changes, adapt without forgetting
    loss = learner.continual_train_step(
        new_data_x, new_data_y, optimizer, loss_fn
    )

    assert np.isfinite(loss)


def test_ensemble_learning() -> None:
    model1, model2, model3 = small_model(), small_model(), nn.Linear(6, 1)
    val_loader, device, new_data = loader(), torch.device("cpu"), examples(5)[0]

    from cryptoml import create_ensemble_predictions, optimize_ensemble_weights

    # Train multiple models
    models = [model1, model2, model3]

    # Find optimal weights
    optimal_weights = optimize_ensemble_weights(models, val_loader, device)

    # Make ensemble prediction
    prediction = create_ensemble_predictions(models, new_data, optimal_weights)

    assert sum(optimal_weights) == pytest.approx(1)
    assert prediction.shape == (5, 1)


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


def test_custom_feature_engineering(panel: Panel) -> None:
    from cryptoml import AdvancedFeatureEngineer

    class MyCustomFeatures(AdvancedFeatureEngineer):
        def custom_indicator(self, df):
            # Add your custom indicator
            df['my_indicator'] = df["close"].diff()
            return df

    found = MyCustomFeatures({"categories": ["price"]}).custom_indicator(panel.frame("BTCUSDT"))
    assert "my_indicator" in found


def test_custom_model_architecture() -> None:
    from cryptoml import TemporalFusionTransformer

    class MyCustomModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.tft = TemporalFusionTransformer(input_size=6, hidden_size=8, num_attention_heads=2)
            self.custom_layer = nn.Linear(3, 2)

        def forward(self, x):
            tft_out, interp = self.tft(x)
            custom_out = self.custom_layer(tft_out)
            return custom_out

    assert MyCustomModel()(torch.randn(2, 12, 6)).shape[-1] == 2


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


def test_mixed_precision() -> None:
    model, loss_fn = small_model(), nn.functional.mse_loss
    inputs, targets = examples()
    enabled = torch.cuda.is_available()

    # Use mixed precision training
    from torch.amp import GradScaler, autocast

    scaler = GradScaler(enabled=enabled)

    with autocast("cuda" if enabled else "cpu"):
        outputs = model(inputs)
        loss = loss_fn(outputs, targets)

    scaler.scale(loss).backward()
    scaler.step(torch.optim.SGD(model.parameters(), lr=0.01))
    scaler.update()

    assert torch.isfinite(loss)


def test_every_block_of_the_description_is_here() -> None:
    """Compare with the description itself where it lies beside the checkout: line by line, but for imports and placeholders."""
    description = REPOSITORY.parent / "shared" / "product.md"
    if not description.is_file():
        pytest.skip(f"no description at {description}")
    here = {_bare(line) for line in inspect.getsource(inspect.getmodule(small_model)).splitlines()}
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
