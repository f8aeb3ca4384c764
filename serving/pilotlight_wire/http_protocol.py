"""HTTP/1.1 on one connection: httptools' parser on the transport, and the bounds of what a client may send and leave.

A request line and headers must arrive within a deadline and a size, an answer must be read; a request that cannot be
parsed gets the error shape of this server, once those before it are answered; a lost connection is told to the running
request at once instead of through `receive()`. A client that shuts its writing side has left: a close looks the same
until something is written to it, and work that nobody waits for would go on to its end. Of the four forms of a request
target (RFC 9112 section 3.2) the app sees two: a path, and `*`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import unquote

import httptools
import msgspec

from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_cycle import HttpCycle, status_line
from pilotlight_wire.shared_timer import SharedTimer

DISCONNECT = "pilotlight.on_disconnect"
"""Key of the scope under which an app leaves what is called when the client has gone."""

ABORT = "pilotlight.abort"
"""Key of the scope under which an app finds what breaks the connection, so that a cut answer is seen to be cut."""

CYCLE = "pilotlight.cycle"
"""Key of the scope under which an app finds the `HttpCycle`, for what ASGI's messages have no short way to."""

SERVER_WIDE = "*"
"""The path of `OPTIONS *`."""

MAX_PIPELINED = 64
"""Requests of one connection that wait for their turn."""

# An upgrade may be ignored (RFC 9110 section 7.8), and Java's client offers h2c with every first request.
# The parser cannot be told so: it would leave the body of such a request unread.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_ASGI = {"version": "3.0", "spec_version": "2.3"}

App = Callable[..., Awaitable[None]]


class EdgeState:
    """What the connections of one server share: their bounds and deadlines, who they are, what runs, the time."""

    def __init__(self, bounds: EdgeBounds) -> None:
        self.bounds = bounds
        self.connections: set[HttpProtocol] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.late_heads = SharedTimer(bounds.header_timeout_s)
        self.idle = SharedTimer(bounds.keep_alive_s)
        self.unread = SharedTimer(bounds.write_stall_timeout_s)
        self._dated_s = 0
        self._date_line = b""

    @property
    def date_line(self) -> bytes:
        """The header of an answer that begins now."""
        now_s = int(time.time())
        if now_s != self._dated_s:
            self._dated_s = now_s
            self._date_line = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode("ascii")
        return self._date_line


class HttpProtocol(asyncio.Protocol):
    """`on_closed`: called when the connection has ended."""

    transport: asyncio.Transport

    def __init__(self, app: App, state: EdgeState, on_closed: Callable[[], None]) -> None:
        self.cycle: HttpCycle | None = None
        self.write_paused = False
        self._app = app
        self._state = state
        self._bounds = state.bounds
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # A request behind `connection: close` is let be, not taken for a fault of the one before.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._latest: HttpCycle | None = None
        """The one whose body is parsed: `cycle`, or a later one that waits for its turn."""
        self._waiting: deque[HttpCycle] = deque()
        self._writable: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._in_head = True
        self._head_is_timed = False
        self._header_bytes = 0
        self._bytes_between_pieces = 0
        self._in_body = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self._codings: list[bytes] = []
        self._expects_continue = False
        self._refusal: bytes | None = None
        """What is said when the requests before the one at fault are answered; nothing is read any more."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        self._addresses = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._state.connections.add(self)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        state = self._state
        state.connections.discard(self)
        for timer in (state.late_heads, state.idle, state.unread):
            timer.stop(self)
        cycle, self.write_paused = self.cycle, False
        self._wake_writers()
        for each in (cycle, *self._waiting):
            if each is not None:
                each.client_left()
        self._waiting.clear()
        if cycle is not None:
            on_disconnect = cycle.scope.get(DISCONNECT)
            if on_disconnect is not None:
                on_disconnect()
        self._on_closed()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._latest is not None:
            self._state.idle.stop(self)
        if self._in_head:
            self._header_bytes += len(data)
            if self._header_bytes > self._bounds.max_header_bytes and not self._headers_end_within(data):
                self._refuse(431, f"the request's headers are larger than {self._bounds.max_header_bytes} bytes")
                return
        else:
            self._bytes_between_pieces += len(data)
        if not self._in_body and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nupgrade-not-taken:", head) + end + rest
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400, "this is not a valid HTTP/1.1 request")
            return
        if self._in_head and not self._head_is_timed:
            self._time_head()
        # The parser keeps a chunk's extensions and trailers whole, and copies what it has for each piece that comes.
        if self._bytes_between_pieces > self._bounds.max_header_bytes:
            limit = self._bounds.max_header_bytes
            self._refuse(431, f"the body's trailers or chunk extensions are larger than {limit} bytes")

    def _headers_end_within(self, data: bytes) -> bool:
        head = self._bounds.max_header_bytes - (self._header_bytes - len(data))
        return head > 0 and data.find(b"\r\n\r\n", 0, head) >= 0

    def _time_head(self) -> None:
        self._head_is_timed = True
        self._state.late_heads.start(self, self._headers_are_late)

    def _headers_are_late(self) -> None:
        if self._head_is_timed:
            self._refuse(408, f"the request's headers did not arrive within {self._bounds.header_timeout_s:g} s")

    def pause_writing(self) -> None:
        self.write_paused = True
        # Aborted, not closed: a close would wait for the very buffer that the client leaves unread.
        self._state.unread.start(self, self.transport.abort)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._state.unread.stop(self)
        self._wake_writers()

    def _wake_writers(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # httptools' side

    def on_message_begin(self) -> None:
        self._url, self._headers, self._hosts, self._expects_continue = b"", [], 0, False
        self._codings = []
        self._bytes_between_pieces = 0
        if not self._in_head:
            self._in_head, self._header_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # it is a trailer, which must not pass for a header
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            self._codings.append(value.strip().lower())
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_is_timed:
            self._head_is_timed = False
            self._state.late_heads.stop(self)
        parser = self._parser
        version = parser.get_http_version()
        if self._hosts > 1 or (self._hosts == 0 and version != "1.0"):
            raise ValueError("no host, or two")
        if self._codings not in ([], [b"chunked"]):
            self._refuse(
                501, "a Transfer-Encoding other than 'chunked' is not spoken here; send Content-Encoding: gzip"
            )
            raise ValueError("the parser goes no further")
        method = parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "this is no proxy: CONNECT is not spoken here", b"allow: GET, HEAD, POST, OPTIONS\r\n")
            raise ValueError("the parser goes no further")
        if parser.should_upgrade():
            raise ValueError("an Upgrade header in pieces, or of a pipelined request")
        if len(self._waiting) >= MAX_PIPELINED:
            self._refuse(
                400, f"at most {MAX_PIPELINED} requests may be sent before the first is answered", at_once=True
            )
            raise ValueError("the parser goes no further")
        cycle = HttpCycle(
            self,
            self._scope(method.decode("ascii"), version),
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        self._latest, self._in_body = cycle, True
        if self.cycle is None or self.cycle.complete:
            self._start(cycle)
        else:
            self._waiting.append(cycle)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._bytes_between_pieces = 0
        if self._latest is not None:
            self._latest.body_piece(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._latest is not None:
            self._latest.body_ended()

    def _scope(self, method: str, version: str) -> dict[str, Any]:
        url = self._url
        if url == b"*":
            path, raw_path, query = SERVER_WIDE, b"*", b""
        else:
            if not url.startswith(b"/"):
                url = self._origin_form(url)
            raw_path, _, query = url.partition(b"#")[0].partition(b"?")
            path = raw_path.decode("ascii")
            if "%" in path:
                path = unquote(path)
        server, client = self._addresses
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": method,
            "scheme": "http",
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "server": server,
            "client": client,
            ABORT: self.transport.abort,
        }

    def _origin_form(self, url: bytes) -> bytes:
        """`http://HOST/PATH` asks HOST for PATH, whatever the Host header says (RFC 9112 section 3.2.2)."""
        scheme, separator, rest = url.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise ValueError("not a request target")
        end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority, target = rest[:end].rpartition(b"@")[2], rest[end:]
        self._headers[:] = [(name, value) for name, value in self._headers if name != b"host"]
        self._headers.append((b"host", authority))
        return target if target.startswith(b"/") else b"/" + target

    # The cycles' side

    @property
    def date_line(self) -> bytes:
        return self._state.date_line

    def _start(self, cycle: HttpCycle) -> None:
        self.cycle = cycle
        cycle.scope[CYCLE] = cycle
        task = self._loop.create_task(cycle.run(self._app))
        tasks = self._state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def writable(self) -> None:
        while self.write_paused:
            self._writable = self._loop.create_future()
            await self._writable

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def answered(self, cycle: HttpCycle) -> None:
        if self.transport.is_closing():
            return
        self.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._refusal is not None:
            self.transport.write(self._refusal)
            self.transport.close()
        else:
            self._state.idle.start(self, self.transport.close)

    def shutdown(self) -> None:
        """The running answer is the last one; without any, the connection ends now."""
        if self.cycle is None or self.cycle.complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _refuse(self, status: int, message: str, headers: bytes = b"", *, at_once: bool = False) -> None:
        """End the connection with this: when the whole requests before the one at fault are answered, or `at_once`."""
        if self.transport.is_closing() or self._refusal is not None:
            return
        answering = self.cycle is not None and not self.cycle.complete
        at_fault = self._latest if self._in_body else None
        if answering and (at_once or at_fault is self.cycle) and self.cycle is not None and self.cycle.started:
            self.transport.abort()  # in the midst of an answer nothing else can be said
            return
        body = msgspec.json.encode({"error": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        refusal = status_line(status) + headers + head + body
        if answering and at_fault is not self.cycle and not at_once:
            if at_fault is not None:
                self._waiting.remove(at_fault)
            self._refusal = refusal
            return
        self.transport.write(refusal)
        self.transport.close()
