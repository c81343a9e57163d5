"""Windows share memory with the array; chunks cover each origin once."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptoml.data.windows import chunk_spans, windows
from cryptoml.errors import ConfigError


@given(st.integers(1, 30), st.integers(1, 30))
def test_each_window_is_the_bars_up_to_its_origin(num_bars: int, length: int) -> None:
    values = np.arange(2 * num_bars * 3, dtype=np.float32).reshape(2, num_bars, 3)
    if length > num_bars:
        with pytest.raises(ConfigError, match=f"was {length}"):
            windows(values, length)
        return
    view = windows(values, length)
    assert view.shape == (2, num_bars - length + 1, length, 3)
    assert np.shares_memory(view, values)
    for number in range(view.shape[1]):
        np.testing.assert_array_equal(view[:, number], values[:, number : number + length])


def test_windows_of_a_plain_series_and_read_only() -> None:
    view = windows(np.arange(6.0)[None], 4)
    assert view.tolist() == [[[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]]
    assert not view.flags.writeable


@given(st.data(), st.integers(1, 300), st.integers(1, 40))
def test_chunks_cover_every_origin_once_with_enough_context(data: st.DataObject, num_bars: int, lookback: int) -> None:
    chunk_bars = data.draw(st.integers(lookback, 120))
    start = data.draw(st.integers(0, num_bars))
    stop = data.draw(st.integers(start, num_bars))
    if stop - start < lookback:
        with pytest.raises(ConfigError, match=f"lookback = {lookback}"):
            chunk_spans(num_bars, chunk_bars, lookback, start=start, stop=stop)
        return
    spans = chunk_spans(num_bars, chunk_bars, lookback, start=start, stop=stop)
    origins = [origin for span in spans for origin in range(span.first_origin, span.stop)]
    assert origins == list(range(start + lookback - 1, stop))
    assert all(start <= span.start <= span.first_origin - lookback + 1 for span in spans)
    assert {span.stop - span.start for span in spans} == {min(chunk_bars, stop - start)}
    assert sum(span.num_origins for span in spans) == len(origins)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_bars": 10, "lookback": 11}, "lookback must be from 1 to chunk_bars = 10, was 11"),
        ({"chunk_bars": 10, "lookback": 0}, "was 0"),
        ({"chunk_bars": 10, "lookback": 5, "stop": 101}, r"inside \[0, 100\)"),
        ({"chunk_bars": 10, "lookback": 5, "start": -1}, r"was \[-1, 100\)"),
    ],
)
def test_bad_chunks_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chunk_spans(100, **settings)  # type: ignore[arg-type]


def test_a_pass_over_all_windows_and_chunks_stays_near_the_array() -> None:
    """10 symbols x 4,000 bars x 200 features; what a pass adds does not grow with the bars, so longer data only does better."""
    tracemalloc.start()
    values = np.ones((10, 4_000, 200), dtype=np.float32)
    total = 0.0
    view = windows(values, 168)
    for origin in range(0, view.shape[1], 64):
        total += float(np.stack([view[asset, origin] for asset in range(10)]).mean())
    for span in chunk_spans(4_000, 512, 168):
        total += float(values[:, span.bars].copy().mean())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 0
    assert peak < 1.5 * values.nbytes
