"""Variable selection over many scalar variables as one batched computation (Lim et al. 2021, section 4.2).

Two identities make it cheap without changing the functions that it can represent. A scalar's linear embedding followed
by the first layer of its gated residual network is one affine map of the scalar, so it is parametrised as that map. The
flattened embeddings of all variables are affine in the scalars, so the selection network reads the scalars and their
presence flags instead of `variable x hidden` numbers.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.models.layers import GatedResidualNetwork

__all__ = ["VariableSelection", "masked_softmax"]


def masked_softmax(scores: Float[Tensor, "*lead item"], mask: Bool[Tensor, "*lead item"]) -> Float[Tensor, "*lead item"]:
    """Softmax over the present items of the last axis, in float32 at least.

    Exactly 0 elsewhere, and all 0 where nothing is present.
    """
    lowest, dtype = torch.finfo(scores.dtype).min, torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1, dtype=dtype).masked_fill(~mask, 0.0)


class VariableSelection(nn.Module):
    """Weigh and combine scalar variables at each bar (Lim et al. 2021, eq. 6 to 8).

    Args:
        num_variables: number of scalar inputs.
        hidden_size: width of the combined output.
        variable_size: width of each variable's own network; the cost grows with its square.
        static_size: width of the static context that steers the selection, or None.
        dropout: fraction dropped of the combination and before the gate of the selection.
    """

    def __init__(
        self, num_variables: int, hidden_size: int, *, variable_size: int, static_size: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_variables = num_variables
        bound = 1.0 / math.sqrt(variable_size)
        self.embedding = nn.Parameter(torch.randn(num_variables, 1, variable_size))
        self.embedding_bias = nn.Parameter(torch.zeros(num_variables, 1, variable_size))
        self.inner = nn.Parameter(torch.randn(num_variables, 1, variable_size))
        self.inner_bias = nn.Parameter(torch.randn(num_variables, 1, variable_size) * 0.5)
        self.gate = nn.Parameter(torch.empty(num_variables, variable_size, 2 * variable_size).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.zeros(num_variables, 1, 2 * variable_size))
        self.output = nn.Parameter(torch.empty(num_variables * variable_size, hidden_size).uniform_(-bound, bound))
        self.output_bias = nn.Parameter(torch.zeros(num_variables, hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.selector = GatedResidualNetwork(
            2 * num_variables, hidden_size, num_variables, context_size=static_size, dropout=dropout
        )

    def forward(
        self, x: Float[Tensor, "row time variable"], mask: Bool[Tensor, "row time variable"], static: Tensor | None = None
    ) -> tuple[Float[Tensor, "row time hidden"], Float[Tensor, "row time variable"]]:
        """Combine the present variables of each bar.

        Args:
            x: values, 0 where missing.
            mask: True where present.
            static: context `[row, static]`.

        Returns:
            The combination, and the selection weights: 0 where missing, summing to 1 at bars with any variable.
        """
        context = None if static is None else static[:, None]
        weights = masked_softmax(self.selector(torch.cat([x, mask.to(x.dtype)], dim=-1), context), mask)
        processed = self._process(rearrange(x, "row time variable -> variable (row time) 1"))
        weighted = processed * rearrange(weights.to(processed.dtype), "row time variable -> variable (row time) 1")
        flat = rearrange(weighted, "variable token width -> token (variable width)")
        combined = (flat @ self.output).unflatten(0, x.shape[:2]) + weights.to(x.dtype) @ self.output_bias
        return self.dropout(combined), weights

    def _process(self, x: Float[Tensor, "variable token 1"]) -> Float[Tensor, "variable token width"]:
        """Run every variable through its own gated residual network (eq. 7), all variables at once."""
        inner = functional.elu(torch.addcmul(self.inner_bias, x, self.inner))
        gated = functional.glu(torch.baddbmm(self.gate_bias, inner, self.gate))
        skipped = torch.addcmul(self.embedding_bias, x, self.embedding) + gated
        return functional.layer_norm(skipped, skipped.shape[-1:])
