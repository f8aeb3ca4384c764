"""One HTTP request at one of the pods of its revision: waits for a place, sends the request, hands the answer on.

Which headers end at this hop, and which are added, is decided here too (RFC 9110 section 7.6.1). Must not: choose
revisions, or know what the bytes mean.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from pilotlight_local.activator.activator import Backend
from pilotlight_local.errors import ActivationTimeout, UpstreamFailed
from pilotlight_local.ingress.routes import Route, needs_model
from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_wire.connection_pool import ConnectFailed, ConnectionPool
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.http_exchange import HttpAnswer, body_pieces, timing_entry
from pilotlight_wire.upstream_address import UpstreamAddress

RawHeader = tuple[bytes, bytes]

CONNECT_ATTEMPTS = 3
CONNECT_TIMEOUT_S = 10.0
# Below the keep-alive of uvicorn (5 s), so that a pod never closes a connection that is just being reused.
UPSTREAM_KEEPALIVE_S = 2.0
LOOPBACK = "127.0.0.1"
# A pod that ended the connection may have run the request before (RFC 9110 section 9.2.2).
REPEATABLE = (b"GET ", b"HEAD ", b"OPTIONS ")

PROGRESS = "x-pilotlight-progress"
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The edge reads and answers `Expect`; how long a body is it says by itself.
_ENDS_HERE = (b"expect", PROGRESS.encode())


class PodConnections:
    """The idle connections to all pods."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[Backend, ConnectionPool] = WeakKeyDictionary()

    def to(self, backend: Backend, timeout_s: float) -> ConnectionPool:
        """Connections to this pod, on which it may be silent for so long."""
        pool = self._pools.get(backend)
        if pool is None:
            address = UpstreamAddress(LOOPBACK, backend.port, f"{LOOPBACK}:{backend.port}")
            pool = self._pools[backend] = ConnectionPool(
                address, connect_timeout_s=CONNECT_TIMEOUT_S, timeout_s=timeout_s, idle_s=UPSTREAM_KEEPALIVE_S
            )
        return pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class PodExchange:
    """`path`: as the pod gets it, with the query. `held`, `server_timing`: what the header of that name says of this
    hop, and in all, once the pod has answered."""

    def __init__(
        self,
        route: Route,
        connections: PodConnections,
        method: str,
        path: str,
        answer: HttpAnswer,
        body_stall_timeout_s: float,
    ) -> None:
        self._route = route
        self._connections = connections
        self._answer = answer
        self._method, self._path = method, path
        self._head, chunked = request_head(method, path.encode("latin-1"), answer.raw_headers, answer.request_id)
        self._body = body_pieces(answer.receive, body_stall_timeout_s, chunked) if answer.has_body else None
        self._deadline_s = asyncio.get_running_loop().time() + route.timeout_s
        self.held = ""
        self.server_timing = ""

    async def run(self) -> None:
        """Hold, forward and stream back. Raises PilotlightError while nothing has been answered."""
        async with self.upstream() as upstream:
            headers = answer_headers(upstream.raw_headers, self._answer.request_id, self.server_timing)
            if upstream.status in (204, 304):
                headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
            await self._answer.pass_on(upstream.status, headers)
            await self.copy(upstream)

    async def copy(self, upstream: HttpConnection) -> None:
        """The body of the answer, to its end; an end that is none is seen by the client as such."""
        answer = self._answer
        try:
            async with asyncio.timeout_at(self._deadline_s):
                await answer.pieces(upstream.pieces())
        except (ConnectionLost, Silence, Unavailable, TimeoutError):
            await answer.cut()
        else:
            await answer.end()

    @asynccontextmanager
    async def upstream(self) -> AsyncIterator[HttpConnection]:
        """The pod's answer, its head read; leaving closes or returns the connection and gives the pod back."""
        route = self._route
        for attempt in range(CONNECT_ATTEMPTS):
            held_from = time.monotonic()
            backend = await route.activator.acquire(self._deadline_s, self._needs_model)
            self.held = timing_entry("activate", (time.monotonic() - held_from) * 1000, route.component)
            try:
                pool = self._connections.to(backend, route.timeout_s)
                try:
                    connection = await self._send(backend, pool)
                except ConnectFailed as error:
                    # Nothing of the request has left: another pod can still take it.
                    route.activator.suspect(backend)
                    if attempt + 1 == CONNECT_ATTEMPTS:
                        raise UpstreamFailed(f"{backend.name} does not accept connections; try again") from error
                    continue
                self.server_timing = all_timing(self.held, connection.raw_headers)
                try:
                    yield connection
                finally:
                    pool.release(connection)
                return
            finally:
                route.activator.release(backend)

    def _needs_model(self) -> bool:
        return needs_model(self._method, self._path)

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


def end_to_end(headers: Iterable[RawHeader], also_drop: Iterable[bytes] = ()) -> list[RawHeader]:
    """The headers that go on to the next hop, repeated ones kept, in their order."""
    given = list(headers)
    named = {
        token.strip().lower() for name, value in given if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = HOP_BY_HOP | named | set(also_drop)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def request_head(method: str, target: bytes, headers: Iterable[RawHeader], request_id: str) -> tuple[bytes, bool]:
    """The head the pod gets: the client's end-to-end headers and a request id; and whether the body goes in chunks."""
    given = list(headers)
    kept = end_to_end(given, _ENDS_HERE)
    chunked = any(name == b"transfer-encoding" for name, _ in given)
    if chunked:
        kept = [(name, value) for name, value in kept if name != b"content-length"]
        kept.append((b"transfer-encoding", b"chunked"))
    if not any(name == b"x-request-id" for name, _ in kept):
        kept.append((b"x-request-id", request_id.encode("ascii")))
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in kept)]
    return b"\r\n".join(lines) + b"\r\n\r\n", chunked


def all_timing(held: str, headers: Iterable[RawHeader]) -> str:
    """`Server-Timing` with this hop's entry before the pod's own."""
    return ", ".join([held, *(value.decode("latin-1") for name, value in headers if name.lower() == b"server-timing")])


def answer_headers(headers: Iterable[RawHeader], request_id: str, server_timing: str) -> list[RawHeader]:
    """The pod's end-to-end headers and what every answer here has; it is the edge that dates it."""
    kept = end_to_end(headers, (b"server-timing", b"date"))
    kept.append((b"server-timing", server_timing.encode("latin-1")))
    names = {name.lower() for name, _ in kept}
    defaults = ((b"x-request-id", request_id.encode("ascii")), (b"server", b"pilotlight"))
    return [*kept, *(pair for pair in defaults if pair[0] not in names)]


def wants_progress(headers: Mapping[str, str]) -> bool:
    """Whether the client asked for progress lines while it waits."""
    return headers.get(PROGRESS) == "1" and "text/event-stream" in headers.get("accept", "").lower()
