"""One listening port for HTTP/1.1 and h2c: accepts, peeks at the first bytes, and hands the connection over.

Nothing is copied through here: the accepted socket itself goes to the protocol that its first bytes ask for. The number
of connections is bounded: at the bound accepting pauses, and the kernel's backlog holds the next ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Callable

_PREFACE_START = b"PRI"
_SHORT_PEEK_RETRY_S = 0.01
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# A connection that is passed on holds three descriptors: the client's socket and both ends of the inner one.
_DESCRIPTORS_PER_CONNECTION = 3
_BACKLOG = 2048

_log = logging.getLogger("pilotlight.port")

ProtocolFactory = Callable[[Callable[[], None]], asyncio.Protocol]
"""Makes the protocol of one connection; it calls its argument when the connection has ended."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `host` "" means every address, IPv6 and IPv4. Raises OSError when the port is taken."""
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return _bound(family, (host, port))
    try:
        return _bound(socket.AF_INET6, ("::", port))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _bound(socket.AF_INET, ("0.0.0.0", port))


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it on Linux.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if address[0] != "::" else 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connection_bound(wanted: int) -> int:
    """`wanted`, or what the process's limit of open files leaves room for."""
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return wanted
    return max(16, min(wanted, (soft_limit - 64) // _DESCRIPTORS_PER_CONNECTION))


class OnePort:
    """`http2` None: connections that open with HTTP/2's preface are answered by the HTTP/1.1 parser."""

    def __init__(
        self,
        listener: socket.socket,
        http: ProtocolFactory,
        http2: ProtocolFactory | None,
        max_connections: int,
        first_byte_timeout_s: float,
    ) -> None:
        self._listener = listener
        self._http = http
        self._http2 = http2 or http
        self._max_connections = connection_bound(max_connections)
        self._first_byte_timeout_s = first_byte_timeout_s
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._accepting = False
        self._closed = False
        self._silent: set[_FirstBytes] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._handovers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._resume()

    def _resume(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        while self._accepting:
            if self._open >= self._max_connections:
                _log.warning("%d connections are open, the most this server takes; accepting pauses", self._open)
                self._pause()
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                _log.warning("cannot accept: %s; trying again in a moment", error)
                self._pause()
                self._loop.call_later(0.1, self._resume)
                return
            sock.setblocking(False)
            self._open += 1
            self._empty.clear()
            self._silent.add(_FirstBytes(self, sock, self._loop, self._first_byte_timeout_s))

    def known(self, first: _FirstBytes, sock: socket.socket, is_http2: bool | None) -> None:
        """The first bytes of a connection are seen; None: it never sent any, or closed."""
        self._silent.discard(first)
        if is_http2 is None or self._closed:
            with contextlib.suppress(OSError):
                # Unread bytes would turn the close into a reset.
                sock.recv(4096)
            sock.close()
            self.connection_closed()
            return
        protocol = self._http2 if is_http2 else self._http
        task = self._loop.create_task(self._hand_over(sock, protocol))
        self._handovers.add(task)
        task.add_done_callback(self._handovers.discard)

    async def _hand_over(self, sock: socket.socket, protocol: ProtocolFactory) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol(self.connection_closed), sock)
        except OSError as error:
            _log.warning("a connection was lost while it was handed over: %s", error)
            sock.close()
            self.connection_closed()

    def connection_closed(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._empty.set()
        if not self._closed and self._open < self._max_connections:
            self._resume()

    async def close_listener(self) -> None:
        """Take no more connections; those that are open go on."""
        self._pause()
        self._closed = True
        self._listener.close()
        for first in list(self._silent):
            first.give_up()
        if self._handovers:
            await asyncio.wait(self._handovers, timeout=1)

    async def wait_empty(self, timeout_s: float) -> None:
        """Return when no connection is open, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()


class _FirstBytes:
    """Waits for a connection's first bytes without taking them, up to a deadline."""

    def __init__(self, port: OnePort, sock: socket.socket, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._port = port
        self._sock = sock
        self._loop = loop
        self._retry: asyncio.TimerHandle | None = None
        self._deadline = loop.call_later(timeout_s, self.give_up)
        loop.add_reader(sock.fileno(), self._peek)

    def _peek(self) -> None:
        try:
            seen = self._sock.recv(len(_PREFACE_START), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            seen = b""
        if not seen:
            self._finish(None)
        elif seen == _PREFACE_START:
            self._finish(True)
        elif _PREFACE_START.startswith(seen):
            # The bytes stay readable, so the reader would spin; look again when more may have come.
            self._loop.remove_reader(self._sock.fileno())
            self._retry = self._loop.call_later(_SHORT_PEEK_RETRY_S, self._peek_again)
        else:
            self._finish(False)

    def _peek_again(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock.fileno(), self._peek)

    def give_up(self) -> None:
        self._finish(None)

    def _finish(self, is_http2: bool | None) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._deadline.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self._port.known(self, self._sock, is_http2)
