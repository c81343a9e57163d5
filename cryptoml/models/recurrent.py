"""LSTM layers whose state, cells included, can be read at every bar, so that a decoder can start from any of them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["RecurrentStack", "linear_recurrence"]

State = tuple[Tensor, Tensor]
"""Output and cell of every layer, each `[layer, row, hidden]`."""


def linear_recurrence(
    decay: Float[Tensor, "row time hidden"], increment: Float[Tensor, "row time hidden"]
) -> Float[Tensor, "row time hidden"]:
    """Return `c` with `c[t] = decay[t] * c[t - 1] + increment[t]` and `c[-1] = 0`.

    A scan in log2(time) steps (Hillis and Steele 1986); stable where `decay` lies in [0, 1].
    """
    step = 1
    while step < decay.shape[1]:
        increment = increment + decay * _delayed(increment, step)
        decay = decay * _delayed(decay, step)
        step *= 2
    return increment


def _delayed(x: Tensor, step: int) -> Tensor:
    return functional.pad(x[:, :-step], (0, 0, step, 0))


class RecurrentStack(nn.Module):
    """LSTM layers of one width.

    Args:
        hidden_size: width of input, output and cells.
        num_layers: number of layers.
        dropout: fraction dropped between layers.
    """

    def __init__(self, hidden_size: int, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(hidden_size, hidden_size, batch_first=True) for _ in range(num_layers))
        self.between = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "row time hidden"], state: State | None = None
    ) -> tuple[Float[Tensor, "row time hidden"], State]:
        """Run over all bars from `state` (zero where None); return the top layer's output and the last state."""
        outputs, cells = [], []
        for index, layer in enumerate(self.layers):
            x, (output, cell) = _run(layer, self.between(x) if index else x, _layer_state(state, index))
            outputs.append(output)
            cells.append(cell)
        return x, (torch.cat(outputs), torch.cat(cells))

    def at_every_bar(
        self, x: Float[Tensor, "row time hidden"], state: State | None = None
    ) -> tuple[Float[Tensor, "row time hidden"], State]:
        """Run as `forward`, but return the state after every bar: output and cell `[layer, row, time, hidden]`."""
        outputs, cells = [], []
        for index, layer in enumerate(self.layers):
            inputs, start = self.between(x) if index else x, _layer_state(state, index)
            assert isinstance(layer, nn.LSTM)
            x = _run(layer, inputs, start)[0]
            outputs.append(x)
            cells.append(_cells(layer, inputs, x, start))
        return x, (torch.stack(outputs), torch.stack(cells))


def _run(layer: nn.Module, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Run one layer by kernels that exist where it runs.

    On CPUs in full precision also under autocast: many have no LSTM in bfloat16. On CUDA without cuDNN where a gradient may be
    asked for in eval mode, which cuDNN's kernels do not have.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = next(layer.parameters()).dtype
        with torch.autocast("cpu", enabled=False):
            return layer(x.to(dtype), None if state is None else (state[0].to(dtype), state[1].to(dtype)))
    if x.is_cuda and torch.is_grad_enabled() and not layer.training:
        with torch.backends.cudnn.flags(enabled=False):
            return layer(x, state)
    return layer(x, state)


def _layer_state(state: State | None, index: int) -> State | None:
    return None if state is None else (state[0][index : index + 1].contiguous(), state[1][index : index + 1].contiguous())


def _cells(layer: nn.LSTM, x: Tensor, output: Tensor, start: State | None) -> Float[Tensor, "row time hidden"]:
    """Recover the cells from what went in and came out, which the fused kernels keep to themselves.

    Inputs and outputs give the gates of all bars in one product; given the gates, cells are a linear recurrence.
    """
    first = torch.zeros_like(output[:, :1]) if start is None else start[0][0][:, None].to(output.dtype)
    before = torch.cat([first, output[:, :-1]], dim=1)
    from_input, from_output, input_bias, output_bias = layer.all_weights[0]
    gates = functional.linear(x, from_input, input_bias) + functional.linear(before, from_output, output_bias)
    write, keep, content, _ = gates.chunk(4, dim=-1)
    decay, increment = torch.sigmoid(keep), torch.sigmoid(write) * torch.tanh(content)
    if start is not None:
        increment = torch.cat([increment[:, :1] + decay[:, :1] * start[1][0][:, None], increment[:, 1:]], dim=1)
    return linear_recurrence(decay, increment).to(output.dtype)
