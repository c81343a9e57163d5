"""Temporal Fusion Transformer (Lim et al. 2021, International Journal of Forecasting 37).

Shape legend: row = one series of one batch entry, time = bars, query = bars that are forecast from.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from cryptoml.models.attention import InterpretableAttention
from cryptoml.models.encoder import Encoder
from cryptoml.models.inputs import clean_inputs
from cryptoml.models.layers import GatedResidualNetwork, GatedSkip, QuantileHead
from cryptoml.models.selection import VariableSelection

__all__ = ["TemporalFusionEncoder", "TemporalFusionTransformer"]


class StaticContext(nn.Module):
    """The contexts that static covariates give: selection, enrichment, and the initial LSTM state (section 4.3)."""

    def __init__(self, static_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()

        def network() -> GatedResidualNetwork:
            return GatedResidualNetwork(static_size, hidden_size, hidden_size, dropout=dropout)

        self.selection, self.enrichment, self.state, self.cell = network(), network(), network(), network()


class TemporalFusionEncoder(Encoder):
    """Everything of the Temporal Fusion Transformer up to its output layer.

    Args:
        input_size: number of scalar features.
        hidden_size: width of all states.
        num_heads: attention heads, a divisor of `hidden_size`.
        lookback: bars that attention can see.
        num_layers: LSTM layers.
        variable_size: width of each feature's own network.
        static_size: width of the static covariates, or None without them.
        dropout: fraction dropped.
    """

    memory = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_heads: int,
        *,
        lookback: int,
        num_layers: int = 1,
        variable_size: int = 8,
        static_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        context = None if static_size is None else hidden_size
        self.context = None if static_size is None else StaticContext(static_size, hidden_size, dropout)
        self.selection = VariableSelection(
            input_size, hidden_size, variable_size=variable_size, static_size=context, dropout=dropout
        )
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(hidden_size, hidden_size, num_layers, batch_first=True, dropout=between)
        self.lstm_skip = GatedSkip(hidden_size, hidden_size, dropout)
        self.enrichment = GatedResidualNetwork(hidden_size, hidden_size, hidden_size, context_size=context, dropout=dropout)
        self.attention = InterpretableAttention(hidden_size, num_heads, lookback, dropout)
        self.attention_skip = GatedSkip(hidden_size, hidden_size, dropout)
        self.positionwise = GatedResidualNetwork(hidden_size, hidden_size, hidden_size, dropout=dropout)
        self.output_skip = GatedSkip(hidden_size, hidden_size, dropout)

    def select(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> tuple[Float[Tensor, "row time hidden"], Float[Tensor, "row time feature"]]:
        """Embed each bar; also return the variable selection weights."""
        context = None if self.context is None or static is None else self.context.selection(static)
        return self.selection(x, mask, context)

    def embed(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        return self.select(x, mask, static)[0]

    def temporal(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "row query hidden"]:
        if last_only:
            return self.attend_last(embedded, static)[0]
        encoded, enriched = self._encode(embedded, static)
        return self._decode(self.attention(enriched), enriched, encoded)

    def attend_last(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None
    ) -> tuple[Float[Tensor, "row 1 hidden"], Float[Tensor, "row 1 time"]]:
        """Compute the state at the last bar; also return its attention weights over bars."""
        encoded, enriched = self._encode(embedded, static)
        attended, weights = self.attention.last(enriched)
        return self._decode(attended, enriched[:, -1:], encoded[:, -1:]), weights

    def explain(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`attention` of the last bar `[row, time]` and `variable_selection` `[row, time, feature]`."""
        embedded, selected = self.select(x, mask, static)
        return {"attention": self.attend_last(embedded, static)[1][:, 0], "variable_selection": selected}

    def _encode(self, embedded: Tensor, static: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the LSTM (eq. 17) and the static enrichment (eq. 18)."""
        encoded = self.lstm_skip(self._recur(embedded, static), embedded)
        context = None if self.context is None or static is None else self.context.enrichment(static)[:, None]
        return encoded, self.enrichment(encoded, context)

    def _decode(self, attended: Tensor, enriched: Tensor, encoded: Tensor) -> Float[Tensor, "row query hidden"]:
        """Close the attention block (eq. 20), then the position-wise network and the skip past it (eq. 21, 22)."""
        return self.output_skip(self.positionwise(self.attention_skip(attended, enriched)), encoded)

    def _recur(self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None) -> Float[Tensor, "row time hidden"]:
        """Run the LSTM from the state that the static covariates give, or from zero."""
        if self.context is None or static is None:
            return self.lstm(embedded)[0]
        layers = self.lstm.num_layers
        state, cell = (network(static).expand(layers, -1, -1).contiguous() for network in (self.context.state, self.context.cell))
        return self.lstm(embedded, (state, cell))[0]


class TemporalFusionTransformer(nn.Module):
    """Multi-horizon quantile forecasts with readable weights (Lim et al. 2021).

    Args:
        input_size: number of scalar features.
        hidden_size: width of all states.
        num_attention_heads: heads, a divisor of `hidden_size`.
        output_quantiles: levels, strictly increasing within (0, 1).
        num_horizons: number of forecast horizons.
        num_layers: LSTM layers.
        lookback: bars that attention can see.
        variable_size: width of each feature's own network.
        static_size: width of the static covariates, or None without them.
        dropout: fraction dropped.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 160,
        num_attention_heads: int = 4,
        output_quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        *,
        num_horizons: int = 1,
        num_layers: int = 1,
        lookback: int = 168,
        variable_size: int = 16,
        static_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_size, self.static_size, self.num_horizons = input_size, static_size, num_horizons
        self.encoder = TemporalFusionEncoder(
            input_size,
            hidden_size,
            num_attention_heads,
            lookback=lookback,
            num_layers=num_layers,
            variable_size=variable_size,
            static_size=static_size,
            dropout=dropout,
        )
        self.head = QuantileHead(hidden_size, num_horizons, output_quantiles)

    def forward(
        self, x: Float[Tensor, "batch time feature"], mask: Tensor | None = None, static: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch horizon quantile"], dict[str, Tensor]]:
        """Forecast from the last bar.

        Args:
            x: features; NaN only where `mask` is False.
            mask: boolean, broadcastable to `x`, True where present.
            static: covariates `[batch, static]`, if the model was built with `static_size`.

        Returns:
            Quantiles, and a dict of `attention` `[batch, horizon, time]` and `variable_selection`
            `[batch, time, feature]`, each summing to 1 over its last axis.

        Raises:
            ValueError: shapes that do not fit the model, or NaN without a mask.
        """
        values, present = self._check(x, mask, static)
        embedded, selected = self.encoder.select(values, present, static)
        hidden, attention = self.encoder.attend_last(embedded, static)
        weights = {"attention": attention.expand(-1, self.num_horizons, -1), "variable_selection": selected}
        return self.head(hidden[:, 0]), weights

    def dense(
        self, x: Float[Tensor, "batch time feature"], mask: Tensor | None = None, static: Tensor | None = None
    ) -> Float[Tensor, "batch time horizon quantile"]:
        """Forecast from every bar in one pass; entry t equals `forward(x[:, :t + 1])`."""
        values, present = self._check(x, mask, static)
        return self.head(self.encoder(values, present, static))

    def _check(self, x: Tensor, mask: Tensor | None, static: Tensor | None) -> tuple[Tensor, Tensor]:
        expected = None if self.static_size is None else (x.shape[0], self.static_size)
        found = None if static is None else tuple(static.shape)
        if found != expected:
            raise ValueError(f"static must have shape {expected}, was {found}")
        return clean_inputs(x, mask, num_features=self.input_size, axes="batch time feature", name="x")
