"""Which model is served: one bundle, or the champion of a registry, which may change while requests are answered."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from cryptoml.errors import BundleError, CryptomlError
from cryptoml.models.bundle import Bundle, load_bundle
from cryptoml.models.registry import Registry
from serve.problems import ConflictError, ModelUnavailableError, NotFoundError

__all__ = ["LoadedModels", "ModelSource", "ModelVersion", "newest_bundle", "watch"]

_LOG = logging.getLogger(__name__)
_KEPT = 2  # the present version, and the one that requests in work may still be asking for
Made = TypeVar("Made")


@dataclass(frozen=True)
class ModelVersion:
    """One version that could be served.

    Attributes:
        version: Its name.
        serving: Whether it is the one that answers.
        added_at: ISO 8601, UTC; empty where not recorded.
        reason: In the words of who added it.
    """

    version: str
    serving: bool
    added_at: str = ""
    reason: str = ""


def newest_bundle(runs: Path) -> Path:
    """Return the bundle below `runs` that was published last.

    Raises:
        BundleError: There is none.
    """
    bundles = [path for path in runs.glob("**/bundle") if path.is_dir()]
    if not bundles:
        raise BundleError(f"no bundle below {runs}; make one with `make run`, or name one with --bundle")
    return max(bundles, key=lambda path: path.stat().st_mtime)


class ModelSource:
    """Where versions come from.

    Args:
        bundle: Folder of the one bundle; None for a registry.
        registry: Address of a registry; None for a bundle.
    """

    def __init__(self, bundle: str | None, registry: str | None) -> None:
        self._bundle = bundle
        self._registry = None if registry is None else Registry(registry)

    @property
    def changes(self) -> bool:
        """Whether another version may be promoted."""
        return self._registry is not None

    def champion(self) -> str:
        """Return the version to serve.

        Raises:
            BundleError: A registry without champion.
        """
        if self._registry is None:
            return ""
        version = self._registry.champion()
        if version is None:
            raise BundleError(f"registry {self._registry.address} has no champion; promote a version first")
        return version

    def load(self, version: str) -> Bundle:
        """Return a version's bundle.

        Raises:
            BundleError: It is absent or damaged.
        """
        if self._registry is not None:
            return self._registry.load(version)
        assert self._bundle is not None
        return load_bundle(self._bundle)

    def versions(self, serving: str) -> list[ModelVersion]:
        """Return all versions, oldest first, telling which one is `serving`."""
        if self._registry is None:
            return [ModelVersion(serving, serving=True)]
        added = {event.version: event for event in self._registry.history() if event.kind == "added"}
        return [
            ModelVersion(name, name == serving, *((added[name].at, added[name].reason) if name in added else ()))
            for name in self._registry.versions()
        ]

    def require(self, version: str) -> None:
        """Refuse a version that is not there.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: There is only one bundle.
        """
        if version not in self._changeable().versions():
            raise NotFoundError(f"there is no model version {version[:128]!r}", "version")

    def previous(self) -> str:
        """Return the champion before the present one.

        Raises:
            ConflictError: There was none.
        """
        version = self._changeable().previous()
        if version is None:
            raise ConflictError("there is no version before the present one to go back to", "version")
        return version

    def promote(self, version: str, reason: str) -> None:
        """Make a version the champion.

        Raises:
            ConflictError: It is damaged, or there is only one bundle; the champion stays.
        """
        self._change(lambda registry: registry.promote(version, reason=reason))

    def rollback(self, reason: str) -> None:
        """Make the champion before this one the champion again.

        Raises:
            ConflictError: There was none, or it is damaged.
        """
        self._change(lambda registry: registry.rollback(reason=reason))

    def _change(self, change: Callable[[Registry], object]) -> None:
        try:
            change(self._changeable())
        except BundleError as error:
            _LOG.warning("a change of the champion was refused: %s", error)
            raise ConflictError(f"that version cannot be served: {_without_paths(error)}", "version") from None

    def _changeable(self) -> Registry:
        if self._registry is None:
            raise ConflictError("this service was started on one bundle; start it on a registry to change versions")
        return self._registry


class LoadedModels(Generic[Made]):
    """What one replica made of the versions it was asked for; a version is whole before anybody sees it.

    Args:
        source: Where versions come from.
        make: What to make of a version's name and bundle.

    Raises:
        BundleError: The champion cannot be loaded.
    """

    def __init__(self, source: ModelSource, make: Callable[[str, Bundle], Made]) -> None:
        self.source = source
        self._make = make
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._lock = threading.Lock()
        self._current = self._ready(source.champion())

    @property
    def current(self) -> Made:
        """What was made of the version that serves."""
        return self._current

    def get(self, version: str) -> Made:
        """Return what was made of a version, loading it where needed.

        Raises:
            ModelUnavailableError: It cannot be loaded (any more).
        """
        try:
            return self._ready(version)
        except CryptomlError as error:
            _LOG.exception("version %s cannot be loaded", version)
            raise ModelUnavailableError("the model version asked for cannot be loaded; send the request again") from error

    def prepare(self, version: str) -> None:
        """Make ready to serve a version that does not serve yet.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It cannot be served, or there is only one bundle.
        """
        self.source.require(version)
        try:
            self._ready(version)
        except (CryptomlError, ValueError) as error:
            _LOG.warning("version %s was refused: %s", version, error)
            raise ConflictError(f"version {version} cannot be served: {_without_paths(error)}", "version") from None

    def follow(self) -> bool:
        """Serve the champion from now on, if it is another one and sound; tell whether that was so."""
        version = self.source.champion()
        made = self._ready(version)
        changed, self._current = made is not self._current, made
        return changed

    def _ready(self, version: str) -> Made:
        with self._lock:
            if version not in self._made:
                self._made[version] = self._make(version, self.source.load(version))
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(version)
            return self._made[version]


def watch(models: LoadedModels, seconds: float, changed: Callable[[], object] = lambda: None) -> None:
    """Follow the champion from a thread of its own, as long as the process lives; nothing where it cannot change."""

    def look() -> None:
        while True:
            time.sleep(seconds)
            try:
                if models.follow():
                    changed()
            except CryptomlError:
                _LOG.exception("the champion cannot be loaded; the version before it goes on serving")

    if models.source.changes:
        threading.Thread(target=look, name="model-watch", daemon=True).start()


def _without_paths(error: Exception) -> str:
    """Return the message without words that are paths of this machine."""
    return " ".join(word for word in str(error).split() if not word.strip("'\"(),:;").startswith(("/", "s3://")))
