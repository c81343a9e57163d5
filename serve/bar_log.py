"""Kept bars that survive their process: a folder of small Arrow files, local or on S3, now and then joined into one.

<time>-<id>.arrow       bars that were accepted together; published in one atomic and durable step before they are acknowledged
<time>-<id>.all.arrow   every bar that was kept by then; the files before it may go

What is kept is the union of all files in the order of their names: a bar that two files hold is that of the first. Any number
of replicas may read and write. On one host they wait for each other; on S3 a symbol should have one writer at a time.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cryptoml.data.panel import CANDLE_FIELDS
from cryptoml.data.storage import folder_below, open_storage
from cryptoml.errors import DataError
from serve.kept_bars import BarArrays, BarChange, KeptBars
from serve.problems import ConflictError, ServiceError

__all__ = ["BarLog"]

_ALL = ".all.arrow"
_DROPPED = b"dropped"
_MOST_FILES = 256
_ATTEMPTS = 5
_REMOTE_PATIENCE_SECONDS = 1.0


class BarLog:
    """The files behind `KeptBars`; calls block, and one thread at a time may use it.

    Args:
        state: The service's state folder.
        kept: What is in memory; filled from the files at once.

    Raises:
        DataError: The folder cannot be read, or a file is damaged.
    """

    def __init__(self, state: str | Path, kept: KeptBars) -> None:
        self._storage = open_storage(folder_below(state, f"bars/{kept.timeframe}"))
        self._kept = kept
        self._seen: set[str] = set()
        self._looked = float("-inf")
        self.refresh(patient=False)

    def refresh(self, *, patient: bool = True) -> None:
        """Take over what other replicas wrote; on S3 at most once a second where `patient`."""
        now = time.monotonic()
        if patient and not self._storage.is_local and now - self._looked < _REMOTE_PATIENCE_SECONDS:
            return
        self._looked = now
        for attempt in range(_ATTEMPTS):
            try:
                return self._read_unseen()
            except DataError:  # another replica joined files in between
                if attempt == _ATTEMPTS - 1:
                    raise

    def commit(self, given: Sequence[tuple[str, BarArrays]]) -> list[BarChange | ServiceError]:
        """Check several callers' bars in order, and keep what is sound; it is durable when this returns.

        Returns:
            For each what it changed, or why it was refused as a whole.

        Raises:
            DataError: The folder cannot be written; then nothing is kept.
        """
        with self._storage.lock(""):
            self.refresh(patient=False)
            found, taken = self._checked(given)
            if taken:
                self._publish(taken)
            self._join_files()
        return found

    def drop(self, symbol: str) -> None:
        """Forget a symbol for good.

        Raises:
            DataError: The folder cannot be written.
        """
        with self._storage.lock(""):
            self.refresh(patient=False)
            name = self._name()
            self._storage.publish(name, _to_bytes({}, dropped=[symbol]))
            self._seen.add(name)
            self._kept.drop(symbol)

    def _checked(self, given: Sequence[tuple[str, BarArrays]]) -> tuple[list[BarChange | ServiceError], dict[str, BarArrays]]:
        """Check against what is kept and what earlier callers of the same commit bring."""
        trial = KeptBars(self._kept.timeframe, self._kept.capacity)
        found: list[BarChange | ServiceError] = []
        taken: dict[str, list[BarArrays]] = {}
        for symbol, bars in given:
            if not len(trial.bars(symbol)):
                trial.merge(symbol, self._kept.bars(symbol))
            try:
                change = trial.check(symbol, bars)
            except ConflictError as error:
                found.append(error)
                continue
            found.append(change)
            if len(change.new):
                trial.merge(symbol, change.new)
                taken.setdefault(symbol, []).append(change.new)
        return found, {symbol: _joined(parts) for symbol, parts in taken.items()}

    def _publish(self, taken: Mapping[str, BarArrays]) -> None:
        name = self._name()
        self._storage.publish(name, _to_bytes(taken))
        self._seen.add(name)
        for symbol, bars in taken.items():
            self._kept.merge(symbol, bars)

    def _read_unseen(self) -> None:
        names = self._storage.list_files()
        unseen = [name for name in names if name not in self._seen]
        if not unseen:
            return
        whole = [name for name in unseen if name.endswith(_ALL)]
        if not self._seen and whole:
            unseen = [name for name in unseen if name >= whole[-1]]
        for name in unseen:
            self._apply(name)
        self._seen = set(names)

    def _apply(self, name: str) -> None:
        dropped, bars = _from_bytes(name, self._storage.read(name))
        for symbol in dropped:
            self._kept.drop(symbol)
        for symbol, part in bars.items():
            self._kept.merge(symbol, part)

    def _join_files(self) -> None:
        """Write what is kept as one file and delete those that it replaces, once they are many."""
        names = self._storage.list_files()
        if len(names) <= _MOST_FILES:
            return
        replaced = [name for name in names if name in self._seen]
        name = self._name(_ALL)
        self._storage.publish(name, _to_bytes({symbol: self._kept.bars(symbol) for symbol in self._kept.symbols}))
        self._seen.add(name)
        for old in replaced:
            self._storage.remove(old)
        self._seen -= set(replaced)

    def _name(self, ending: str = ".arrow") -> str:
        return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{ending}"


def _joined(parts: Sequence[BarArrays]) -> BarArrays:
    """Return all bars in time order; a later part may fill a gap of an earlier one."""
    stamps, values = np.concatenate([part.stamps for part in parts]), np.concatenate([part.values for part in parts])
    order = np.argsort(stamps)
    return BarArrays(stamps[order], values[order])


def _to_bytes(bars: Mapping[str, BarArrays], dropped: Sequence[str] = ()) -> pa.Buffer:
    lengths = [len(part) for part in bars.values()]
    values = np.concatenate([part.values for part in bars.values()]) if bars else np.empty((0, len(CANDLE_FIELDS)))
    stamps = np.concatenate([part.stamps for part in bars.values()]) if bars else np.empty(0, np.int64)
    columns = {
        "symbol": pa.array(np.repeat(np.array(list(bars), dtype=object), lengths), pa.string()).dictionary_encode(),
        "timestamp": pa.array(stamps),
        **{name: pa.array(np.ascontiguousarray(values[:, place])) for place, name in enumerate(CANDLE_FIELDS)},
    }
    table = pa.table(columns).replace_schema_metadata({_DROPPED: json.dumps(list(dropped)).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _from_bytes(name: str, content: bytes) -> tuple[list[str], dict[str, BarArrays]]:
    try:
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    except pa.ArrowInvalid as error:
        raise DataError(f"kept bars: {name} is damaged: {error}") from None
    symbols = table["symbol"].to_numpy(zero_copy_only=False)
    stamps = table["timestamp"].to_numpy()
    values = np.stack([table[field].to_numpy() for field in CANDLE_FIELDS], axis=1)
    cuts = np.flatnonzero(np.append(True, symbols[1:] != symbols[:-1])) if len(symbols) else np.empty(0, np.int64)
    parts = {
        str(symbols[start]): BarArrays(stamps[start:stop].copy(), values[start:stop].copy())
        for start, stop in zip(cuts, [*cuts[1:], len(symbols)], strict=True)
    }
    return json.loads((table.schema.metadata or {}).get(_DROPPED, b"[]")), parts
