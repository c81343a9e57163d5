"""Temporal Fusion Transformer (Lim et al. 2021, International Journal of Forecasting 37).

Shape legend: batch = series, time = bars of the past, horizon = bars to come, origin = a bar that is forecast from,
feature = observed inputs, known = inputs known in advance, static = inputs that never change.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.fusion import TemporalFusionEncoder
from cryptoml.models.inputs import at_least_one, clean_inputs, complete_inputs, refuse_input
from cryptoml.models.layers import QuantileHead
from cryptoml.models.recurrent import RecurrentStack
from cryptoml.models.selection import VariableSelection

__all__ = ["TemporalFusionTransformer"]


class _Inputs(NamedTuple):
    """Checked inputs: those of the past, what is known of the bars to come, and the static vector."""

    past: Float[Tensor, "batch time variable"]
    present: Bool[Tensor, "batch time variable"]
    known: Float[Tensor, "batch bar known"] | None
    static: Float[Tensor, "batch hidden"] | None
    static_weights: Float[Tensor, "batch static"] | None


class TemporalFusionTransformer(nn.Module):
    """Multi-horizon quantile forecasts with readable weights.

    An LSTM reads the past; from its state at the origin a second one reads the bars to come, which then attend to the past
    and to each other in order. The bars to come are told apart by a learned embedding, and by known inputs if there are any.

    Args:
        input_size: number of observed scalar features.
        hidden_size: width of all states.
        num_attention_heads: heads, a divisor of `hidden_size`.
        output_quantiles: levels, strictly increasing within (0, 1).
        num_horizons: number of forecast horizons: the next bars, in order.
        num_layers: layers of each LSTM.
        lookback: bars of the past that attention can see.
        variable_size: width of each variable's own network.
        static_size: number of static scalar covariates, or None without them.
        known_future_size: number of scalar inputs known in advance, or None without them.
        dropout: fraction dropped.

    Raises:
        ValueError: a size below 1, heads that do not divide the width, or quantiles out of order.
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
        known_future_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_attention_heads": num_attention_heads}
        sizes |= {"num_horizons": num_horizons, "num_layers": num_layers, "lookback": lookback, "variable_size": variable_size}
        optional = {"static_size": static_size, "known_future_size": known_future_size}
        at_least_one(**sizes, **{name: size for name, size in optional.items() if size is not None})
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, was {hidden_size} with {num_attention_heads} heads"
            )
        self.input_size, self.num_horizons = input_size, num_horizons
        self.known_future_size = known_future_size
        context = None if static_size is None else hidden_size

        def selection(variables: int | None, static: int | None) -> VariableSelection | None:
            if variables is None:
                return None
            return VariableSelection(variables, hidden_size, variable_size=variable_size, static_size=static, dropout=dropout)

        self.static_selection, self.future_selection = selection(static_size, None), selection(known_future_size, context)
        self.encoder = TemporalFusionEncoder(
            input_size + (known_future_size or 0),
            hidden_size,
            num_attention_heads,
            lookback=lookback,
            num_layers=num_layers,
            variable_size=variable_size,
            static_size=context,
            dropout=dropout,
        )
        self.horizon = nn.Parameter(torch.randn(num_horizons, hidden_size) * 0.5)
        self.decoder = RecurrentStack(hidden_size, num_layers, dropout)
        self.head = QuantileHead(hidden_size, 1, output_quantiles, name="output_quantiles")

    def forward(
        self,
        x: Float[Tensor, "batch time feature"],
        mask: Tensor | None = None,
        static: Tensor | None = None,
        known_future: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch horizon quantile"], dict[str, Tensor]]:
        """Forecast the bars that follow the last one.

        Args:
            x: observed features; NaN only where `mask` is False.
            mask: boolean, broadcastable to `x`, True where present.
            static: covariates `[batch, static]`, if the model was built with `static_size`.
            known_future: inputs known in advance, if the model was built with `known_future_size`: either
                `[batch, time + horizon, known]`, the rows of the past bars followed by those of the bars to come, or
                `[batch, horizon, known]`, the bars to come alone; then their past counts as missing. Never NaN.

        Returns:
            Quantiles, and weights that each sum to 1 over their last axis where anything is present: `attention`
            `[batch, horizon, time]` over the bars of the past; `variable_selection` `[batch, time, feature]`, known inputs
            following the observed ones; with the inputs concerned also `static_selection` `[batch, static]` and
            `known_future_selection` `[batch, horizon, known]`.

        Raises:
            ValueError: shapes that do not fit the model, or NaN that no mask covers.
        """
        inputs = self._check(x, mask, static, known_future)
        embedded, selected = self.encoder.select(inputs.past, inputs.present, inputs.static)
        recurred, state = self.encoder.lstm(embedded, self.encoder.start(inputs.static))
        _, past = self.encoder.enrich(recurred, embedded, inputs.static)
        ahead, ahead_weights = self._ahead(inputs, origins=1)
        encoded, future = self._decode(ahead, (state[0][:, :, None], state[1][:, :, None]), inputs.static)
        attended, attention = self.encoder.attention.forecast_last(past, future[:, 0])
        weights = {
            "attention": attention,
            "variable_selection": selected,
            "static_selection": inputs.static_weights,
            "known_future_selection": ahead_weights,
        }
        quantiles = self.head(self.encoder.close(attended, future[:, 0], encoded[:, 0])).squeeze(-2)
        return quantiles, {name: weight for name, weight in weights.items() if weight is not None}

    def dense(
        self,
        x: Float[Tensor, "batch time feature"],
        mask: Tensor | None = None,
        static: Tensor | None = None,
        known_future: Tensor | None = None,
        *,
        first_origin: int = 0,
    ) -> Float[Tensor, "batch origin horizon quantile"]:
        """Forecast from every bar in one pass; the forecast from bar t equals `forward(x[:, :t + 1])`.

        Args:
            x: as for `forward`.
            mask: as for `forward`.
            static: as for `forward`.
            known_future: `[batch, time + horizon, known]`; the forecast from bar t reads the rows up to t + horizon.
            first_origin: bar to forecast from first; those before it, such as a warm-up, cost little.
        """
        inputs = self._check(x, mask, static, known_future, whole=True)
        if not 0 <= first_origin < x.shape[1]:
            raise ValueError(f"first_origin must lie within the {x.shape[1]} bars of x, was {first_origin}")
        embedded, _ = self.encoder.select(inputs.past, inputs.present, inputs.static)
        recurred, (output, cell) = self.encoder.lstm.at_every_bar(embedded, self.encoder.start(inputs.static))
        _, past = self.encoder.enrich(recurred, embedded, inputs.static)
        ahead, _ = self._ahead(inputs, origins=x.shape[1] - first_origin)
        state = output[:, :, first_origin:], cell[:, :, first_origin:]
        encoded, future = self._decode(ahead, state, inputs.static)
        attended = self.encoder.attention.forecast_all(past, future)
        return self.head(self.encoder.close(attended, future, encoded)).squeeze(-2)

    def _ahead(
        self, inputs: _Inputs, origins: int
    ) -> tuple[Float[Tensor, "batch origin horizon hidden"], Float[Tensor, "batch horizon known"] | None]:
        """Embed the bars to come of the last `origins` bars; also return the selection weights of the last one's."""
        batch = len(inputs.past)
        if self.future_selection is None or inputs.known is None:
            return self.horizon.expand(batch, origins, -1, -1), None
        context = None if inputs.static is None or self.encoder.context is None else self.encoder.context.selection(inputs.static)
        rows = inputs.known[:, -(origins + self.num_horizons - 1) :]
        embedded, weights = self.future_selection(rows, torch.ones_like(rows, dtype=torch.bool), context)
        windows = rearrange(
            embedded.unfold(1, self.num_horizons, 1), "batch origin hidden horizon -> batch origin horizon hidden"
        )
        return windows + self.horizon, weights[:, -self.num_horizons :]

    def _decode(
        self, ahead: Float[Tensor, "batch origin horizon hidden"], state: tuple[Tensor, Tensor], static: Tensor | None
    ) -> tuple[Float[Tensor, "batch origin horizon hidden"], Float[Tensor, "batch origin horizon hidden"]]:
        """Read the bars to come from each origin's state `[layer, batch, origin, hidden]`; gate and enrich as the past."""
        origins = ahead.shape[1]
        rows = rearrange(ahead, "batch origin horizon hidden -> (batch origin) horizon hidden")
        output, cell = (rearrange(part, "layer batch origin hidden -> layer (batch origin) hidden") for part in state)
        recurred, _ = self.decoder(rows, (output, cell))
        flat, inputs = (rearrange(part, "(batch o) h hidden -> batch (o h) hidden", o=origins) for part in (recurred, rows))
        states = self.encoder.enrich(flat, inputs, static)
        encoded, enriched = (rearrange(part, "batch (o h) hidden -> batch o h hidden", o=origins) for part in states)
        return encoded, enriched

    def _check(
        self, x: Tensor, mask: Tensor | None, static: Tensor | None, known_future: Tensor | None, *, whole: bool = False
    ) -> _Inputs:
        """Check all inputs; `whole` insists on known inputs of the past."""
        values, present = clean_inputs(x, mask, num_features=self.input_size, axes="batch time feature", name="x")
        batch, time = values.shape[:2]
        vector, weights = self._static(static, batch)
        if self.known_future_size is None:
            refuse_input(known_future, name="known_future", setting="known_future_size")
            return _Inputs(values, present, None, vector, weights)
        shapes = [(batch, bars, self.known_future_size) for bars in (time + self.num_horizons, self.num_horizons)]
        known = complete_inputs(known_future, *(shapes[:1] if whole else shapes), name="known_future")
        missing = time + self.num_horizons - known.shape[1]
        known_past = functional.pad(known[:, : time - missing], (0, 0, missing, 0))
        known_present = torch.full_like(known_past, not missing, dtype=torch.bool)
        return _Inputs(
            torch.cat([values, known_past], dim=-1), torch.cat([present, known_present], dim=-1), known, vector, weights
        )

    def _static(self, static: Tensor | None, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Combine the static covariates to one vector; also return their selection weights."""
        if self.static_selection is None:
            refuse_input(static, name="static", setting="static_size")
            return None, None
        values = complete_inputs(static, (batch, self.static_selection.num_variables), name="static")[:, None]
        combined, weights = self.static_selection(values, torch.ones_like(values, dtype=torch.bool))
        return combined[:, 0], weights[:, 0]
