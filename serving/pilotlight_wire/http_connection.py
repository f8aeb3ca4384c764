"""One keep-alive HTTP/1.1 connection to an upstream server, and the pool of them.

Responsible for getting bytes of a response body to their reader with the least work per event: httptools' parser sits
directly on the transport, and what arrives while the reader is busy is handed over in one piece. It must not know what
the bytes mean.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_wire.upstream_address import UpstreamAddress

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


class ConnectFailed(Unavailable):
    """No connection could be made: nothing of the request has left."""


class Silence(Exception):
    """No byte came within the timeout."""


class HttpConnection(asyncio.Protocol):
    """Carries one exchange at a time: `send`, then `head`, then `read` until it returns b"".

    `headers`: of the answer, lower-case names; `raw_headers`: as they came, repeated ones too.
    """

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._last_byte_s = 0.0
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost = False
        self.exchanges = 0
        self._begin(b"")

    def _begin(self, request: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.exchanges += 1
        self._chunks: list[bytes] = []
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
        """Write a request, or its head; the answer has `timeout_s` to show its next byte, again and again."""
        if self._transport is None or self.lost:
            raise ConnectionLost(before_answer=True)
        self._begin(request)
        self._last_byte_s = self._loop.time()
        self._watchdog = self._loop.call_later(self._timeout_s, self._check_silence)
        self._transport.write(request)

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
    def _is_uploading(self) -> bool:
        return self._uploading is not None and not self._uploading.done()

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


class ConnectionPool:
    """Idle connections to one server, the last used first; `exchange` opens another when there is none.

    `idle_s`: how long they are kept, shorter than the server keeps them; None where it says so itself by closing.
    """

    def __init__(
        self, address: UpstreamAddress, *, connect_timeout_s: float, timeout_s: float, idle_s: float | None = None
    ) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._idle: list[HttpConnection] = []
        self._tls = ssl.create_default_context() if address.use_tls else None

    async def exchange(
        self, request: bytes, body: AsyncIterator[bytes] | None = None, *, repeatable: bool = True
    ) -> HttpConnection:
        """Send a request, whole or a head and its body, and wait for the answer's head; hand the connection back with
        `release`.

        An idle connection may be closed by the peer at the very moment it is used: when no byte of an answer came, the
        request is sent again on a fresh one, unless it is not `repeatable` or has a body of its own. Raises
        ConnectFailed, Unavailable, DeadlineExceeded, and what `body` raises.
        """
        if body is not None:
            return await self._upload(request, body)
        connection = self._reuse()
        while True:
            fresh = connection is None
            connection = connection or await self._open()
            try:
                connection.send(request)
                await connection.head()
            except ConnectionLost as error:
                if fresh or not repeatable or not error.before_answer:
                    raise self.explain(error) from error
                connection = None
                continue
            except Silence as error:
                raise self.explain(error) from error
            except BaseException:
                connection.abort()
                raise
            return connection

    async def _upload(self, head: bytes, body: AsyncIterator[bytes]) -> HttpConnection:
        connection = self._reuse() or await self._open()
        try:
            connection.send(head)
            sending = connection.upload(body)
            answering = asyncio.ensure_future(connection.head())
            try:
                await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    # What went wrong with the body is the reason why there is no answer.
                    sending.result()
                await answering
            finally:
                answering.cancel()
                await asyncio.wait((answering,))
        except (ConnectionLost, Silence) as error:
            connection.abort()
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
            if self._idle_s is not None:
                asyncio.get_running_loop().call_later(self._idle_s, self._drop_idle, connection, connection.exchanges)
        else:
            connection.abort()

    def _drop_idle(self, connection: HttpConnection, exchanges: int) -> None:
        if connection in self._idle and connection.exchanges == exchanges:
            self._idle.remove(connection)
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
            raise ConnectFailed(
                f"the predictor did not accept a connection in {self._connect_timeout_s:g} s"
            ) from error
        except OSError as error:
            raise ConnectFailed(f"cannot connect to the predictor at {self._address.authority}: {error}") from error
        return connection
