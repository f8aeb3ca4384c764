"""One keep-alive HTTP/1.1 connection to the predictor, and the pool of them.

Responsible for getting bytes of a response body to their reader with the least work per event: httptools' parser sits
directly on the transport, and what arrives while the reader is busy is handed over in one piece. It must not know what
the bytes mean.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import httptools

from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_wire.upstream_address import PredictorAddress

BUFFER_LIMIT_BYTES = 256 * 1024
"""The socket is not read while this much waits for a slow reader; the predictor then coalesces its events."""

IDLE_CONNECTIONS_LIMIT = 64

SETTLE_TIMEOUT_S = 1.0
"""How long the end of an answer whose content is complete may take to come."""


class ConnectionLost(Exception):
    """The peer closed; `before_answer` tells that not one byte of the answer had come."""

    def __init__(self, *, before_answer: bool) -> None:
        super().__init__("the connection was closed")
        self.before_answer = before_answer


class Silence(Exception):
    """No byte came within the timeout."""


class HttpConnection(asyncio.Protocol):
    """Carries one exchange at a time: `send`, then `head`, then `read` until it returns b""."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._last_byte_s = 0.0
        self._paused = False
        self.lost = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._complete = False
        self._head_complete = False
        self._keep_alive = False
        self._answered = False
        self._on_settled: Callable[[], None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    # The reader's side

    def send(self, request: bytes) -> None:
        """Write a whole request; the answer has `timeout_s` to show its next byte, again and again."""
        if self._transport is None or self.lost:
            raise ConnectionLost(before_answer=True)
        self._begin()
        self._last_byte_s = self._loop.time()
        self._watchdog = self._loop.call_later(self._timeout_s, self._check_silence)
        self._transport.write(request)

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
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._last_byte_s = self._loop.time()
            self._transport.resume_reading()
        return data

    @property
    def reusable(self) -> bool:
        return self._complete and self._keep_alive and not self.lost

    def abort(self) -> None:
        """Drop the connection now: the peer sees it and ends its work."""
        self._stop_watchdog()
        self.lost = True
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
        if quiet_s < self._timeout_s:
            self._watchdog = self._loop.call_later(self._timeout_s - quiet_s, self._check_silence)
            return
        self._fail(Silence())

    def _stop_watchdog(self) -> None:
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
        if self._buffered > BUFFER_LIMIT_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watchdog()
        self.lost = True
        self._wake()

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        self._head_complete = self.status >= 200

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if not self._head_complete:  # 1xx: the answer proper follows
            self.headers.clear()
            return
        self._complete = True
        self._stop_watchdog()
        if self._on_settled is not None:
            self._on_settled()


class ConnectionPool:
    """Idle connections to one predictor, the last used first; `acquire` opens another when there is none."""

    def __init__(self, address: PredictorAddress, *, connect_timeout_s: float, timeout_s: float) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._idle: list[HttpConnection] = []
        self._tls = ssl.create_default_context() if address.use_tls else None

    async def exchange(self, request: bytes) -> HttpConnection:
        """Send a request and wait for the answer's head; hand the connection back with `release`.

        An idle connection may be closed by the peer at the very moment it is used: when no byte of an answer came, the
        request is sent again on a fresh one. Raises Unavailable, DeadlineExceeded.
        """
        connection = self._reuse()
        while True:
            fresh = connection is None
            connection = connection or await self._open()
            try:
                connection.send(request)
                await connection.head()
            except ConnectionLost as error:
                if fresh or not error.before_answer:
                    raise self.explain(error) from error
                connection = None
                continue
            except Silence as error:
                raise self.explain(error) from error
            except BaseException:
                connection.abort()
                raise
            return connection

    def explain(self, error: Exception) -> Unavailable | DeadlineExceeded:
        """What a failure of an exchange means to the client."""
        if isinstance(error, Silence):
            return DeadlineExceeded(
                f"the predictor sent nothing for {self._timeout_s:g} s; raise --predictor_request_timeout_seconds "
                "if its answers may take longer"
            )
        return Unavailable("the predictor closed the connection before its answer was complete; try again")

    def settle(self, connection: HttpConnection) -> None:
        """Keep a connection once its answer, of which nothing more is needed, has come to its end."""
        connection.settle(lambda: self.release(connection))

    def release(self, connection: HttpConnection) -> None:
        """Keep a connection whose answer was read to its end; close any other, which aborts the work behind it."""
        if connection.reusable and len(self._idle) < IDLE_CONNECTIONS_LIMIT:
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    def _reuse(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        return None

    async def _open(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(self._timeout_s),
                    self._address.host,
                    self._address.port,
                    ssl=self._tls,
                    server_hostname=self._address.authority.partition(":")[0] if self._tls else None,
                )
        except TimeoutError as error:
            raise Unavailable(f"the predictor did not accept a connection in {self._connect_timeout_s:g} s") from error
        except OSError as error:
            raise Unavailable(f"cannot connect to the predictor at {self._address.authority}: {error}") from error
        return connection
