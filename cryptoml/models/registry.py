"""A registry of bundles, on a local folder or on S3: versions that never change, and one that is the champion.

versions/<version>/bundle.json    a bundle; its manifest is uploaded last and makes the version visible
champion.json                     the version that serves, and the one before it; replaced in one atomic step
events/<time>-<kind>.json         what was added, promoted and rolled back, by time; it tells the one before, too
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cryptoml.data.storage import open_storage
from cryptoml.errors import BundleError, ConfigError
from cryptoml.models.bundle import Bundle, load_bundle, save_bundle

__all__ = ["Event", "Registry"]

_log = logging.getLogger(__name__)

MANIFEST = "bundle.json"
CHAMPION = "champion.json"
VERSION_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"


@dataclass(frozen=True)
class Event:
    """One line of a registry's history.

    Attributes:
        at: ISO 8601, UTC.
        kind: `added`, `promoted` or `rolled_back`.
        version: The version that was added, or is the champion from then on.
        reason: In the words of who did it.
        origin: Digest of all that the version came from, of a challenger whose duel this event settled.
    """

    at: str
    kind: str
    version: str
    reason: str
    origin: str = ""


@dataclass(frozen=True)
class _Champion:
    """Content of champion.json."""

    version: str
    previous: str | None = None


_EVENT, _CHAMPION = TypeAdapter(Event), TypeAdapter(_Champion)


class Registry:
    """Versions of a model and which one serves.

    Args:
        root: Local folder or `s3://` address; nothing is written before the first `add`.
    """

    def __init__(self, root: str | Path) -> None:
        self._storage = open_storage(root)

    @property
    def address(self) -> str:
        """The registry as a user would write it, without credentials."""
        return self._storage.address

    def add(self, bundle: Bundle, *, reason: str = "", origin: str = "") -> str:
        """Store a bundle as a new version and return its name; the champion stays.

        Args:
            bundle: To be stored.
            reason: For the history.
            origin: As in `Event`, where the version has lost its duel.

        Raises:
            BundleError: The parts of the bundle contradict each other.
            DataError: The place cannot be written.
        """
        version = self._free_version(bundle)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "bundle"
            save_bundle(folder, bundle)
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            for name in [*(name for name in files if name != MANIFEST), MANIFEST]:
                self._storage.publish(f"versions/{version}/{name}", (folder / name).read_bytes())
        self._note("added", version, reason, origin)
        return version

    def versions(self) -> list[str]:
        """Return the names of all versions, oldest first."""
        files = self._storage.list_files("versions", recursive=True)
        names = {path.split("/")[1] for path in files if path.endswith(f"/{MANIFEST}")}
        added = {event.version: event.at for event in self.history() if event.kind == "added"}
        return sorted(names, key=lambda name: (added.get(name, ""), name))

    def load(self, version: str | None = None) -> Bundle:
        """Return a version's bundle, the champion's by default, checked against its checksums.

        Raises:
            BundleError: There is no such version, or it is damaged; the message names version, file and field.
        """
        version = self.champion() if version is None else version
        if version is None:
            raise BundleError(f"registry {self.address} has no champion; promote a version first")
        try:
            return load_bundle(self.fetch(version))
        except BundleError as error:
            raise BundleError(f"version {version}: {error}") from error

    def content(self, version: str) -> str:
        """Return the SHA-256 (hex) of a version's manifest, and so of all its files: the same for a bundle that was added twice.

        Raises:
            BundleError: There is no such version.
        """
        return hashlib.sha256(self._storage.read(f"versions/{self._known(version)}/{MANIFEST}")).hexdigest()

    def fetch(self, version: str) -> Path:
        """Return a local folder that holds the version's bundle; that of a remote registry is copied once per machine.

        Raises:
            BundleError: There is no such version.
        """
        place = f"versions/{self._known(version)}"
        if self._storage.is_local:
            return Path(self._storage.path(place))
        name = hashlib.sha256(f"{self.address}/{place}".encode()).hexdigest()[:16]
        copy = Path(tempfile.gettempdir()) / f"cryptoml-{os.getuid()}" / "bundles" / name
        if not (copy / MANIFEST).is_file():
            self._copy(place, copy)
        return copy

    def champion(self) -> str | None:
        """Return the version that serves, or None before the first promotion."""
        found = self._champion()
        return None if found is None else found.version

    def previous(self) -> str | None:
        """Return the champion before the present one, which `rollback` goes back to; None where there was none."""
        found = self._champion()
        return None if found is None else found.previous or self._before(found.version)

    def settled(self, origin: str) -> Event | None:
        """Return the event that settled the duel of a challenger of this origin: `added` where it lost, else `promoted`."""
        return next((event for event in self.history() if origin and event.origin == origin), None)

    def promote(self, version: str, *, reason: str = "", origin: str = "") -> None:
        """Make a version the champion; a damaged one is refused and the old champion stays.

        Args:
            version: Its name.
            reason: For the history.
            origin: As in `Event`, where the version has won its duel.

        Raises:
            BundleError: There is no such version, or it is damaged.
        """
        self.load(version)
        self._crown(version, self.champion(), "promoted", reason, origin)

    def rollback(self, *, reason: str = "") -> str:
        """Make the champion before this one the champion again and return its name.

        Raises:
            BundleError: There was none, or its bundle is damaged by now.
        """
        previous = self.previous()
        if previous is None:
            raise BundleError(f"registry {self.address} has no champion before the present one to roll back to")
        self.load(previous)
        self._crown(previous, self._before(previous), "rolled_back", reason)
        return previous

    def history(self) -> list[Event]:
        """Return what happened, oldest first; a damaged line is left out with a warning, as the champion does not hang on it."""
        events = []
        for name in self._storage.list_files("events"):
            try:
                events.append(_EVENT.validate_json(self._storage.read(name)))
            except ValidationError as error:
                _log.warning("registry %s: %s is damaged and left out: %s", self.address, name, _first_fault(error))
        return events

    def _champion(self) -> "_Champion | None":
        if not self._storage.exists(CHAMPION):
            return None
        try:
            return _CHAMPION.validate_json(self._storage.read(CHAMPION))
        except ValidationError as error:
            served = next((event.version for event in reversed(self.history()) if event.kind != "added"), "...")
            raise BundleError(
                f"registry {self.address}: {CHAMPION} is damaged ({_first_fault(error)}); "
                f'replace it by {{"version": "{served}"}}, which served last'
            ) from None

    def _crown(self, version: str, previous: str | None, kind: str, reason: str, origin: str = "") -> None:
        if previous == version:
            previous = self.previous()
        self._storage.publish(CHAMPION, json.dumps({"version": version, "previous": previous}).encode())
        self._note(kind, version, reason, origin)

    def _before(self, version: str) -> str | None:
        """Return the champion that `version` followed when it was last promoted."""
        serving, before = None, dict[str, str | None]()
        for event in self.history():
            if event.kind == "promoted" and event.version != serving:
                before[event.version] = serving
            if event.kind != "added":
                serving = event.version
        return before.get(version)

    def _note(self, kind: str, version: str, reason: str, origin: str = "") -> None:
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        content = json.dumps(asdict(Event(at, kind, version, reason, origin))).encode()
        self._storage.publish(f"events/{re.sub('[^0-9]', '', at[:26])}-{kind}.json", content)

    def _known(self, version: str) -> str:
        if not re.fullmatch(VERSION_PATTERN, version):
            raise BundleError(f"version must be letters, digits, '.', '_' or '-', was {version!r}")
        if not self._storage.exists(f"versions/{version}/{MANIFEST}"):
            raise BundleError(f"registry {self.address} has no version {version}")
        return version

    def _free_version(self, bundle: Bundle) -> str:
        try:
            made = datetime.fromisoformat(bundle.created_at)
        except ValueError as error:
            raise ConfigError(f"created_at of the bundle must be an ISO 8601 time, was {bundle.created_at!r}") from error
        name = f"{made:%Y%m%dT%H%M%S}-{bundle.data_fingerprint[:8]}"
        taken, version, number = set(self.versions()), name, 2
        while version in taken:
            version, number = f"{name}-{number}", number + 1
        return version

    def _copy(self, place: str, copy: Path) -> None:
        """Copy a version file by file, its manifest last."""
        names = [path.removeprefix(f"{place}/") for path in self._storage.list_files(place, recursive=True)]
        for name in [*(name for name in names if name != MANIFEST), MANIFEST]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            partial = copy / f"{name}.part"
            partial.write_bytes(self._storage.read(f"{place}/{name}"))
            os.replace(partial, copy / name)


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
