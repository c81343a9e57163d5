"""LSTM layers whose state can be read at every bar."""

import pytest
import torch

from cryptoml.models.recurrent import RecurrentStack, linear_recurrence


@pytest.mark.parametrize("time", [1, 2, 7, 33])
def test_scan_equals_a_loop(time: int) -> None:
    decay, increment = torch.rand(2, time, 3), torch.randn(2, time, 3)
    scanned, state = linear_recurrence(decay, increment), torch.zeros(2, 3)
    for bar in range(time):
        state = decay[:, bar] * state + increment[:, bar]
        assert torch.allclose(scanned[:, bar], state, atol=1e-6)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("seeded", [False, True])
def test_states_equal_those_of_every_prefix(num_layers: int, seeded: bool) -> None:
    torch.manual_seed(0)
    stack, x = RecurrentStack(4, num_layers), 3 * torch.randn(2, 9, 4)
    start = (torch.randn(num_layers, 2, 4), torch.randn(num_layers, 2, 4)) if seeded else None
    output, (states, cells) = stack.at_every_bar(x, start)
    for bar in range(9):
        expected, (state, cell) = stack(x[:, : bar + 1], start)
        assert torch.allclose(output[:, bar], expected[:, -1], atol=1e-6)
        assert torch.allclose(states[:, :, bar], state, atol=1e-6)
        assert torch.allclose(cells[:, :, bar], cell, atol=1e-5)


def test_cells_stay_exact_where_gates_saturate() -> None:
    torch.manual_seed(0)
    stack, x = RecurrentStack(4), 300 * torch.randn(2, 64, 4)
    _, (_, cells) = stack.at_every_bar(x)
    assert torch.allclose(cells[:, :, -1], stack(x)[1][1], rtol=1e-5, atol=1e-5)


def test_layers_equal_those_of_torch() -> None:
    stack, whole, x = RecurrentStack(4, 2), torch.nn.LSTM(4, 4, 2, batch_first=True), torch.randn(2, 9, 4)
    for index, layer in enumerate(stack.layers):
        for name, weight in layer.named_parameters():
            weight.data = getattr(whole, name.replace("l0", f"l{index}")).data
    assert torch.allclose(stack(x)[0], whole(x)[0], atol=1e-6)
