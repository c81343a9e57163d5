"""Adaptations that survive their replica: a small file each, listed by whoever needs them.

adaptations/<time>-<id>.json    what `Adaptation.to_json` gives, about 1 KB
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptoml.data.storage import folder_below, open_storage
from cryptoml.errors import BundleError, DataError
from cryptoml.live.adaptation import Adaptation
from serve.problems import NotFoundError

__all__ = ["AdaptationStore", "StoredAdaptation"]

_REMOTE_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class StoredAdaptation:
    """An adaptation and when it was made."""

    adaptation: Adaptation
    created_at: datetime


class AdaptationStore:
    """The adaptations of a service.

    Args:
        state: The service's state folder.
    """

    def __init__(self, state: str | Path) -> None:
        self._storage = open_storage(folder_below(state, "adaptations"))
        self._known: dict[str, StoredAdaptation] = {}
        self._looked = float("-inf")

    def add(self, adaptation: Adaptation) -> StoredAdaptation:
        """Keep an adaptation; one that is kept already stays as it is.

        Raises:
            DataError: The folder cannot be written.
        """
        for one in self.all(patient=False):
            if one.adaptation.id == adaptation.id:
                return one
        name = f"{time.time_ns() // 1000:020d}-{adaptation.id}.json"
        self._storage.publish(name, adaptation.to_json().encode())
        return self.get(adaptation.id)

    def all(self, *, patient: bool = True) -> list[StoredAdaptation]:
        """Return all adaptations, oldest first; on S3 what was there up to a second ago where `patient`."""
        now = time.monotonic()
        if not patient or self._storage.is_local or now - self._looked >= _REMOTE_PATIENCE_SECONDS:
            self._looked = now
            self._known = {name: found for name in self._storage.list_files() if (found := self._found(name)) is not None}
        return list(self._known.values())

    def get(self, number: str) -> StoredAdaptation:
        """Return one adaptation.

        Raises:
            NotFoundError: There is none with this id.
        """
        for patient in (True, False):
            for one in self.all(patient=patient):
                if one.adaptation.id == number:
                    return one
        raise NotFoundError(f"there is no adaptation {number[:64]!r}", "adaptation")

    def remove(self, number: str) -> None:
        """Forget an adaptation.

        Raises:
            NotFoundError: There is none with this id.
        """
        self.get(number)
        for name in [name for name in self._known if name.endswith(f"-{number}.json")]:
            self._storage.remove(name)
        self.all(patient=False)

    def active(self, symbol: str, model: str) -> Adaptation | None:
        """Return the newest accepted adaptation of a symbol that was learned with this model."""
        for one in reversed(self.all()):
            found = one.adaptation
            if found.accepted and found.model == model and symbol in found.symbols:
                return found
        return None

    def _found(self, name: str) -> StoredAdaptation | None:
        if name in self._known:
            return self._known[name]
        try:
            adaptation = Adaptation.from_json(self._storage.read(name))
            created = datetime.fromtimestamp(int(name.split("-")[0]) / 1e6, UTC)
        except (BundleError, DataError, ValueError):
            return None  # removed meanwhile, or not one of ours
        return StoredAdaptation(adaptation, created)
