"""Batches ahead of time are the same batches, and errors in them reach the loop."""

from collections.abc import Callable, Iterator

import pytest
import torch

from cryptoml.training.chunks import ChunkLoader
from cryptoml.training.feed import Feed, ahead, length_of, moved


def test_ahead_keeps_order_and_ends() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []


def test_ahead_gathers_the_same_chunks(loader: Callable[..., ChunkLoader]) -> None:
    data = loader(shuffle=True, random_phase=True)
    for expected, batch in zip(data.iterate(3), ahead(data.iterate(3)), strict=True):
        assert expected.spans == batch.spans
        assert torch.equal(expected.features, batch.features)


def test_ahead_passes_errors_on_and_can_be_left() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken file")

    with pytest.raises(ValueError, match="broken file"):
        list(ahead(broken()))
    batches = ahead(iter(range(100)))
    assert next(batches) == 0
    batches.close()


@pytest.mark.parametrize("skip", [0, 2])
def test_a_feed_skips_chunks_and_tells_the_epoch(loader: Callable[..., ChunkLoader], skip: int) -> None:
    data = loader(shuffle=True)
    batches = list(Feed(data, torch.device("cpu")).batches(4, skip))
    assert data.epoch == 4
    assert [batch.spans for batch in batches] == [batch.spans for batch in data.iterate(4)][skip:]


def test_moved_keeps_nesting() -> None:
    batch = {"x": (torch.ones(1), [torch.zeros(2)]), "name": "a"}
    again = moved(batch, torch.device("meta"))
    assert again["x"][1][0].device.type == "meta"
    assert again["name"] == "a"


def test_length_is_none_where_a_loader_cannot_tell() -> None:
    assert length_of([1, 2]) == 2
    assert length_of(iter([1])) is None
