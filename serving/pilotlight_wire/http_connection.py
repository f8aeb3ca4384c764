"""One keep-alive HTTP/1.1 connection to an upstream server.

Responsible for getting bytes of a response body to their reader with the least work per event: httptools' parser sits
directly on the transport, and what arrives while the reader is busy is handed over in one piece. It must not know what
the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from pilotlight_protocol.errors import Unavailable
from pilotlight_wire.poured_events import Sink
from pilotlight_wire.shared_timer import SharedTimer

BUFFER_LIMIT_BYTES = 256 * 1024
"""The socket is not read while this much waits for a slow reader; the predictor then coalesces its events."""

SETTLE_TIMEOUT_S = 1.0
"""How long the end of an answer whose content is complete may take to come."""


class ConnectionLost(Exception):
    """The peer closed; `before_answer` tells that not one byte of the answer had come."""

    def __init__(self, *, before_answer: bool) -> None:
        super().__init__("the connection was closed")
        self.before_answer = before_answer


class Silence(Exception):
    """No byte came in time."""


class HttpConnection(asyncio.Protocol):
    """Carries one exchange at a time: `send`, then `head`, then `read` until it returns b"".

    `headers`: of the answer, lower-case names; `raw_headers`: as they came, repeated ones too.
    """

    def __init__(self, silence: SharedTimer) -> None:
        """`silence`: for how long the peer may be silent, again and again."""
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._patience_s = silence.after_s
        self._transport: asyncio.Transport | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._last_byte_s = 0.0
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = False
        self._begin(b"")

    def _begin(self, request: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._take: Callable[[bytes], None] | None = None
        self._buffered = 0
        self._complete = False
        self._head_complete = False
        self._keep_alive = False
        self._answered = False
        self._uploading: asyncio.Task[None] | None = None
        # What httptools is not told: a HEAD request's answer has no body, whatever its headers say.
        self._bodiless = request.startswith(b"HEAD ")
        self._until_close = False
        self._on_settled: Callable[[], None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw_headers: list[tuple[bytes, bytes]] = []

    # The reader's side

    def send(self, request: bytes) -> None:
        """Write a request, or its head; the answer has to show its next byte in time, again and again."""
        if self._transport is None or self.lost:
            raise ConnectionLost(before_answer=True)
        self._begin(request)
        self._last_byte_s = self._loop.time()
        self._patience_s = self._silence.after_s
        self._silence.start(self, self._check_silence)
        self._transport.write(request)

    def expect_within(self, patience_s: float) -> None:
        """From now on the next byte of this answer has so long to come, again and again."""
        self._patience_s = patience_s
        self._stop_watchdog()
        if not self._complete and not self.lost:
            self._last_byte_s = self._loop.time()
            self._watchdog = self._loop.call_later(patience_s, self._check_silence)

    def upload(self, pieces: AsyncIterator[bytes]) -> asyncio.Task[None]:
        """Write the body that follows a head, as fast as the peer takes it, beside the answer; ends with it."""
        self._uploading = self._loop.create_task(self._send_body(pieces))
        self._uploading.add_done_callback(self._upload_ended)
        return self._uploading

    async def _send_body(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            await self._writable.wait()
            if self._transport is None or self.lost:
                return
            self._last_byte_s = self._loop.time()
            self._transport.write(piece)

    def _upload_ended(self, task: asyncio.Task[None]) -> None:
        # Half a body is no body: the peer must not take it for one.
        if not task.cancelled() and task.exception() is not None:
            self.abort()

    async def head(self) -> int:
        """Wait for status and headers. Raises ConnectionLost, Silence."""
        while not self._head_complete:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """All of the body that has come since the last call; b"" at its end. Raises ConnectionLost, Silence."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._wait()
        data = self._buffered_data()
        self._resume()
        return data

    async def pour(self, take: Callable[[bytes], None], sink: Sink) -> None:
        """All that comes of the body, each piece given to `take` as it arrives, which writes to `sink`. Raises
        ConnectionLost, Silence, and what `take` raises."""
        if self._chunks:
            take(self._buffered_data())
        self._take, self._sink = take, sink
        try:
            while True:
                if sink.is_full:
                    await sink.drained()
                self._resume()
                if self._complete:
                    return
                await self._wait()
        finally:
            self._take = None

    def pieces(self) -> BodyPieces:
        """What is left of the body, to be poured or read."""
        return BodyPieces(self)

    def _buffered_data(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        return data

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._last_byte_s = self._loop.time()
            self._transport.resume_reading()

    @property
    def _is_uploading(self) -> bool:
        return self._uploading is not None and not self._uploading.done()

    @property
    def ends_by_close(self) -> bool:
        """Nothing but the end of the connection says where the answer ends, so one that was cut looks whole."""
        return self._until_close

    @property
    def reusable(self) -> bool:
        return self._complete and self._keep_alive and not self._is_uploading and not self.lost

    def abort(self) -> None:
        """Drop the connection now: the peer sees it and ends its work."""
        self._stop_watchdog()
        self.lost = True
        if self._uploading is not None:
            self._uploading.cancel()
        if self._transport is not None:
            self._transport.abort()

    def settle(self, on_settled: Callable[[], None]) -> None:
        """Call back at the end of the answer, whose rest nobody reads; drop the connection when it does not come."""
        if self._complete or self.lost:
            on_settled()
            return
        self._on_settled = on_settled
        self._stop_watchdog()
        self._watchdog = self._loop.call_later(SETTLE_TIMEOUT_S, self.abort)

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.lost:
            raise ConnectionLost(before_answer=not self._answered)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_silence(self) -> None:
        quiet_s = 0.0 if self._paused else self._loop.time() - self._last_byte_s
        if quiet_s < self._patience_s:
            self._watchdog = self._loop.call_later(self._patience_s - quiet_s, self._check_silence)
            return
        self._fail(Silence())

    def _stop_watchdog(self) -> None:
        self._silence.stop(self)
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self.abort()
        self._wake()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        self._last_byte_s = self._loop.time()
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Unavailable(f"the predictor does not speak HTTP: {error}"))
            return
        if self._take is not None:
            self._hand_on(self._take)
            return
        if self._buffered > BUFFER_LIMIT_BYTES:
            self._pause()
        self._wake()

    def _hand_on(self, take: Callable[[bytes], None]) -> None:
        if self._chunks:
            try:
                take(self._buffered_data())
            except Exception as error:  # its reader raises it
                self._fail(error)
                return
        if self._sink.is_full:
            self._pause()
            self._wake()
        elif self._complete:
            self._wake()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watchdog()
        self.lost = True
        if self._until_close and exc is None:
            self._complete = True
        self._writable.set()
        self._wake()

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive() and not self._bodiless
        self._head_complete = self.status >= 200
        if self._head_complete and self._bodiless:
            self.on_message_complete()
        elif self.status not in (204, 304):
            self._until_close = not self.headers.keys() & {"content-length", "transfer-encoding"}

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if not self._head_complete:  # 1xx: the answer proper follows
            self.headers.clear()
            self.raw_headers.clear()
            return
        self._complete = True
        self._stop_watchdog()
        if self._on_settled is not None:
            self._on_settled()


class BodyPieces:
    """The pieces of a body as they come; `pour` is `poured_events`'. Raises ConnectionLost, Silence."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection

    def __aiter__(self) -> BodyPieces:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.read()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def pour(self, sink: Sink) -> None:
        await self._connection.pour(sink.write, sink)
