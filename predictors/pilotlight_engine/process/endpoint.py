"""Addresses of data listeners: `unix:///path.sock` or `tcp://host:port`. Parsing is pure; `listen` opens the socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilotlight_protocol.errors import InvalidInput

_BACKLOG = 16


@dataclass(frozen=True)
class UnixEndpoint:
    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True)
class TcpEndpoint:
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse(text: str) -> UnixEndpoint | TcpEndpoint:
    """Raises InvalidInput for anything but the two forms."""
    try:
        parts = urlsplit(text)
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return UnixEndpoint(Path(parts.path))
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path:
            return TcpEndpoint(parts.hostname, parts.port)
    except ValueError:
        pass
    raise InvalidInput(f"'{text}' is no engine endpoint; write unix:///path.sock or tcp://host:port")


def listen(endpoint: UnixEndpoint | TcpEndpoint) -> tuple[socket.socket, str]:
    """A non-blocking listener and the endpoint to tell (with the port the kernel chose).

    A Unix socket needs a directory that only its owner can enter, because whoever reaches it may try secrets. Raises
    InvalidInput when it is not, OSError when the address is taken.
    """
    if isinstance(endpoint, TcpEndpoint):
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        listener = socket.create_server((endpoint.host, endpoint.port), family=family, backlog=_BACKLOG)
        listener.setblocking(False)
        return listener, str(TcpEndpoint(endpoint.host, listener.getsockname()[1]))
    status = endpoint.path.parent.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise InvalidInput(f"{endpoint.path.parent} must be a directory of this user with mode 0700")
    with contextlib.suppress(FileNotFoundError):
        endpoint.path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(str(endpoint.path))
    endpoint.path.chmod(0o600)
    listener.listen(_BACKLOG)
    return listener, str(endpoint)
