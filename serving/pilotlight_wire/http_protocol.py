"""HTTP/1.1 on one connection: uvicorn's httptools protocol, with the bounds it lacks.

A request line and headers must arrive within a deadline and a size, an answer must be read; a request that cannot be
parsed gets the error shape of this server; a lost connection is told to the running request at once instead of through
`receive()`. Of the four forms of a request target (RFC 9112 section 3.2) the app sees two: a path, and `*`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from pilotlight_wire.edge_bounds import EdgeBounds

DISCONNECT = "pilotlight.on_disconnect"
"""Key of the scope under which an app leaves what is called when the client has gone."""

ABORT = "pilotlight.abort"
"""Key of the scope under which an app finds what breaks the connection, so that a cut answer is seen to be cut."""

SERVER_WIDE = "*"
"""The path of `OPTIONS *`."""

MAX_PIPELINED = 64
"""Requests of one connection that wait for their turn."""

# An upgrade may be ignored (RFC 9110 section 7.8), and Java's client offers h2c with every first request.
# The parser cannot be told so: it would leave the body of such a request unread.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class DatedState(ServerState):  # type: ignore[misc]
    """What the connections of one server share; its answers are dated."""

    def __init__(self) -> None:
        super().__init__()
        self._dated_s = 0

    def stamp(self) -> None:
        """Let the answers that begin now have the time."""
        now_s = int(time.time())
        if now_s != self._dated_s:
            self._dated_s = now_s
            self.default_headers[:] = [(b"date", formatdate(now_s, usegmt=True).encode("ascii"))]


class HttpProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """`on_closed`: called when the connection has ended."""

    def __init__(self, config: Config, state: DatedState, bounds: EdgeBounds, on_closed: Callable[[], None]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self.url = b""
        self._state = state
        self._bounds = bounds
        self._on_closed = on_closed
        self._header_bytes = 0
        self._bytes_between_pieces = 0
        self._in_body = False
        self._header_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._running_scope: dict[str, Any] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm_header_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_header_deadline()
        self._disarm_write_deadline()
        super().connection_lost(exc)
        if self._running_scope is not None:
            on_disconnect = self._running_scope.get(DISCONNECT)
            if on_disconnect is not None:
                on_disconnect()
        self._on_closed()

    def data_received(self, data: bytes) -> None:
        if self._header_deadline is not None:
            self._header_bytes += len(data)
            if self._header_bytes > self._bounds.max_header_bytes and not self._headers_end_within(data):
                limit = self._bounds.max_header_bytes
                self._refuse(431, f"the request's headers are larger than {limit} bytes")
                return
        else:
            self._bytes_between_pieces += len(data)
        if not self._in_body and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nupgrade-not-taken:", head) + end + rest
        super().data_received(data)
        # The parser keeps a chunk's extensions and trailers whole, and copies what it has for each piece that comes.
        if self._bytes_between_pieces > self._bounds.max_header_bytes:
            limit = self._bounds.max_header_bytes
            self._refuse(431, f"the body's trailers or chunk extensions are larger than {limit} bytes")

    def _headers_end_within(self, data: bytes) -> bool:
        head = self._bounds.max_header_bytes - (self._header_bytes - len(data))
        return head > 0 and data.find(b"\r\n\r\n", 0, head) >= 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._bytes_between_pieces = 0
        self._arm_header_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._header_deadline is not None:  # otherwise it is a trailer, which must not pass for a header
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._bytes_between_pieces = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._disarm_header_deadline()
        self._in_body = True
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise ValueError("two hosts")
        self._state.stamp()
        if self.parser.get_method() == b"CONNECT":
            self._refuse(405, "this is no proxy: CONNECT is not spoken here", b"allow: GET, HEAD, POST, OPTIONS\r\n")
            return
        if self.parser.should_upgrade():
            raise ValueError("an Upgrade header in pieces, or of a pipelined request")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(400, f"at most {MAX_PIPELINED} requests may be sent before the first is answered")
            raise ValueError("the parser goes no further")
        if self.url == b"*":
            self.url = b"/"
            super().on_headers_complete()
            self.scope["path"] = SERVER_WIDE
            self.scope["raw_path"] = SERVER_WIDE.encode()
            return
        if not self.url.startswith(b"/"):
            self.url = self._origin_form(self.url)
        super().on_headers_complete()

    def _origin_form(self, url: bytes) -> bytes:
        """`http://HOST/PATH` asks HOST for PATH, whatever the Host header says (RFC 9112 section 3.2.2)."""
        scheme, separator, rest = url.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise ValueError("not a request target")
        end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority, target = rest[:end].rpartition(b"@")[2], rest[end:]
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
        self.headers.append((b"host", authority))
        return target if target.startswith(b"/") else b"/" + target

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running_scope = cycle.scope
        cycle.scope[ABORT] = self.transport.abort
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._disarm_write_deadline()
        # Aborted, not closed: a close would wait for the very buffer that the client leaves unread.
        self._write_deadline = self.loop.call_later(self._bounds.write_stall_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._disarm_write_deadline()
        super().resume_writing()

    def _disarm_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _arm_header_deadline(self) -> None:
        if self._header_deadline is None:
            self._header_bytes = 0
            self._header_deadline = self.loop.call_later(self._bounds.header_timeout_s, self._headers_are_late)

    def _disarm_header_deadline(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _headers_are_late(self) -> None:
        self._header_deadline = None
        self._refuse(408, f"the request's headers did not arrive within {self._bounds.header_timeout_s:g} s")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not a valid HTTP/1.1 request")

    def _refuse(self, status: int, message: str, headers: bytes = b"") -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode({"error": message})
        self.transport.write(
            STATUS_LINE[status]
            + headers
            + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
