"""The calls that the product promises, block by block: only imports are changed and placeholders filled.

Charts are drawn on a stand-in, so that no plotting library is needed. The blocks keep their own form.
"""
# fmt: off
# ruff: noqa: RUF059, T201

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

from cryptoml.data.panel import Panel
from tests.live.schools import market_panel


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
