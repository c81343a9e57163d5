"""Recurrent layers in plain operations, bar by bar: slower alone, but they can be mapped and differentiated any number of times.

Shape legend: row = sequences, time = bars, hidden = width of the output, layer = layers x directions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["CELLS", "STEPS", "State", "run_layers"]

State = tuple[Tensor, ...]
"""Output, and for an LSTM its cell."""


def run_layers(
    step: Callable[[Tensor, Tensor, State], State],
    x: Tensor,
    state: Tensor | State,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Return what torch's recurrent functions return: the top layer's output, and the last states of all layers and directions.

    Args:
        step: From a bar's weighed input, the weighed output of the bar before, and the state, to the next state.
        x: `[row time feature]` if `batch_first`, else `[time row feature]`.
        state: `[layer row hidden]`, for an LSTM a pair of them; directions alternate within layers.
        weights: Of each layer and direction in turn: from input, from output, two biases if any, projection if any.
        has_biases: As in `torch.lstm`, like all that follow.
        num_layers: Layers.
        dropout: Fraction dropped between layers while `training`.
        training: Whether to drop.
        bidirectional: Whether each layer also runs backwards.
        batch_first: Order of the axes of input and output.
    """
    states = [state] if isinstance(state, Tensor) else list(state)
    directions, bars, ends = 1 + bidirectional, x.transpose(0, 1) if batch_first else x, []
    each = len(weights) // (num_layers * directions)
    for layer in range(num_layers):
        given, outputs = functional.dropout(bars, dropout, training and layer > 0), []
        for index in range(layer * directions, (layer + 1) * directions):
            own, start = weights[index * each : (index + 1) * each], tuple(part[index] for part in states)
            backwards = index % directions == 1
            output, end = _scan(step, given.flip(0) if backwards else given, start, own, has_biases)
            outputs.append(output.flip(0) if backwards else output)
            ends.append(end)
        bars = torch.cat(outputs, dim=-1)
    return bars.transpose(0, 1) if batch_first else bars, *(torch.stack(parts) for parts in zip(*ends, strict=True))


def _scan(
    step: Callable[[Tensor, Tensor, State], State],
    bars: Float[Tensor, "time row feature"],
    state: State,
    weights: Sequence[Tensor],
    has_biases: bool,
) -> tuple[Float[Tensor, "time row hidden"], State]:
    """Run one layer in one direction; the inputs of all bars are weighed in one product."""
    from_input, from_output, *rest = weights
    input_bias, output_bias = rest[:2] if has_biases else (None, None)
    projection, outputs = rest[-1] if len(rest) % 2 else None, []
    for given in functional.linear(bars, from_input, input_bias).unbind(0):
        output, *memory = step(given, functional.linear(state[0], from_output, output_bias), state)
        state = (output if projection is None else functional.linear(output, projection), *memory)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _lstm(given: Tensor, fed_back: Tensor, state: State) -> State:
    write, keep, content, show = (given + fed_back).chunk(4, dim=-1)
    cell = torch.sigmoid(keep) * state[1] + torch.sigmoid(write) * torch.tanh(content)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def _gru(given: Tensor, fed_back: Tensor, state: State) -> State:
    (reset, keep, content), (past_reset, past_keep, past) = given.chunk(3, dim=-1), fed_back.chunk(3, dim=-1)
    new = torch.tanh(content + torch.sigmoid(reset + past_reset) * past)
    return (new + torch.sigmoid(keep + past_keep) * (state[0] - new),)


def _tanh(given: Tensor, fed_back: Tensor, state: State) -> State:
    return (torch.tanh(given + fed_back),)


def _relu(given: Tensor, fed_back: Tensor, state: State) -> State:
    return (torch.relu(given + fed_back),)


def _cell(
    step: Callable[[Tensor, Tensor, State], State],
    x: Tensor,
    state: Tensor | State,
    from_input: Tensor,
    from_output: Tensor,
    input_bias: Tensor | None = None,
    output_bias: Tensor | None = None,
) -> Tensor | State:
    """Do what torch's functions of one bar do: as `torch.lstm_cell`, with a pair of states, or with one tensor."""
    before = (state,) if isinstance(state, Tensor) else tuple(state)
    given, fed_back = functional.linear(x, from_input, input_bias), functional.linear(before[0], from_output, output_bias)
    after = step(given, fed_back, before)
    return after[0] if isinstance(state, Tensor) else after


STEPS: dict[Callable[..., Any], Callable[[Tensor, Tensor, State], State]] = {
    torch.lstm: _lstm,
    torch.gru: _gru,
    torch.rnn_tanh: _tanh,
    torch.rnn_relu: _relu,
}
"""One bar of each of torch's recurrent functions."""

CELLS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm_cell: partial(_cell, _lstm),
    torch.gru_cell: partial(_cell, _gru),
    torch.rnn_tanh_cell: partial(_cell, _tanh),
    torch.rnn_relu_cell: partial(_cell, _relu),
}
"""Torch's functions of a single bar in plain operations."""
