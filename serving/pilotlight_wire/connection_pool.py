"""Keep-alive connections to one upstream server: which of them a request is sent on, and when another is opened.

It must not know what is sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.shared_timer import SharedTimer
from pilotlight_wire.upstream_address import UpstreamAddress

IDLE_CONNECTIONS_LIMIT = 64


class ConnectFailed(Unavailable):
    """No connection could be made: nothing of the request has left."""


class ConnectionPool:
    """Idle connections to one server, the last used first; `exchange` opens another when there is none.

    `idle_s`: how long they are kept, shorter than the server keeps them; None where it says so itself by closing.
    """

    def __init__(
        self, address: UpstreamAddress, *, connect_timeout_s: float, timeout_s: float, idle_s: float | None = None
    ) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[HttpConnection] = []
        self._silence = SharedTimer(timeout_s)
        self._unused = None if idle_s is None else SharedTimer(idle_s)
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
                f"the predictor sent nothing for {self._silence.after_s:g} s; raise "
                "--predictor_request_timeout_seconds if its answers may take longer"
            )
        return Unavailable("the predictor closed the connection before its answer was complete; try again")

    def settle(self, connection: HttpConnection) -> None:
        """Keep a connection once its answer, of which nothing more is needed, has come to its end."""
        connection.settle(lambda: self.release(connection))

    def release(self, connection: HttpConnection) -> None:
        """Keep a connection whose answer was read to its end; close any other, which aborts the work behind it."""
        if connection.reusable and len(self._idle) < IDLE_CONNECTIONS_LIMIT:
            self._idle.append(connection)
            if self._unused is not None:
                self._unused.start(connection, lambda: self._drop_idle(connection))
        else:
            connection.abort()

    def _drop_idle(self, connection: HttpConnection) -> None:
        self._idle.remove(connection)
        connection.abort()

    def close(self) -> None:
        while (connection := self._reuse()) is not None:
            connection.abort()

    def _reuse(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if self._unused is not None:
                self._unused.stop(connection)
            if not connection.lost:
                return connection
        return None

    async def _open(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(self._silence),
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
