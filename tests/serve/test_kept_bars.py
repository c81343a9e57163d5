"""Bars in memory and in their log: order, conflicts, and what survives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serve.bar_log import BarLog
from serve.kept_bars import BarArrays, BarChange, KeptBars
from serve.problems import ConflictError

HOUR = 3_600_000_000
START = 1_700_000_000_000_000 // HOUR * HOUR


def bars(first: int, number: int, price: float = 100.0) -> BarArrays:
    values = np.full((number, 8), np.nan)
    values[:, :5] = price + np.arange(first, first + number)[:, None]
    return BarArrays(START + HOUR * np.arange(first, first + number), values)


@pytest.fixture
def kept() -> KeptBars:
    return KeptBars("1h", 100)


def test_bars_are_taken_once(kept: KeptBars) -> None:
    change = kept.check("BTCUSDT", bars(0, 10))
    kept.merge("BTCUSDT", change.new)
    again = kept.check("BTCUSDT", bars(5, 10))
    assert (len(again.new), again.unchanged, again.forgotten) == (5, 5, 0)
    revision = kept.revision("BTCUSDT")
    kept.merge("BTCUSDT", bars(0, 10))
    assert kept.revision("BTCUSDT") == revision


def test_other_values_are_a_conflict_that_names_the_field(kept: KeptBars) -> None:
    kept.merge("BTCUSDT", bars(0, 10))
    other = bars(8, 4)
    other.values[1, 3] += 1
    with pytest.raises(ConflictError, match="close of BTCUSDT") as caught:
        kept.check("BTCUSDT", other)
    assert caught.value.field == "/close/1"


def test_bars_before_the_first_are_out_of_order(kept: KeptBars) -> None:
    kept.merge("BTCUSDT", bars(0, 5))
    with pytest.raises(ConflictError, match="out of order"):
        kept.check("BTCUSDT", bars(-3, 4))


def test_a_gap_is_filled_whenever_its_bars_come(kept: KeptBars) -> None:
    kept.merge("BTCUSDT", bars(0, 5))
    kept.merge("BTCUSDT", bars(8, 4))
    edition = kept.edition("BTCUSDT")
    change = kept.check("BTCUSDT", bars(4, 9))
    assert (len(change.new), change.unchanged) == (4, 5)
    kept.merge("BTCUSDT", change.new)
    assert kept.bars("BTCUSDT").stamps.tolist() == bars(0, 13).stamps.tolist()
    assert kept.bars("BTCUSDT").values[:, 3].tolist() == bars(0, 13).values[:, 3].tolist()
    assert kept.edition("BTCUSDT") != edition


def test_callers_of_one_commit_may_fill_each_others_gaps(tmp_path: Path, kept: KeptBars) -> None:
    log = BarLog(tmp_path, kept)
    log.commit([("BTCUSDT", bars(0, 5)), ("BTCUSDT", bars(8, 2)), ("BTCUSDT", bars(5, 3))])
    restored = KeptBars("1h", 100)
    BarLog(tmp_path, restored)
    for one in (kept, restored):
        assert one.bars("BTCUSDT").stamps.tolist() == bars(0, 10).stamps.tolist()


def test_only_the_newest_are_kept(kept: KeptBars) -> None:
    kept.merge("BTCUSDT", bars(0, 250))
    assert len(kept.bars("BTCUSDT")) == 100
    change = kept.check("BTCUSDT", bars(140, 20))
    assert (len(change.new), change.unchanged, change.forgotten) == (0, 10, 10)


def test_panel_aligns_symbols(kept: KeptBars) -> None:
    kept.merge("A", bars(0, 20))
    kept.merge("B", bars(5, 10))
    newest = {name: int(kept.bars(name).stamps[-1]) for name in ("A", "B")}
    panel = kept.panel(("B", "C", "A"), newest, newest["A"], 8)
    assert panel.present.tolist() == [[True] * 3 + [False] * 5, [False] * 8, [True] * 8]
    assert panel.field("close")[2].tolist() == [100.0 + place for place in range(12, 20)]


def contents(kept: KeptBars) -> dict[str, tuple[list[int], list[float]]]:
    return {name: (kept.bars(name).stamps.tolist(), kept.bars(name).values[:, 3].tolist()) for name in kept.symbols}


def test_log_restores_what_it_took(tmp_path: Path, kept: KeptBars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.bar_log._MOST_FILES", 4)
    log = BarLog(tmp_path, kept)
    for first in range(0, 60, 3):
        found = log.commit([("A", bars(first, 3)), ("B", bars(first, 4)), ("A", bars(first, 2, price=7.0))])
        assert isinstance(found[0], BarChange)
        assert isinstance(found[2], ConflictError)
    log.drop("B")
    log.commit([("B", bars(70, 1))])
    restored = KeptBars("1h", 100)
    BarLog(tmp_path, restored)
    assert contents(restored) == contents(kept)
    assert len(list((tmp_path / "bars" / "1h").glob("*.arrow"))) <= 6


def test_replicas_see_each_other(tmp_path: Path, kept: KeptBars) -> None:
    other = KeptBars("1h", 100)
    first, second = BarLog(tmp_path, kept), BarLog(tmp_path, other)
    first.commit([("A", bars(0, 3))])
    assert isinstance(second.commit([("A", bars(0, 3, price=5.0))])[0], ConflictError)
    second.commit([("A", bars(3, 3))])
    first.refresh()
    assert contents(kept) == contents(other)


def test_on_s3(s3_address: str, kept: KeptBars) -> None:
    log = BarLog(s3_address.format("state"), kept)
    log.commit([("A", bars(0, 3))])
    log.commit([("A", bars(3, 3)), ("B", bars(0, 1))])
    restored = KeptBars("1h", 100)
    BarLog(s3_address.format("state"), restored)
    assert contents(restored) == contents(kept)


WRITER = """
import sys
sys.path.insert(0, "tests/serve")
from test_kept_bars import BarLog, KeptBars, bars
log = BarLog(sys.argv[1], KeptBars("1h", 100_000))
for first in range(100_000):
    log.commit([("A", bars(first, 1)), ("B", bars(first, 1))])
    print(first, flush=True)
"""


def test_acknowledged_bars_survive_kill_9(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(0.5)
    writer.send_signal(signal.SIGKILL)
    told = [int(line) for line in writer.stdout.read().split()]
    writer.stdout.close()
    writer.wait()
    restored = KeptBars("1h", 100_000)
    BarLog(tmp_path, restored)
    assert told
    for symbol in ("A", "B"):
        assert len(restored.bars(symbol)) in (told[-1] + 1, told[-1] + 2)
        assert np.diff(restored.bars(symbol).stamps).tolist() == [HOUR] * (len(restored.bars(symbol)) - 1)
