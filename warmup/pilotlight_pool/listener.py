"""The lease API's listening socket, bound before anything slow is imported: early callers wait, none is refused."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput

_BACKLOG = 1024


@contextlib.contextmanager
def open_listener(address: str) -> Iterator[socket.socket]:
    """`unix:///path` (0600) or `tcp://host:port` (port 0: any). Raises InvalidInput where it cannot be bound."""
    listener, path = _bound(address)
    try:
        listener.listen(_BACKLOG)
        yield listener
    finally:
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)


def address_of(listener: socket.socket) -> str:
    """`http://host:port` or `unix:///path`, as clients are told."""
    if listener.family == socket.AF_UNIX:
        return f"unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(address: str) -> tuple[socket.socket, Path | None]:
    try:
        if address.startswith("unix://"):
            path = Path(address.removeprefix("unix://"))
            return _bound_path(path), path
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        host = host.strip("[]")
        return _bound_tcp(host, int(port)), None
    except OSError as error:
        raise InvalidInput(f"--listen {address}: {error.strerror or error}") from error


def _bound_tcp(host: str, port: int) -> socket.socket:
    # With the protocol named, because asyncio turns Nagle's algorithm off on such sockets alone: without it every
    # answer in two writes waits 40 ms for a delayed acknowledgement.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _bound_path(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                raise OSError("another process listens there")
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
    except BaseException:
        listener.close()
        raise
    return listener
