"""Keys: what is kept cannot be used, and only what was given out opens."""

import subprocess
import sys
from pathlib import Path

import pytest

from cryptoml.errors import ConfigError
from serve.keys import KeyRing, Role, create_key, read_keys, revoke_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_only_the_hash_is_kept(path: Path) -> None:
    key = create_key(path, "bot", Role.WRITE)
    kept = path.read_text()
    assert key.rpartition("_")[2] not in kept
    assert path.stat().st_mode & 0o077 == 0
    found = KeyRing(path).find(key)
    assert found is not None
    assert (found.name, found.role) == ("bot", Role.WRITE)


def test_what_was_not_given_out_is_refused(path: Path) -> None:
    key = create_key(path, "bot", Role.READ)
    ring = KeyRing(path)
    last = "A" if key[-1] != "A" else "B"
    for wrong in ("", "cml_", key[:-1], key[:-1] + last, key.replace("cml_", "cml_0"), "é" * 60, f" {key}", key + "\n"):
        assert ring.find(wrong) is None


def test_a_revoked_key_is_refused_and_a_new_one_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.keys._REREAD_SECONDS", 0.0)
    first = create_key(path, "first", Role.READ)
    ring = KeyRing(path)
    second = create_key(path, "second", Role.ADMIN)
    revoke_key(path, first.split("_")[1])
    assert ring.find(first) is None
    assert ring.find(second) is not None


@pytest.mark.parametrize("content", ["", '{"keys": [{}]}', None])
def test_a_file_damaged_meanwhile_changes_no_key(
    path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve.keys._REREAD_SECONDS", 0.0)
    key = create_key(path, "bot", Role.READ)
    ring, sound = KeyRing(path), path.read_text()
    path.unlink() if content is None else path.write_text(content)
    for _ in range(3):
        assert ring.find(key) is not None
    assert not ring.sound
    assert len(caplog.records) == 1
    path.write_text(sound)
    revoke_key(path, key.split("_")[1])
    assert ring.find(key) is None
    assert ring.sound


def test_roles_include_the_lower_ones() -> None:
    assert Role.ADMIN.includes(Role.READ)
    assert Role.WRITE.includes(Role.WRITE)
    assert not Role.READ.includes(Role.WRITE)


@pytest.mark.parametrize("content", ["", "[]", '{"keys": [{}]}', '{"keys": [{"id": "zz", "name": "a", "role": "read"}]}'])
def test_damaged_file_is_named(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(path)


def test_command_line(path: Path) -> None:
    run = [sys.executable, "-m", "serve.keys"]
    made = subprocess.run(
        [*run, "create", "--file", str(path), "--name", "desk", "--role", "admin"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    found = KeyRing(path).find(made.stdout.strip())
    assert found is not None
    assert found.role is Role.ADMIN
