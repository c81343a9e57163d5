"""Arrow IPC streams of strangers, read without trusting a word of them.

A compressed stream may unfold to thousands of times its size, which no limit on bodies bounds: it is refused by the flag in its
message headers (Arrow's format/Message.fbs), before a buffer is unfolded.
"""

import struct

import pyarrow as pa

from serve.problems import InvalidFieldError

__all__ = ["read_stream"]

_BATCHES = ("record batch", "dictionary")
_MESSAGE_HEADER, _DICTIONARY_DATA, _BATCH_COMPRESSION = 2, 1, 3
"""Places of the fields in the tables Message, DictionaryBatch and RecordBatch."""


def read_stream(content: bytes, most_rows: int) -> pa.Table:
    """Return the whole table, valid in itself, without metadata.

    Raises:
        InvalidFieldError: It is no Arrow stream, is compressed, has a column twice, or no row or more than `most_rows`.
    """
    try:
        if _is_compressed(content):
            raise InvalidFieldError("body must be an Arrow IPC stream without compression", "/")
        table = pa.ipc.open_stream(pa.BufferReader(content)).read_all()
        table.validate(full=True)
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise InvalidFieldError(f"body must be an Arrow IPC stream: {' '.join(str(error).split())[:200]}", "/") from None
    if not 1 <= table.num_rows <= most_rows:
        raise InvalidFieldError(f"body must have 1 to {most_rows} rows, had {table.num_rows}", "/")
    if len(set(names)) < len(names):
        raise InvalidFieldError("every column must occur once", "/")
    return table.replace_schema_metadata(None)


def _is_compressed(content: bytes) -> bool:
    """Tell whether a batch of the stream says that its buffers are compressed."""
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(content)):
        if message.type not in _BATCHES:
            continue
        raw = message.metadata.to_pybytes()
        batch = _table_at(raw, _field(raw, struct.unpack_from("<I", raw)[0], _MESSAGE_HEADER))
        if message.type == "dictionary":
            batch = _table_at(raw, _field(raw, batch, _DICTIONARY_DATA))
        if _field(raw, batch, _BATCH_COMPRESSION):
            return True
    return False


def _field(raw: bytes, table: int, place: int) -> int:
    """Return where a field of a flatbuffers table lies, 0 where it is absent."""
    names = table - struct.unpack_from("<i", raw, table)[0]
    slot = 4 + 2 * place
    if slot >= struct.unpack_from("<H", raw, names)[0]:
        return 0
    offset = struct.unpack_from("<H", raw, names + slot)[0]
    return table + offset if offset else 0


def _table_at(raw: bytes, place: int) -> int:
    return place + struct.unpack_from("<I", raw, place)[0]
