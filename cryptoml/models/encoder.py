"""The contract of an encoder: a time-local embedding, then a causal temporal part."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Encoder"]


class Encoder(nn.Module, ABC):
    """Turn one asset's features into a hidden state at every bar.

    Splitting the time-local part from the temporal one lets overlapping windows share the former.

    Attributes:
        memory: bars, its own included, that an output can depend on; None where a recurrent state has no limit.
    """

    memory: int | None

    @abstractmethod
    def embed(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        """Embed each bar by itself; `x` is 0 where `mask` is False, `static` is `[row, hidden]` or None."""

    @abstractmethod
    def temporal(
        self, embedded: Float[Tensor, "row time hidden"], static: Tensor | None = None, *, last_only: bool = False
    ) -> Float[Tensor, "row query hidden"]:
        """Mix bars causally: the state at bar t reads bars up to t; `last_only` returns the last bar alone."""

    def forward(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> Float[Tensor, "row time hidden"]:
        return self.temporal(self.embed(x, mask, static), static)

    def explain(
        self, x: Float[Tensor, "row time feature"], mask: Bool[Tensor, "row time feature"], static: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weights that can be read by people; empty where an encoder has none."""
        return {}
