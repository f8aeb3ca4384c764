"""One request of an HTTP/1.1 connection and its answer: ASGI's `receive` and `send`, and a shorter way beside each.

    receive   the body piece by piece        `whole_body`: all of it where it came with its head
    send      a message for each step        `write`: one more piece of an answer that has begun, at once

It must not know how a request is parsed, or what is answered.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

HIGH_WATER_BYTES = 64 * 1024
"""Of a body that nobody has read; the connection is not read meanwhile."""

_UNFIT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_FAILED = (
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)

_log = logging.getLogger("pilotlight.http")

Message = dict[str, Any]


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Connection(Protocol):
    """What a cycle needs of the connection it is on."""

    transport: asyncio.Transport
    write_paused: bool

    @property
    def date_line(self) -> bytes: ...

    async def writable(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def answered(self, cycle: HttpCycle) -> None:
        """The answer is complete."""
        ...


class HttpCycle:
    """`keep_alive`: whether the connection outlives the answer. `gone`: the client has left. `complete`: all of the
    answer is written."""

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_expects_continue",
        "_head",
        "_is_head",
        "_left_bytes",
        "_may_chunk",
        "_more",
        "_news",
        "_waiter",
        "complete",
        "gone",
        "keep_alive",
        "scope",
        "started",
    )

    def __init__(
        self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.gone = False
        self.started = False
        self.complete = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._is_head = scope["method"] == "HEAD"
        self._may_chunk = scope["http_version"] == "1.1"
        self._chunked = False
        self._head = b""
        """Of an answer whose first piece has not come, which it goes out with."""
        self._left_bytes: int | None = None
        self._body: bytes | bytearray = b""
        self._more = True
        self._news = False
        self._waiter: asyncio.Future[None] | None = None

    async def run(self, app: Callable[..., Awaitable[None]]) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._give_up()
            raise
        except Exception:
            _log.exception("an HTTP app failed")
            self._give_up()
        else:
            if not self.complete and not self.gone:
                _log.error("an HTTP app ended before its answer did")
                self._give_up()

    def _give_up(self) -> None:
        """An answer that is not complete has to be seen to be none."""
        if self.complete or self.gone:
            return
        transport = self._connection.transport
        if not self.started:
            transport.write(status_line(500) + self._connection.date_line + _FAILED)
        self._send_head()
        transport.close()

    # The client's side

    def body_piece(self, piece: bytes) -> None:
        if self.complete:
            return
        if self._body:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += piece
        else:
            self._body = piece
        if len(self._body) > HIGH_WATER_BYTES:
            self._connection.pause_reading()
        self._tell()

    def body_ended(self) -> None:
        self._more = False
        self._tell()

    def client_left(self) -> None:
        self.gone = True
        self._tell()

    def _tell(self) -> None:
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The app's side

    @property
    def body_is_here(self) -> bool:
        return not self._more and not self.gone

    @property
    def body_bytes(self) -> int:
        """Of it that is here and was not taken."""
        return len(self._body)

    def whole_body(self) -> bytes | None:
        """The body, which `receive` then does not give any more; None where it is not here as a whole."""
        if not self.body_is_here:
            return None
        self._connection.resume_reading()  # else nobody would see the client leave
        self._news = False
        body, self._body = self._body, b""
        return bytes(body)

    async def receive(self) -> Message:
        if self._expects_continue and not self.started:
            self._expects_continue = False
            if not self.gone:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._news and not self.complete and not self.gone:
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        self._news = False
        body, self._body = self._body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self._more}

    async def send(self, message: Message) -> None:
        if self._connection.write_paused and not self.gone:
            await self._connection.writable()
        if self.gone:
            return
        if self.complete:
            raise RuntimeError(f"{message['type']} after the end of the answer")
        if not self.started:
            self._start(message["status"], message["headers"])
            return
        self.write(message.get("body", b""))
        if not message.get("more_body", False):
            self._end()

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        told_close = told_length = False
        for name, value in headers:
            kind = name.lower()
            if kind not in _FRAMING:
                continue
            if kind == b"content-length":
                told_length, self._left_bytes = True, int(value)
            elif kind == b"transfer-encoding" and value.lower() == b"chunked":
                told_length = self._chunked = True
            elif kind == b"connection" and b"close" in value.lower():
                told_close, self.keep_alive = True, False
        said = b"".join([b"%b: %b\r\n" % header for header in headers])
        if said.count(b"\r") != len(headers) or said.count(b"\n") != len(headers) or _UNFIT(said):
            raise RuntimeError("a header of the answer has a control character in it")
        if status in (204, 304):
            self._left_bytes = None  # what they say of their length is another answer's
        elif not told_length and not self._is_head:
            if self._may_chunk:
                self._chunked = True
                said += b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if not self.keep_alive and not told_close:
            said += b"connection: close\r\n"
        self.started = True
        self._head = b"%b%b%b\r\n" % (status_line(status), self._connection.date_line, said)
        # Most heads have their first piece right behind them; the others wait for none.
        asyncio.get_running_loop().call_soon(self._send_head)

    def _send_head(self) -> None:
        if self._head and not self.gone:
            head, self._head = self._head, b""
            self._connection.transport.write(head)

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than it is written to: `drained` before the next piece."""
        return self._connection.write_paused

    async def drained(self) -> None:
        await self._connection.writable()

    def write(self, piece: bytes) -> None:
        """One more piece of an answer that has begun."""
        if not piece or self._is_head or self.gone:
            return
        if self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        elif self._left_bytes is not None:
            self._left_bytes -= len(piece)
            if self._left_bytes < 0:
                raise RuntimeError("the answer is longer than its content-length")
        if self._head:
            piece, self._head = self._head + piece, b""
        self._connection.transport.write(piece)

    def _end(self) -> None:
        self._send_head()
        if self._chunked:
            if not self._is_head:
                self._connection.transport.write(b"0\r\n\r\n")
        elif self._left_bytes and not self._is_head:
            raise RuntimeError("the answer is shorter than its content-length")
        self.complete = True
        self._tell()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.answered(self)
