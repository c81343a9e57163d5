"""Files under a local folder or an `s3://` address: list, read whole, publish in one atomic step.

A published file is either absent, the old one, or the new one; no reader sees a part of it. Locally that is a hidden
temporary file, `fsync` and `os.replace`; on S3 an object appears only when its upload completes.
"""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import fs

from cryptoml.errors import ConfigError, DataError

__all__ = ["Storage", "folder_below", "is_overload", "open_storage"]

LOCK_NAME = ".lock"
LOCK_TIMEOUT_SECONDS = 600.0
S3_MAX_ATTEMPTS = 6  # the waits in between double, about 15 s in all: an outage of some seconds passes unseen
S3_FIRST_ATTEMPTS = 2  # of the first contact: a wrong address is told while the user looks on
S3_CONNECT_TIMEOUT_SECONDS = 5.0
S3_READ_ATTEMPTS = 20  # pyarrow pads or cuts an object that is replaced between its requests for size and content: read again
S3_SETTINGS = ("region", "scheme", "endpoint_override")
KEYS = "give keys that may read and write there: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a role of machine or pod"
ADVICE = {
    "NO_SUCH_BUCKET": "create the bucket, or correct the address",
    "NETWORK_CONNECTION": "check the address, its endpoint_override and the network",
    **dict.fromkeys(("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN", "status 403"), KEYS),
}
"""What to do about an error of S3, by a word of its message."""
OVERLOAD = ("SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "HTTP status 500", "HTTP status 503")


@dataclass(frozen=True)
class Storage:
    """A folder on one filesystem. Paths given to its methods are relative to it, with `/` between the parts.

    Attributes:
        filesystem: The pyarrow filesystem; a Storage may travel to other processes.
        base: The folder inside the filesystem.
        address: The folder as a user would write it, without credentials; for messages.
    """

    filesystem: fs.FileSystem
    base: str
    address: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with the retries, which pyarrow's own filesystems forget on the way."""
        return _arrived, (None if self.is_local else self._settings, self.base, self.address)

    @property
    def _settings(self) -> dict[str, Any]:
        """Return what a remote filesystem was made with."""
        settings: dict[str, Any] = self.filesystem.__reduce__()[1][0]
        return settings

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, relative: str) -> str:
        """Return the path of `relative` inside the filesystem."""
        return f"{self.base}/{relative}" if relative else self.base

    def require_bucket(self) -> None:
        """Check that the bucket of a remote folder is there and may be read.

        Raises:
            ConfigError: There is none of that name.
            DataError: It cannot be reached; the message says what to do.
        """
        if self.is_local:
            return
        bucket = self.base.partition("/")[0]
        with self._errors("reach", ""):
            filesystem = _s3(S3_FIRST_ATTEMPTS, **self._settings)
            missing = filesystem.get_file_info(bucket).type == fs.FileType.NotFound
        if missing:
            raise ConfigError(f"bucket {bucket} of {self.address} does not exist: {ADVICE['NO_SUCH_BUCKET']}")

    def list_files(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """Return the sorted relative paths of the visible files in `folder`; an absent folder has none."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=recursive)
        with self._errors("list", folder):
            found = self.filesystem.get_file_info(selector)
        relative = (info.path[len(self.base) :].lstrip("/") for info in found if info.type == fs.FileType.File)
        return sorted(path for path in relative if not path.rpartition("/")[2].startswith("."))

    def exists(self, relative: str) -> bool:
        """Say whether the file `relative` is there."""
        with self._errors("look up", relative):
            return self.filesystem.get_file_info(self.path(relative)).type == fs.FileType.File

    def modified(self, relative: str) -> float:
        """Return when the file `relative` was last written, in seconds since 1970; 0 where it is absent."""
        with self._errors("look up", relative):
            return float((self.filesystem.get_file_info(self.path(relative)).mtime_ns or 0) / 1e9)

    def open(self, relative: str) -> pa.NativeFile:
        """Open one published version of a file for random access, unaffected by later publishes.

        A local file is read as needed from the opened version; an S3 object is fetched whole in one request.

        Raises:
            DataError: The file is absent or cannot be read.
        """
        if not self.is_local:
            return pa.BufferReader(self.read(relative))
        with self._errors("read", relative):
            return self.filesystem.open_input_file(self.path(relative))

    def read(self, relative: str) -> bytes:
        """Return the whole content of one published version of a file.

        Raises:
            DataError: The file is absent, cannot be read, or is replaced again and again while being read.
        """
        with self._errors("read", relative):
            for _ in range(S3_READ_ATTEMPTS):
                with self.filesystem.open_input_file(self.path(relative)) as file:
                    content = file.read_at(file.size(), 0)
                    if self.is_local or _version(file) == self._current_version(relative):
                        return content
        raise DataError(f"{self.address}/{relative} kept changing while it was read")

    def _current_version(self, relative: str) -> str | None:
        with self.filesystem.open_input_file(self.path(relative)) as file:
            return _version(file)

    def publish(self, relative: str, content: bytes | pa.Buffer) -> None:
        """Make `content` the file `relative` in one atomic and durable step, creating folders as needed.

        Raises:
            DataError: The place cannot be written; what was there before is untouched.
        """
        with self._errors("write", relative):
            if self.is_local:
                _publish_local(Path(self.path(relative)), content)
            else:
                with self.filesystem.open_output_stream(self.path(relative), buffer_size=0) as stream:
                    stream.write(content)

    def upload(self, local: Path, relative: str) -> None:
        """Copy a file of this machine here; on S3 the object appears when it is whole.

        Raises:
            DataError: One of the places cannot be read or written.
        """
        if self.is_local:
            with self._errors("write", relative):
                fs.copy_files(str(local), self.path(relative))
        else:
            with self._errors("read", str(local)):
                content = pa.memory_map(str(local)).read_buffer() if local.stat().st_size else b""
            self.publish(relative, content)

    def download(self, relative: str, local: Path) -> None:
        """Copy a file from here to this machine.

        Raises:
            DataError: One of the places cannot be read or written.
        """
        with self._errors("read", relative):
            fs.copy_files(self.path(relative), str(local), source_filesystem=self.filesystem)

    def remove_folder(self, relative: str) -> None:
        """Delete a folder and all in it; an absent one is no error."""
        with self._errors("delete", relative):
            self.filesystem.delete_dir_contents(self.path(relative), missing_dir_ok=True)

    def remove(self, relative: str) -> None:
        """Delete a file; an absent one is no error."""
        if self.exists(relative):
            with self._errors("delete", relative):
                self.filesystem.delete_file(self.path(relative))

    def lock(self, folder: str) -> AbstractContextManager[None]:
        """Serialise writers of `folder` on this host, threads and processes alike; S3 has no lock.

        The lock falls with its process, whatever ends that, and temporary files of a dead writer are swept on entry.

        Raises:
            DataError: Another writer held the lock for ten minutes.
        """
        return self._local_lock(Path(self.path(folder))) if self.is_local else nullcontext()

    @contextmanager
    def _local_lock(self, folder: Path) -> Iterator[None]:
        with self._errors("lock", str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK_NAME, timeout=LOCK_TIMEOUT_SECONDS):
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield
        except Timeout as error:
            raise DataError(f"{folder} has been locked by another writer for {LOCK_TIMEOUT_SECONDS:.0f} s") from error

    @contextmanager
    def _errors(self, action: str, relative: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = relative if relative.startswith("/") else f"{self.address}/{relative}".rstrip("/")
            raise DataError(f"cannot {action} {place}: {_first_line(error)}") from error


def open_storage(root: str | Path) -> Storage:
    """Resolve a local path, `file://` or `s3://bucket/prefix` address; nothing is created and no network is used yet.

    An S3 address takes `region`, `scheme` and `endpoint_override` as query (`?endpoint_override=http://127.0.0.1:5000`);
    credentials come from the environment, the AWS configuration, or `s3://key:secret@bucket/prefix`.

    Raises:
        ConfigError: The scheme or a query key is unknown, or the bucket is missing.
    """
    text = os.fspath(root)
    if not re.match(r"[a-z][a-z0-9+]*://", text):
        local = os.path.abspath(os.path.expanduser(text))
        return Storage(fs.LocalFileSystem(), local, local)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Storage(fs.LocalFileSystem(), unquote(parts.path).rstrip("/"), text)
    if parts.scheme != "s3":
        raise ConfigError(f"storage address must be a path, file:// or s3://, was {parts.scheme}://")
    if not parts.hostname:
        raise ConfigError("storage address must name a bucket, as s3://bucket/prefix")
    bucket = parts.netloc.rpartition("@")[2]
    base = f"{bucket}{parts.path}".rstrip("/")
    return Storage(_s3_filesystem(parts.username, parts.password, dict(parse_qsl(parts.query))), base, f"s3://{base}")


def is_overload(error: BaseException) -> bool:
    """Tell whether an error says, however deep, that a remote storage is overloaded: the same work may succeed later."""
    return any(word in str(error) for word in OVERLOAD)


def folder_below(address: str | Path, name: str) -> str:
    """Return the address of a folder below another, whose own may end in a query."""
    given, mark, query = os.fspath(address).partition("?")
    return f"{given.rstrip('/')}/{name}{mark}{query}"


def _s3_filesystem(user: str | None, password: str | None, query: dict[str, str]) -> fs.S3FileSystem:
    unknown = sorted(set(query) - set(S3_SETTINGS))
    if unknown:
        raise ConfigError(f"storage address takes the query keys {', '.join(S3_SETTINGS)}, was {unknown[0]}")
    endpoint = query.get("endpoint_override", "")
    if "://" in endpoint:
        query["scheme"], _, query["endpoint_override"] = endpoint.partition("://")
    credentials = {"access_key": unquote(user), "secret_key": unquote(password or "")} if user else {}
    return _s3(
        S3_MAX_ATTEMPTS,
        **credentials,
        **query,
        connect_timeout=S3_CONNECT_TIMEOUT_SECONDS,
        background_writes=True,  # remembers that a part failed, so that closing does not complete the upload
        allow_delayed_open=True,
    )


def _s3(attempts: int, **settings: Any) -> fs.S3FileSystem:
    return fs.S3FileSystem(**settings, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts))


def _arrived(settings: dict[str, Any] | None, base: str, address: str) -> Storage:
    """Return a storage that comes from another process."""
    return Storage(fs.LocalFileSystem() if settings is None else _s3(S3_MAX_ATTEMPTS, **settings), base, address)


def _version(file: pa.NativeFile) -> str | None:
    """Return the entity tag that the store gave when the object was opened."""
    return (file.metadata() or {}).get("ETag")


def _publish_local(path: Path, content: bytes | pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: OSError) -> str:
    """Return what an error says, and what to do where that is known."""
    said = (error.strerror or str(error)).strip().split("\n")[0]
    advice = next((advice for word, advice in ADVICE.items() if word in said), "")
    return f"{said}; {advice}" if advice else said
