"""The Temporal Fusion Transformer up to its output layer, with one state per bar (Lim et al. 2021, IJF 37).

Shape legend: row = one series of one batch entry, time = bars, query = bars whose state is asked for.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from cryptoml.models.attention import InterpretableAttention
from cryptoml.models.encoder import Encoder
from cryptoml.models.layers import GatedResidualNetwork, GatedSkip
from cryptoml.models.recurrent import RecurrentStack
from cryptoml.models.selection import VariableSelection

__all__ = ["StaticContext", "TemporalFusionEncoder"]


class StaticContext(nn.Module):
    """The contexts that static covariates give: selection, enrichment, and the initial LSTM state (section 4.3)."""

    def __init__(self, static_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()

        def network() -> GatedResidualNetwork:
            return GatedResidualNetwork(static_size, hidden_size, hidden_size, dropout=dropout)

        self.selection, self.enrichment, self.state, self.cell = network(), network(), network(), network()


class TemporalFusionEncoder(Encoder):
    """Everything of the Temporal Fusion Transformer but the bars to come: one state per bar, for any output layer.

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
        self.lstm = RecurrentStack(hidden_size, num_layers, dropout)
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
            return self._last(embedded, static)[0]
        encoded, enriched = self._encode(embedded, static)
        return self.close(self.attention(enriched), enriched, encoded)

    def explain(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`attention` of the last bar `[row, time]` and `variable_selection` `[row, time, feature]`."""
        embedded, selected = self.select(x, mask, static)
        return {"attention": self._last(embedded, static)[1][:, 0], "variable_selection": selected}

    def start(self, static: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return the LSTM state that the static covariates give (section 4.3), or None for zeros."""
        if self.context is None or static is None:
            return None
        layers = len(self.lstm.layers)
        return self.context.state(static).expand(layers, -1, -1), self.context.cell(static).expand(layers, -1, -1)

    def enrich(
        self, recurred: Float[Tensor, "row time hidden"], inputs: Float[Tensor, "row time hidden"], static: Tensor | None
    ) -> tuple[Float[Tensor, "row time hidden"], Float[Tensor, "row time hidden"]]:
        """Gate what the LSTM made of its inputs (eq. 17); return that, and it enriched by the static covariates (eq. 18)."""
        encoded = self.lstm_skip(recurred, inputs)
        context = None if self.context is None or static is None else self.context.enrichment(static)[:, None]
        return encoded, self.enrichment(encoded, context)

    def close(
        self,
        attended: Float[Tensor, "*lead hidden"],
        enriched: Float[Tensor, "*lead hidden"],
        encoded: Float[Tensor, "*lead hidden"],
    ) -> Float[Tensor, "*lead hidden"]:
        """Close the attention block (eq. 20), then the position-wise network and the skip past it (eq. 21, 22)."""
        return self.output_skip(self.positionwise(self.attention_skip(attended, enriched)), encoded)

    def _encode(self, embedded: Tensor, static: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.enrich(self.lstm(embedded, self.start(static))[0], embedded, static)

    def _last(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None
    ) -> tuple[Float[Tensor, "row 1 hidden"], Float[Tensor, "row 1 time"]]:
        """Compute the state at the last bar; also return its attention weights over bars."""
        encoded, enriched = self._encode(embedded, static)
        attended, weights = self.attention.last(enriched)
        return self.close(attended, enriched[:, -1:], encoded[:, -1:]), weights
