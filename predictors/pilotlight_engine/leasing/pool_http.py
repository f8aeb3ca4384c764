"""The lease API's wire: one exchange over TCP or a Unix socket, blocking. Must not know what a lease is.

The standard library only: this is imported, and the first lease asked for, before anything heavy is.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from pilotlight_engine.leasing.lease_errors import PoolUnreachable
from pilotlight_protocol.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    retry_after_s: float | None = None


class Transport(Protocol):
    """`exchange` raises PoolUnreachable. `close`, from any thread, ends an exchange that is under way."""

    def exchange(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer: ...

    def close(self) -> None: ...


class PoolHttp:
    """Implements `Transport`; `pool_url`: `http(s)://host:port` or `unix:///path`. `key`: the pool's lease key for this
    tenant, "" where it wants none."""

    def __init__(self, pool_url: str, key: str = "") -> None:
        self._url = pool_url
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False

    def exchange(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        connection = connection_to(self._url, timeout_s)
        self._connection = connection
        try:
            if self._closed:
                raise ConnectionAbortedError("closed")
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            return _answer(response, response.read())
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise PoolUnreachable(f"the warm pool at {self._url} does not answer: {reason}", retry_after_s=5) from error
        finally:
            self._connection = None
            connection.close()

    def close(self) -> None:
        self._closed = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def check_pool_url(url: str) -> None:
    """Raises InvalidInput for what is not a pool's address."""
    parts = urlsplit(url)
    if (parts.scheme in ("http", "https") and parts.hostname) or (
        parts.scheme == "unix" and parts.path and not parts.netloc
    ):
        return
    raise InvalidInput(f"--pool_url must be http(s)://host:port or unix:///path, not '{url}'")


def connection_to(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path, timeout_s)
    assert parts.hostname is not None  # check_pool_url
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    retry_after = response.headers.get("Retry-After", "")
    return Answer(response.status, body, float(retry_after) if retry_after.isdigit() else None)
