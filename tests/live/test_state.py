"""What a bot remembers outlives its process; what is damaged is refused with the file's name."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cryptoml.errors import BundleError
from cryptoml.features.onchain import OnChainMetrics
from cryptoml.live import state
from cryptoml.live.state import KEPT_VERSIONS, state_versions
from cryptoml.live.trading_ai import UltimateTradingAI

Open = Callable[..., UltimateTradingAI]
SETTINGS = {"holding_bars": 3}


@pytest.fixture(scope="module")
def remembered(trained: Any, shifted: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an accepted adaptation, three decided bars and a reading."""
    from cryptoml.models.bundle import save_bundle

    folder = tmp_path_factory.mktemp("remembered")
    save_bundle(folder / "bundle", trained.bundle)
    ai = UltimateTradingAI(SETTINGS, model_dir=folder)
    ai.load_state()

    async def trade() -> None:
        assert (await ai.adapt_to_new_regime(shifted)).accepted
        readings = {"BTCUSDT": {"onchain": OnChainMetrics(active_addresses=5.0)}}
        for stop in (2298, 2299, 2300):
            await ai.predict_all({name: frame.iloc[:stop] for name, frame in shifted.items()}, readings=readings, explain=False)

    asyncio.run(trade())
    ai.save_state()
    return folder


@pytest.fixture
def copy(remembered: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(remembered, tmp_path / "copy"))


def newest(folder: Path) -> Path:
    return state_versions(folder / "state")[-1]


def test_a_new_process_goes_on_where_the_old_one_stopped(
    copy: Path, remembered: Path, open_ai: Open, trained: Any, shifted: dict[str, pd.DataFrame]
) -> None:
    old, new = open_ai(SETTINGS, remembered), open_ai(SETTINGS, copy)
    assert new.target_positions() == old.target_positions()
    assert any(new.target_positions().values())
    assert new.get_performance_report() == old.get_performance_report()
    assert new.get_performance_report()["num_predictions"] == 9
    more = {name: frame.tail(2) for name, frame in shifted.items()}
    first, second = (asyncio.run(ai.predict_all(more)) for ai in (old, new))
    assert first == second
    assert first["ETHUSDT"]["adaptation"] is not None
    assert new._session.tables["onchain"]["BTC"]["value"].tolist() == [5.0] * 3


def test_versions_follow_each_other_and_old_ones_go(copy: Path, open_ai: Open) -> None:
    ai = open_ai(SETTINGS, copy)
    written = [ai.save_state() for _ in range(KEPT_VERSIONS + 1)]
    assert state_versions(copy / "state") == written[-KEPT_VERSIONS:]
    assert not list((copy / "state").glob(".draft*"))


def test_saves_at_the_same_time_are_versions_each(copy: Path, open_ai: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, counted = [open_ai(SETTINGS, copy)._session for _ in range(4)], state.state_versions
    together, met = threading.Barrier(4), threading.local()

    def all_at_once(root: Path) -> list[Path]:
        found = counted(root)
        if not hasattr(met, "others"):
            met.others = together.wait(timeout=60)
        return found

    def save(session: Any) -> Path:
        return state.save_session_state(copy / "state", session)

    monkeypatch.setattr(state, "state_versions", all_at_once)
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(save, sessions))
    assert [path.name for path in sorted(written)] == ["000002", "000003", "000004", "000005"]
    assert len(counted(copy / "state")) == KEPT_VERSIONS
    assert not list((copy / "state").glob(".draft*"))


def test_the_version_before_a_damaged_one_is_named_and_loads(copy: Path, remembered: Path, open_ai: Open) -> None:
    written = open_ai(SETTINGS, copy).save_state()
    (written / "session.json").write_text("{")
    older = copy / "state" / "000001"
    with pytest.raises(BundleError, match=rf"json: sha256 .*; move {written} away to load the version before, {older}$"):
        open_ai(SETTINGS, copy)
    written.rename(copy / "damaged")
    assert open_ai(SETTINGS, copy).target_positions() == open_ai(SETTINGS, remembered).target_positions()


def test_no_version_before_the_first_is_named(copy: Path, open_ai: Open) -> None:
    (newest(copy) / "session.json").write_text("{")
    with pytest.raises(BundleError, match=r"sha256") as caught:
        open_ai(SETTINGS, copy)
    assert "move" not in str(caught.value)


def test_drafts_of_killed_processes_go_and_those_at_work_stay(copy: Path, open_ai: Open) -> None:
    old, young = (copy / "state" / f".draft-{name}" for name in ("old", "young"))
    for draft in (old, young):
        (draft / "tables").mkdir(parents=True)
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    open_ai(SETTINGS, copy).save_state()
    assert list((copy / "state").glob(".draft*")) == [young]


def test_a_failed_save_leaves_the_last_version(copy: Path, open_ai: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ai, before = open_ai(SETTINGS, copy), newest(copy)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        ai.save_state()
    assert newest(copy) == before
    monkeypatch.undo()
    assert open_ai(SETTINGS, copy).target_positions() == ai.target_positions()


@pytest.mark.parametrize("name", ["session.json", "candles.parquet", "tables/0.parquet"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_damaged_files_are_named(copy: Path, open_ai: Open, name: str, harm: str) -> None:
    path = newest(copy) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content if harm == "changed" else content[:10])
    with pytest.raises(BundleError, match=f"{name}: .*(sha256|missing)"):
        open_ai(SETTINGS, copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", r"state\.json: not JSON"),
        (lambda text: text.replace('"format": 1', '"format": 9'), r"state\.json: format must be 1, was 9"),
        (lambda text: json.dumps(json.loads(text) | {"files": {}}), r"state\.json: files must list session\.json"),
        (lambda text: json.dumps(json.loads(text) | {"outcomes": 3}), r"state\.json: outcomes must hold bytes"),
        (lambda text: text.replace('"bytes": ', '"bytes": 0.5, "was": '), r"state\.json: outcomes must hold bytes"),
    ],
)
def test_a_damaged_manifest_is_named(copy: Path, open_ai: Open, change: Callable[[str], str], message: str) -> None:
    path = newest(copy) / "state.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(BundleError, match=message):
        open_ai(SETTINGS, copy)


def test_a_damaged_bundle_is_named(copy: Path, open_ai: Open) -> None:
    path = copy / "bundle" / "members" / "0.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match=r"members/0\.safetensors: sha256"):
        open_ai(SETTINGS, copy)


def test_a_log_that_was_tampered_with_is_refused(copy: Path, open_ai: Open) -> None:
    path = copy / "outcomes-1h.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(BundleError, match=r"outcomes-1h\.jsonl: the first .* bytes must have sha256"):
        open_ai(SETTINGS, copy)
    path.write_text("".join([*lines[:2], "{}\n", *lines[2:]]))
    with pytest.raises(BundleError, match=r"outcomes-1h\.jsonl: line 3 is damaged"):
        open_ai(SETTINGS, copy)


def test_a_line_that_was_never_finished_is_dropped(copy: Path, open_ai: Open) -> None:
    path = copy / "outcomes-1h.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[0][:40])
    assert open_ai(SETTINGS, copy).get_performance_report()["num_predictions"] == 9
    assert path.read_text() == whole


def test_what_was_learned_with_another_model_is_left_out(
    copy: Path, open_ai: Open, trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    from cryptoml.models.bundle import save_bundle

    save_bundle(copy / "bundle", replace(trained.bundle, created_at="2025-01-01T00:00:00Z"))
    ai = open_ai(SETTINGS, copy)
    assert ai._session.adaptations == ()
    assert "1 adaptations of another model are left out" in caplog.text
