"""Curves of members: a TensorBoard run each, and one value per epoch however often a process began anew."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cryptoml.training.member_curves import MemberCurves


def curve(folder: Path, name: str = "val_loss") -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_each_member_has_its_own(tmp_path: Path) -> None:
    with MemberCurves(tmp_path) as curves:
        for epoch in (1, 2):
            curves.add("tft", epoch, {"val_loss": epoch / 2, "accuracy": 0.5})
            curves.add("tcn", epoch, {"val_loss": epoch / 4})
    assert curve(tmp_path / "tft") == [(1, 0.5), (2, 1.0)]
    assert curve(tmp_path / "tcn") == [(1, 0.25), (2, 0.5)]
    assert curve(tmp_path / "tft", "accuracy") == [(1, 0.5), (2, 0.5)]


def test_a_process_that_goes_on_continues_and_one_that_begins_anew_replaces(tmp_path: Path) -> None:
    for first, last, value in ((1, 3, 1.0), (3, 4, 2.0)):
        with MemberCurves(tmp_path) as curves:
            for epoch in range(first, last + 1):
                curves.add("tft", epoch, {"val_loss": value})
    assert curve(tmp_path / "tft") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    with MemberCurves(tmp_path) as curves:
        curves.add("tft", 1, {"val_loss": 3.0})
    assert curve(tmp_path / "tft") == [(1, 3.0)]


def test_are_readable_while_the_fit_goes_on(tmp_path: Path) -> None:
    with MemberCurves(tmp_path) as curves:
        curves.add("tft", 1, {"val_loss": 1.0})
        assert curve(tmp_path / "tft") == [(1, 1.0)]
