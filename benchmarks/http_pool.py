"""Connections that ask over HTTP/1.1 for as little of the machine as possible: who measures a service shares its cores.

httptools and uvloop are those of the service itself; a request costs about a tenth of what it costs httpx.
"""

import asyncio
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import httptools

__all__ = ["Answered", "Pool"]


class Answered:
    """Status and headers of an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}


class Pool:
    """Connections to one address, opened when all others are in use and kept open.

    Args:
        address: `http://host:port`.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()

    async def post(self, path: str, body: bytes, timeout_seconds: float) -> Answered:
        """Send JSON and wait for the whole answer.

        Raises:
            OSError: The connection failed or was lost, or the answer took too long (TimeoutError).
        """
        async with asyncio.timeout(timeout_seconds):
            connection = self._idle.pop() if self._idle else await self._open()
            try:
                head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
                found = await connection.ask(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            except BaseException:
                connection.close()
                raise
            if connection.usable:
                self._idle.append(connection)
            return found

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()

    async def _open(self) -> "_Connection":
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._waiting: asyncio.Future[Answered] | None = None

    @property
    def usable(self) -> bool:
        return self._keep and not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[Answered]:
        self._parser, self._answer, self._keep = httptools.HttpResponseParser(self), Answered(), True
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("closed before the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_message_complete(self) -> None:
        self._answer.status, self._keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
