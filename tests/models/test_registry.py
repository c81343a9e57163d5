"""A registry keeps versions, crowns only whole ones, and goes back with one call; locally and on S3."""

from dataclasses import replace
from pathlib import Path

import pytest

from cryptoml.errors import BundleError, ConfigError
from cryptoml.models.registry import Registry
from tests.models.test_bundle import make_bundle


@pytest.fixture(params=["local", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    root = tmp_path / "registry" if request.param == "local" else request.getfixturevalue("s3_address").format("registry")
    return Registry(root)


def damage(registry: Registry, version: str) -> None:
    registry._storage.publish(f"versions/{version}/scaler.safetensors", b"damaged")


def test_an_empty_registry_has_neither_versions_nor_a_champion(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.champion() is None
    assert registry.history() == []
    with pytest.raises(BundleError, match="has no champion"):
        registry.load()
    with pytest.raises(BundleError, match="to roll back to"):
        registry.rollback()


def test_versions_are_added_promoted_and_rolled_back(registry: Registry) -> None:
    first, second, third = (registry.add(make_bundle(seed), reason=f"seed {seed}") for seed in range(3))
    assert registry.versions() == [first, second, third]
    assert first.startswith("20260101T000000-abababab")
    assert registry.champion() is None
    for version in (first, second, third):
        registry.promote(version, reason="better")
    assert registry.champion() == third
    assert registry.rollback(reason="worse live") == second
    assert registry.rollback() == first
    with pytest.raises(BundleError, match="to roll back to"):
        registry.rollback()
    registry.promote(third)
    assert registry.rollback() == first
    kinds = [event.kind for event in registry.history()]
    assert kinds == ["added"] * 3 + ["promoted"] * 3 + ["rolled_back"] * 2 + ["promoted", "rolled_back"]
    assert registry.history()[6].reason == "worse live"


def test_a_bundle_comes_back_whole(registry: Registry) -> None:
    version = registry.add(make_bundle(seed=4))
    loaded = registry.load(version)
    expected = make_bundle(seed=4).ensemble.members[0].state_dict()
    assert all(value.equal(expected[name]) for name, value in loaded.ensemble.members[0].state_dict().items())


def test_a_damaged_version_is_refused_and_the_champion_stays(registry: Registry) -> None:
    first, second = registry.add(make_bundle(0)), registry.add(make_bundle(1))
    registry.promote(first)
    damage(registry, second)
    with pytest.raises(BundleError, match=rf"version {second}: scaler\.safetensors: sha256"):
        registry.promote(second)
    assert registry.champion() == first


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"version": 3}', b"\xff"])
def test_a_damaged_champion_file_is_told_with_its_remedy(registry: Registry, content: bytes) -> None:
    first, second = registry.add(make_bundle(0)), registry.add(make_bundle(1))
    registry.promote(first)
    registry.promote(second)
    registry._storage.publish("champion.json", content)
    with pytest.raises(BundleError, match=rf'champion.json is damaged .* replace it by {{"version": "{second}"}}'):
        registry.load()
    registry._storage.publish("champion.json", f'{{"version": "{second}"}}'.encode())
    assert registry.champion() == second


def test_a_champion_file_that_was_mended_by_hand_can_still_be_rolled_back(registry: Registry) -> None:
    first, second, third = (registry.add(make_bundle(seed)) for seed in range(3))
    for version in (first, second):
        registry.promote(version)
    registry.rollback()
    registry.promote(third)
    registry._storage.publish("champion.json", f'{{"version": "{third}"}}'.encode())
    assert registry.previous() == first
    assert registry.rollback() == first
    assert registry.previous() is None


def test_a_settled_duel_is_found_by_its_origin(registry: Registry) -> None:
    lost, won = registry.add(make_bundle(0), origin="a"), registry.add(make_bundle(1))
    registry.promote(won, origin="b")
    events = [registry.settled(origin) for origin in ("a", "b", "c", "")]
    assert registry.content(registry.add(make_bundle(0))) == registry.content(lost) != registry.content(won)
    assert [event and (event.kind, event.version) for event in events] == [("added", lost), ("promoted", won), None, None]


def test_a_damaged_event_is_left_out_of_the_history(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    first = registry.add(make_bundle(0))
    registry.promote(first)
    registry._storage.publish("events/00000000000000000000-promoted.json", b'{"at": 1')
    assert [event.kind for event in registry.history()] == ["added", "promoted"]
    assert "is damaged and left out" in caplog.text
    assert registry.versions() == [first]


@pytest.mark.parametrize("version", ["absent", "../../etc", "", "a/b"])
def test_a_version_that_is_not_there_is_named(registry: Registry, version: str) -> None:
    with pytest.raises(BundleError, match="version"):
        registry.promote(version)


def test_an_upload_that_broke_off_is_no_version(registry: Registry) -> None:
    registry._storage.publish("versions/half/config.json", b"{}")
    assert registry.versions() == []
    with pytest.raises(BundleError, match="no version half"):
        registry.load("half")


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="created_at"):
        Registry(tmp_path).add(replace(make_bundle(), created_at="yesterday"))
