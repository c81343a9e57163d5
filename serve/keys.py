"""API keys: made once, shown once, kept as hashes. `python -m serve.keys create --file keys.json --name bot --role read`.

A key reads `cml_<id>_<secret>`. The secret has 256 random bits, so one SHA-256 of it is safe to keep and quick to check.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cryptoml.data.run_folder import publish_file
from cryptoml.errors import ConfigError

__all__ = ["ApiKey", "KeyRing", "Role", "create_key", "main", "read_keys", "revoke_key"]

_LOG = logging.getLogger(__name__)
_PATTERN = re.compile(r"cml_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_REREAD_SECONDS = 1.0
_NOBODY = "0" * 64


class Role(StrEnum):
    """What a key may do; each role includes the ones before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class ApiKey(BaseModel):
    """A key as it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(min_length=1, max_length=64, description="Whose key it is, for the audit log")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the secret")
    created_at: AwareDatetime


class KeyRing:
    """The keys of a file, read again when it changes, so that a revoked key is refused within a second.

    A file that is damaged or gone later changes nothing: the keys that were read last count until it is sound again.

    Attributes:
        sound: Whether the file could be read when it was last looked at.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the file.

        Raises:
            ConfigError: It is missing or damaged.
        """
        self._path = Path(path)
        self._keys = {key.id: key for key in read_keys(self._path)}
        self._stamp, self._looked = self._changed(), time.monotonic()
        self.sound = True

    def find(self, given: str) -> ApiKey | None:
        """Return the key that `given` is, None where it is not one; takes as long for a wrong secret as for the right one."""
        self._refresh()
        match = _PATTERN.fullmatch(given)
        key = self._keys.get(match[1]) if match else None
        expected = key.sha256 if key else _NOBODY
        agrees = hmac.compare_digest(_hashed(match[2] if match else given), expected)
        return key if agrees else None

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < _REREAD_SECONDS:
            return
        self._looked = time.monotonic()
        stamp = self._changed()
        if stamp == self._stamp and self.sound:
            return
        try:
            self._keys, self._stamp = {key.id: key for key in read_keys(self._path)}, stamp
        except ConfigError as error:
            if self.sound or stamp != self._stamp:
                _LOG.error("%s; the keys read before go on counting", error)
            self._stamp, self.sound = stamp, False
        else:
            self.sound = True

    def _changed(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def read_keys(path: Path) -> list[ApiKey]:
    """Return the keys of a file.

    Raises:
        ConfigError: It is missing or damaged; the message names the entry and the field.
    """
    try:
        entries = json.loads(path.read_bytes())["keys"]
        return [ApiKey.model_validate(entry) for entry in entries]
    except OSError as error:
        raise ConfigError(f"keys: {path} cannot be read: {error.strerror}; make it with `python -m serve.keys create`") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"keys: {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"keys: {path} must be JSON with a list `keys`: {error}") from None


def create_key(path: Path, name: str, role: Role) -> str:
    """Add a key to a file, which is made where absent, and return it: the only time that it is seen.

    Raises:
        ConfigError: The file is damaged, or the name is empty or too long.
    """
    kept = read_keys(path) if path.exists() else []
    secret, number = secrets.token_urlsafe(32), secrets.token_hex(4)
    try:
        key = ApiKey(id=number, name=name, role=role, sha256=_hashed(secret), created_at=datetime.now(UTC))
    except ValidationError as error:
        raise ConfigError(f"name: {error.errors()[0]['msg']}, was {name!r}") from None
    _write(path, [*kept, key])
    return f"cml_{number}_{secret}"


def revoke_key(path: Path, number: str) -> None:
    """Drop the key with this id from a file.

    Raises:
        ConfigError: There is no such key.
    """
    kept = read_keys(path)
    if number not in {key.id for key in kept}:
        raise ConfigError(f"id must be one of {[key.id for key in kept]}, was {number!r}")
    _write(path, [key for key in kept if key.id != number])


def _write(path: Path, keys: list[ApiKey]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with publish_file(path) as draft:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, indent=1))
    os.chmod(path, 0o600)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class CreateArgs(BaseModel):
    """Make a key and print it, once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(Path("keys.json"), description="File of the keys' hashes")
    name: str = Field(description="Whose key it is")
    role: Role = Field(Role.READ, description="What it may do")


class RevokeArgs(BaseModel):
    """Take a key back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(Path("keys.json"), description="File of the keys' hashes")
    id: str = Field(description="The eight digits behind `cml_`")


class ListArgs(BaseModel):
    """Show whose keys there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(Path("keys.json"), description="File of the keys' hashes")


Command = (
    Annotated[CreateArgs, tyro.conf.subcommand("create")]
    | Annotated[RevokeArgs, tyro.conf.subcommand("revoke")]
    | Annotated[ListArgs, tyro.conf.subcommand("list")]
)


def main(command: CreateArgs | RevokeArgs | ListArgs) -> str:
    """Run one command and return what to print.

    Raises:
        ConfigError: The file or an argument cannot be used.
    """
    if isinstance(command, CreateArgs):
        return create_key(command.file, command.name, command.role)
    if isinstance(command, RevokeArgs):
        revoke_key(command.file, command.id)
        return f"revoked {command.id}"
    return "\n".join(f"{key.id} {key.role:5} {key.created_at:%Y-%m-%d} {key.name}" for key in read_keys(command.file))


if __name__ == "__main__":
    try:
        sys.stdout.write(main(tyro.cli(Command, config=(tyro.conf.EnumChoicesFromValues,))) + "\n")
    except ConfigError as error:
        sys.exit(str(error))
