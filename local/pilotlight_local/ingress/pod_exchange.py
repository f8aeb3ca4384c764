"""One HTTP request at one of the pods of its revision: waits for a place, sends the request, hands the answer on.

Must not: choose revisions, or know what the bytes mean.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pilotlight_local.activator.activator import Backend
from pilotlight_local.errors import ActivationTimeout, UpstreamFailed
from pilotlight_local.ingress.headers import answer_headers
from pilotlight_local.ingress.table import Route
from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_wire.http_answer import HttpAnswer
from pilotlight_wire.http_connection import ConnectFailed, ConnectionLost, ConnectionPool, HttpConnection, Silence
from pilotlight_wire.server_timing import Phase

CONNECT_ATTEMPTS = 3
# A pod that ended the connection may have run the request before (RFC 9110 section 9.2.2).
REPEATABLE = (b"GET ", b"HEAD ", b"OPTIONS ")


class PodExchange:
    """`pool_of`: the connections to a pod. `head` and `body`: the request as the pod gets it, `body` None for none."""

    def __init__(
        self,
        route: Route,
        pool_of: Callable[[Backend], ConnectionPool],
        head: bytes,
        body: AsyncIterator[bytes] | None,
        deadline_s: float,
        *,
        needs_model: bool,
    ) -> None:
        self._route = route
        self._pool_of = pool_of
        self._head = head
        self._body = body
        self._deadline_s = deadline_s
        self._needs_model = needs_model
        self._held = Phase("activate", 0.0, route.component)
        self.phases: list[Phase] = []

    async def answer(self, answer: HttpAnswer) -> None:
        """Hold, forward and stream back. Raises PilotlightError while nothing has been answered."""
        async with self.upstream() as upstream:
            await answer.pass_on(upstream.status, self._headers(upstream, answer))
            await self.copy(upstream, answer)

    def _headers(self, upstream: HttpConnection, answer: HttpAnswer) -> list[tuple[bytes, bytes]]:
        headers, self.phases = answer_headers(upstream.raw_headers, answer.request_id, self._held)
        if upstream.status in (204, 304):
            return [(name, value) for name, value in headers if name.lower() != b"content-length"]
        return headers

    async def copy(self, upstream: HttpConnection, answer: HttpAnswer) -> None:
        """The body of the answer, to its end; an end that is none is seen by the client as such."""
        try:
            async with asyncio.timeout_at(self._deadline_s):
                while piece := await upstream.read():
                    await answer.piece(piece)
        except (ConnectionLost, Silence, Unavailable, TimeoutError):
            await answer.cut()
        else:
            await answer.end()

    @asynccontextmanager
    async def upstream(self) -> AsyncIterator[HttpConnection]:
        """The pod's answer, its head read; leaving closes or returns the connection and gives the pod back."""
        for attempt in range(CONNECT_ATTEMPTS):
            held_from = time.monotonic()
            backend = await self._route.activator.acquire(self._deadline_s, needs_model=self._needs_model)
            self._held = Phase("activate", (time.monotonic() - held_from) * 1000, self._route.component)
            try:
                pool = self._pool_of(backend)
                try:
                    connection = await self._send(backend, pool)
                except ConnectFailed as error:
                    # Nothing of the request has left: another pod can still take it.
                    self._route.activator.suspect(backend)
                    if attempt + 1 == CONNECT_ATTEMPTS:
                        raise UpstreamFailed(f"{backend.name} does not accept connections; try again") from error
                    continue
                self.phases = answer_headers(connection.raw_headers, "", self._held)[1]
                try:
                    yield connection
                finally:
                    pool.release(connection)
                return
            finally:
                self._route.activator.release(backend)

    async def _send(self, backend: Backend, pool: ConnectionPool) -> HttpConnection:
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await pool.exchange(self._head, self._body, repeatable=self._head.startswith(REPEATABLE))
        except (TimeoutError, DeadlineExceeded) as error:
            raise ActivationTimeout(
                f"{self._route.revision} did not answer within its timeout of {self._route.timeout_s:.0f} s"
            ) from error
        except ConnectFailed:
            raise
        except Unavailable as error:
            raise UpstreamFailed(f"{backend.name} broke the connection before it answered; try again") from error
