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
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG), None
    except OSError as error:
        raise InvalidInput(f"--listen {address}: {error.strerror or error}") from error


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
