import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptoml.data.windows import ChunkSpan, chunk_spans
from cryptoml.errors import DataError
from cryptoml.training.chunks import ChunkLoader, shifted_spans
from tests.training.conftest import TARGETS


def origins_of(spans: list[ChunkSpan]) -> list[int]:
    return sorted(bar for span in spans for bar in range(span.first_origin, span.stop))


@settings(max_examples=60, deadline=None)
@given(bars=st.integers(20, 90), chunk=st.integers(6, 25), gap=st.integers(0, 15), phase=st.integers(0, 40))
def test_shifting_covers_the_same_origins_once(bars: int, chunk: int, gap: int, phase: int):
    lookback = 5
    spans = chunk_spans(300, chunk, lookback, stop=bars) + chunk_spans(
        300, chunk, lookback, start=bars + gap, stop=2 * bars + gap
    )
    moved = shifted_spans(spans, phase)
    assert origins_of(moved) == origins_of(spans)
    assert max(span.stop - span.start for span in moved) <= max(span.stop - span.start for span in spans)
    assert all(span.first_origin - span.start >= lookback - 1 for span in moved)
    assert all(span.stop <= bars or span.start >= bars + gap for span in moved)


def test_every_origin_is_trained_once_an_epoch(loader):
    data = loader(shuffle=True, random_phase=True)
    for epoch in range(3):
        seen = np.zeros(400, int)
        for batch in data.iterate(epoch):
            for span, origins in zip(batch.spans, batch.origin_mask, strict=True):
                seen[span.start : span.start + origins.shape[1]] += origins[0].numpy()[: 400 - span.start]
        assert (seen[7:300] == 1).all()
        assert seen.sum() == 293


def test_batch_holds_the_array(loader, market):
    features, targets = market
    batch = next(iter(loader()))
    span = batch.spans[0]
    part = features[:, span.start : span.stop]
    np.testing.assert_array_equal(batch.mask[0], ~np.isnan(part))
    np.testing.assert_array_equal(batch.features[0], np.nan_to_num(part))
    expected = targets.log_return[:, span.start : span.stop] / (targets.sigma[:, span.start : span.stop, None] * np.sqrt([1, 4]))
    np.testing.assert_allclose(batch.targets["returns"][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(batch.targets["direction"][0], targets.direction[:, span.start : span.stop])


def test_short_chunk_is_padded_and_masked(market):
    features, targets = market
    spans = [ChunkSpan(0, 32, 7), ChunkSpan(32, 44, 39)]
    batch = ChunkLoader(features, targets, spans, batch_size=2, target_config=TARGETS).gather(spans)
    assert batch.features.shape == (2, 2, 32, 3)
    assert not batch.mask[1, :, 12:].any()
    assert not batch.origin_mask[1, :, 12:].any()
    assert (batch.targets["direction"][1, :, 12:] == -1).all()
    assert batch.targets["returns"][1, :, 12:].isnan().all()


def test_features_are_shared_not_copied(loader, market):
    data = loader()
    assert data.features.data_ptr() == market[0].__array_interface__["data"][0]
    before = market[0].copy()
    list(data)
    np.testing.assert_array_equal(market[0], before)


def test_read_only_arrays_are_welcome(market):
    features = market[0].copy()
    features.flags.writeable = False
    data = ChunkLoader(features, market[1], [ChunkSpan(0, 20, 7)], batch_size=1, target_config=TARGETS)
    assert len(list(data)) == 1


def test_order_depends_on_seed_and_epoch_and_can_be_resumed(loader):
    data, same = loader(shuffle=True, random_phase=True, seed=3), loader(shuffle=True, random_phase=True, seed=3)
    whole = [batch.spans for batch in data.iterate(5)]
    assert [batch.spans for batch in same.iterate(5, skip=2)] == whole[2:]
    assert [batch.spans for batch in data.iterate(6)] != whole
    data.set_epoch(5)
    assert len(data) == len(whole)


def test_origin_mask_is_respected(loader):
    allowed = np.zeros((2, 400), bool)
    allowed[0, 100:120] = True
    assert sum(batch.origin_mask.sum().item() for batch in loader(origin_mask=allowed)) == 20


def test_describe_names_bars_and_symbols(loader):
    data = loader(symbols=("BTCUSDT", "ETHUSDT"), timestamps=np.arange("2024-01-01", "2024-01-17T16", dtype="datetime64[h]"))
    batch = next(iter(data))
    assert "2024-01-01T00" in data.describe(batch)
    batch.features[0, 1, 3, 0] = torch.inf
    assert data.describe(batch).endswith("infinite values of ETHUSDT")


@pytest.mark.parametrize(
    ("spans", "message"),
    [([], "spans must hold at least one chunk"), ([ChunkSpan(390, 410, 395)], "spans must lie within the 400 bars")],
)
def test_bad_spans_are_named(market, spans, message):
    with pytest.raises(DataError, match=message):
        ChunkLoader(market[0], market[1], spans, batch_size=1, target_config=TARGETS)


def test_infinite_features_are_refused(loader):
    data = loader(symbols=("BTCUSDT", "ETHUSDT"))
    data.features = data.features.clone()
    data.features[0, 60, 2] = -torch.inf
    with pytest.raises(DataError, match=r"infinite one in bars .*infinite values of BTCUSDT$"):
        list(data)


def test_shards_make_up_the_batches_of_one_worker(loader):
    whole = loader(batch_size=4, shuffle=True)
    ranks = [loader(batch_size=2, shuffle=True, shard=(rank, 2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(whole)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert set(batch.spans) == {span for part in parts for span in part.spans}
    with pytest.raises(DataError, match=r"shard must be \(rank, ranks\)"):
        loader(shard=(2, 2))
