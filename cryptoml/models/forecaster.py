"""Features of all assets in a window to forecasts of all tasks: encoder per asset, graph across assets, task heads.

Shape legend: batch = chunks, asset, time = bars, feature, hidden; row = batch x asset; origin = a bar forecast from.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from cryptoml.models.encoder import Encoder
from cryptoml.models.fusion import TemporalFusionEncoder
from cryptoml.models.gat import GraphAttentionNetwork
from cryptoml.models.inputs import clean_inputs
from cryptoml.models.layers import QuantileHead
from cryptoml.models.linear import DecomposedLinearEncoder
from cryptoml.models.multitask import MultiTaskLearningHead
from cryptoml.models.patch import PatchTransformerEncoder
from cryptoml.models.regime_filter import RegimeFilter
from cryptoml.models.tcn import TemporalConvolutionEncoder

__all__ = ["ARCHITECTURES", "Forecast", "Forecaster", "ForecasterConfig", "build_encoder", "build_forecaster"]

Architecture = Literal["tft", "tcn", "patch", "linear"]

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of assets per head that the graph normalises in one go."""


class Forecast(NamedTuple):
    """One forecast per leading axes; returns and volatility are in units of the origin's own volatility.

    Attributes:
        direction: logits `[..., 3]` of DOWN, SIDEWAYS, UP.
        volatility: `[..., 1]`, above 0, as a multiple of sigma * sqrt(primary horizon).
        regime: logits `[..., 4]` of BULL, BEAR, RANGING, HIGH_VOL.
        position_size: `[..., 1]` in [0, 1].
        quantiles: `[..., horizon, quantile]` of log return / (sigma * sqrt(horizon)), never crossing.
    """

    direction: Tensor
    volatility: Tensor
    regime: Tensor
    position_size: Tensor
    quantiles: Tensor


class ForecasterConfig(BaseModel):
    """Everything that decides the shape of a forecaster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture = Field("tft", description="encoder of each asset's past")
    num_features: int = Field(ge=1, description="features per asset and bar")
    columns: tuple[int, ...] | None = Field(None, min_length=1, description="features that are read, increasing; all if None")
    num_assets: int = Field(ge=1, description="assets, in the order of the feature array")
    hidden_size: int = Field(32, ge=1, description="width of all states")
    num_heads: int = Field(4, ge=1, description="attention heads, of the encoder and of the graph; divides hidden_size")
    num_layers: int = Field(1, ge=1, description="recurrent layers (tft), attention layers (patch)")
    variable_size: int = Field(8, ge=1, description="width of each feature's own network (tft)")
    kernel_size: int = Field(3, ge=2, description="taps of each convolution (tcn)")
    patch_bars: int = Field(8, ge=1, description="bars of a patch (patch)")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="fraction dropped")
    lookback: int = Field(64, ge=2, description="bars that attention, convolutions and filters can see")
    horizons: tuple[int, ...] = Field((1, 4, 24), min_length=1, description="forecast horizons in bars, increasing")
    primary_horizon: int | None = Field(
        None, ge=1, description="bars of the direction and volatility tasks; last horizon if None"
    )
    quantiles: tuple[float, ...] = Field((0.1, 0.5, 0.9), min_length=1, description="quantile levels in (0, 1), increasing")
    graph: bool = Field(True, description="attend across assets")
    dynamic_graph: bool = Field(True, description="score pairs as GATv2; costs hidden_size per pair of assets")

    regime_columns: tuple[int, ...] | None = Field(
        None,
        min_length=2,
        description="features by which a filter tells the regime, their level last; the network does if None",
    )

    @model_validator(mode="after")
    def _check(self) -> "ForecasterConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads ({self.num_heads}), was {self.hidden_size}")
        columns = list(self.columns or ())
        if columns != sorted(set(columns)) or any(not 0 <= column < self.num_features for column in columns):
            raise ValueError(f"columns must increase within 0 and {self.num_features - 1}, was {self.columns}")
        if any(not 0 <= column < self.num_features for column in self.regime_columns or ()):
            raise ValueError(f"regime_columns must be within 0 and {self.num_features - 1}, was {self.regime_columns}")
        if list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ValueError(f"horizons must increase from at least 1 bar, was {self.horizons}")
        if list(self.quantiles) != sorted(set(self.quantiles)) or not 0.0 < self.quantiles[0] <= self.quantiles[-1] < 1.0:
            raise ValueError(f"quantiles must increase strictly within (0, 1), was {self.quantiles}")
        return self

    @property
    def num_inputs(self) -> int:
        """Features that reach the encoder."""
        return self.num_features if self.columns is None else len(self.columns)

    @property
    def volatility_horizon(self) -> int:
        """Bars over which volatility is forecast."""
        return self.primary_horizon or self.horizons[-1]


def _temporal_fusion(config: ForecasterConfig) -> Encoder:
    return TemporalFusionEncoder(
        config.num_inputs,
        config.hidden_size,
        config.num_heads,
        lookback=config.lookback,
        num_layers=config.num_layers,
        variable_size=config.variable_size,
        static_size=config.hidden_size,
        dropout=config.dropout,
    )


def _temporal_convolution(config: ForecasterConfig) -> Encoder:
    return TemporalConvolutionEncoder(
        config.num_inputs,
        config.hidden_size,
        lookback=config.lookback,
        kernel_size=config.kernel_size,
        static_size=config.hidden_size,
        dropout=config.dropout,
    )


def _patch_transformer(config: ForecasterConfig) -> Encoder:
    return PatchTransformerEncoder(
        config.num_inputs,
        config.hidden_size,
        config.num_heads,
        lookback=config.lookback,
        patch_bars=config.patch_bars,
        num_layers=config.num_layers,
        static_size=config.hidden_size,
        dropout=config.dropout,
    )


def _decomposed_linear(config: ForecasterConfig) -> Encoder:
    return DecomposedLinearEncoder(
        config.num_inputs, config.hidden_size, lookback=config.lookback, static_size=config.hidden_size
    )


ARCHITECTURES: dict[str, Callable[[ForecasterConfig], Encoder]] = {
    "tft": _temporal_fusion,
    "tcn": _temporal_convolution,
    "patch": _patch_transformer,
    "linear": _decomposed_linear,
}


class Forecaster(nn.Module):
    """Forecast every task for every asset.

    An asset is absent at a bar where all its features that are read are masked; there it influences no other asset.

    Args:
        config: shapes.
        encoder: encoder of each asset's past, with static covariates `hidden_size` wide.
    """

    def __init__(self, config: ForecasterConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.columns = None if config.columns is None else list(config.columns)
        self.asset = nn.Parameter(torch.randn(config.num_assets, config.hidden_size) * 0.1)
        self.graph = _graph(config)
        self.heads = MultiTaskLearningHead(config.hidden_size, config.hidden_size, config.dropout)
        self.quantiles = QuantileHead(config.hidden_size, len(config.horizons), config.quantiles)
        self.regime = RegimeFilter(len(config.regime_columns) - 1) if config.regime_columns else None

    def forward(self, features: Float[Tensor, "batch asset time feature"], mask: Tensor | None = None) -> Forecast:
        """Forecast from the last bar of each window: axes `[batch, asset, ...]`.

        Args:
            features: scaled features; NaN only where `mask` is False.
            mask: boolean, broadcastable to `features`, True where present.

        Raises:
            ValueError: shapes that do not fit the config, or NaN that no mask covers.
        """
        values, present = self._clean(features, mask)
        hidden = self._encode(values, present, last_only=True)
        forecast = self._forecast(hidden, present[:, :, -1:].any(dim=-1), self._regimes(features, mask, last_only=True))
        return Forecast(*(part.squeeze(2) for part in forecast))

    def dense(self, features: Float[Tensor, "batch asset time feature"], mask: Tensor | None = None) -> Forecast:
        """Forecast from every bar in one pass: axes `[batch, asset, time, ...]`; bar t equals forward up to t."""
        values, present = self._clean(features, mask)
        hidden = self._encode(values, present, last_only=False)
        return self._forecast(hidden, present.any(dim=-1), self._regimes(features, mask))

    def windowed(self, features: Float[Tensor, "asset time feature"], context: int, mask: Tensor | None = None) -> Forecast:
        """Forecast from every bar that has `context` bars of history: axes `[asset, origin, ...]`.

        Equals `forward` on each window of `context` bars, while each bar is embedded once.

        Raises:
            ValueError: as `forward`, or fewer bars than `context`.
        """
        values, present = self._clean(features[None], None if mask is None else mask.expand(features.shape)[None])
        if not 1 <= context <= values.shape[2]:
            raise ValueError(f"context must be within 1 and the {values.shape[2]} bars given, was {context}")
        static = self._static(1)
        embedded = self.encoder.embed(values[0], present[0], static)
        if self.encoder.memory is not None and self.encoder.memory <= context:
            hidden = self.encoder.temporal(embedded, static)[:, context - 1 :]
        else:
            hidden = self._unfolded(embedded, static, context)
        regimes = self._regimes(features[None], None if mask is None else mask.expand(features.shape)[None], context)
        forecast = self._forecast(hidden[None], present[:, :, context - 1 :].any(dim=-1), regimes)
        return Forecast(*(part[0] for part in forecast))

    def explain(self, features: Float[Tensor, "batch asset time feature"], mask: Tensor | None = None) -> dict[str, Tensor]:
        """Weights behind `forward`, as far as the architecture has them.

        Returns:
            `attention` `[batch, asset, time]` of the last bar, `variable_selection` `[batch, asset, time, feature]`, and
            `graph` `[batch, asset, asset]` of the last bar; each sums to 1 over its last axis where anything is present.
        """
        values, present = self._clean(features, mask)
        rows, flags = (rearrange(part, "batch asset time feature -> (batch asset) time feature") for part in (values, present))
        weights = self.encoder.explain(rows, flags, self._static(len(values)))
        explained = {
            name: rearrange(weight, "(batch asset) ... -> batch asset ...", batch=len(values)) for name, weight in weights.items()
        }
        if "variable_selection" in explained:
            explained["variable_selection"] = self._of_all_features(explained["variable_selection"])
        if self.graph is not None:
            hidden = self._encode(values, present, last_only=True)
            explained["graph"] = self.graph(hidden[:, :, -1], mask=present[:, :, -1].any(dim=-1))[1]
        return explained

    def _encode(self, values: Tensor, present: Tensor, *, last_only: bool) -> Float[Tensor, "batch asset query hidden"]:
        batch, static = len(values), self._static(len(values))
        rows, flags = (rearrange(part, "batch asset time feature -> (batch asset) time feature") for part in (values, present))
        hidden = self.encoder.temporal(self.encoder.embed(rows, flags, static), static, last_only=last_only)
        return rearrange(hidden, "(batch asset) time hidden -> batch asset time hidden", batch=batch)

    def _unfolded(self, embedded: Tensor, static: Tensor, context: int) -> Float[Tensor, "asset origin hidden"]:
        assets = len(embedded)
        windows = rearrange(embedded.unfold(1, context, 1), "asset origin hidden time -> (asset origin) time hidden")
        repeated = repeat(static, "asset hidden -> (asset origin) hidden", origin=len(windows) // assets)
        hidden = self.encoder.temporal(windows, repeated, last_only=True)
        return rearrange(hidden, "(asset origin) 1 hidden -> asset origin hidden", asset=assets)

    def _forecast(
        self, hidden: Float[Tensor, "batch asset time hidden"], present: Bool[Tensor, "batch asset time"], regimes: Tensor | None
    ) -> Forecast:
        mixed = hidden if self.graph is None else self._across_assets(hidden, present)
        tasks = self.heads(mixed)
        return Forecast(
            direction=tasks["price_direction"],
            volatility=tasks["volatility"],
            regime=tasks["market_regime"] if regimes is None else regimes,
            position_size=tasks["position_size"],
            quantiles=self.quantiles(mixed),
        )

    def _regimes(
        self, features: Tensor, mask: Tensor | None, context: int | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "batch asset query regime"] | None:
        """Filter the regimes over all bars, or over the `context` bars up to each bar that has them; None without a filter."""
        if self.regime is None:
            return None
        columns = list(self.config.regime_columns or ())
        seen = features.isfinite() if mask is None else mask.expand(features.shape)
        readings, present = features[..., columns].nan_to_num(), seen[..., columns].all(dim=-1)
        if context is None:
            return self.regime(readings, present, last_only=last_only)
        windows = rearrange(readings.unfold(2, context, 1), "batch asset origin reading time -> batch asset origin time reading")
        return self.regime(windows, present.unfold(2, context, 1), last_only=True).squeeze(-2)

    def _across_assets(self, hidden: Tensor, present: Tensor) -> Float[Tensor, "batch asset time hidden"]:
        """Run the graph at every bar by itself, as many bars together as keep the pairs of assets few."""
        graph, at_once = self.graph, max(1, _PAIRS_AT_ONCE // hidden.shape[1] ** 2)
        assert graph is not None
        bars = rearrange(hidden, "batch asset time hidden -> (batch time) asset hidden").split(at_once)
        masks = rearrange(present, "batch asset time -> (batch time) asset").split(at_once)
        mixed = torch.cat([graph(part, mask=mask)[0] for part, mask in zip(bars, masks, strict=True)])
        return rearrange(mixed, "(batch time) asset hidden -> batch asset time hidden", batch=len(hidden))

    def _static(self, batch: int) -> Float[Tensor, "row hidden"]:
        return repeat(self.asset, "asset hidden -> (batch asset) hidden", batch=batch)

    def _clean(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        values, present = clean_inputs(features, mask, num_features=self.config.num_features, axes="batch asset time feature")
        if values.shape[1] != self.config.num_assets:
            raise ValueError(f"features must have {self.config.num_assets} assets, had shape {list(features.shape)}")
        return (values, present) if self.columns is None else (values[..., self.columns], present[..., self.columns])

    def _of_all_features(self, weight: Tensor) -> Float[Tensor, "batch asset time feature"]:
        """Give the features that are not read a weight of 0."""
        if self.columns is None:
            return weight
        full = weight.new_zeros(*weight.shape[:-1], self.config.num_features)
        full[..., self.columns] = weight
        return full


def _graph(config: ForecasterConfig) -> GraphAttentionNetwork | None:
    if not config.graph or config.num_assets == 1:
        return None
    return GraphAttentionNetwork(
        config.num_assets,
        config.hidden_size,
        config.hidden_size,
        config.num_heads,
        dropout=config.dropout,
        dynamic=config.dynamic_graph,
    )


def build_encoder(config: ForecasterConfig) -> Encoder:
    """Build the encoder that `config.architecture` names."""
    return ARCHITECTURES[config.architecture](config)


def build_forecaster(config: ForecasterConfig) -> Forecaster:
    """Build a forecaster; weights are drawn from torch's current random state."""
    return Forecaster(config, build_encoder(config))
