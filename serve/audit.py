"""Who changed what: one file per action that needed more than the right to read, never changed again."""

import json
import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from cryptoml.data.storage import Storage

__all__ = ["AuditLog"]

_LOG = logging.getLogger("cryptoml.audit")
FOLDER = "audit"


class AuditLog:
    """Actions in the state folder, by time: `audit/<time>-<id>.json`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def note(self, who: dict[str, Any], action: str, outcome: str, **details: Any) -> None:
        """Write one action down.

        Args:
            who: Id, name and role of the key, and the caller's address.
            action: Such as `promote`.
            outcome: `done`, or why it was refused.
            details: What it was about.

        Raises:
            DataError: The state folder cannot be written.
        """
        at = datetime.now(UTC)
        line = json.dumps({"at": at.isoformat(), **who, "action": action, "outcome": outcome, **details})
        _LOG.info("%s", line)
        self._storage.publish(f"{FOLDER}/{at:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json", line.encode())

    def entries(self) -> list[dict[str, Any]]:
        """Return all actions, oldest first."""
        return [json.loads(self._storage.read(name)) for name in self._storage.list_files(FOLDER)]
