"""One port that serves until a signal ends it, and lets requests end first.

Composition only: `HttpEdge` accepts, an app answers HTTP, whoever is passed in HTTP/2; `drain.decide` says when to end.
It must not know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop

from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.drain import DrainPhase, DrainSpec, decide
from pilotlight_serving.grpc_server import GrpcServer
from pilotlight_serving.metrics import IN_FLIGHT
from pilotlight_serving.settings import ServerSettings
from pilotlight_wire.grpc_splice import GrpcSplice, connect_to
from pilotlight_wire.http_edge import HttpEdge
from pilotlight_wire.http_exchange import Asgi
from pilotlight_wire.one_port import ProtocolFactory, listen

_DRAIN_TICK_S = 0.02
_CLOSE_TIMEOUT_S = 2.0

_log = logging.getLogger("pilotlight.server")


@dataclass(frozen=True, slots=True)
class Http2:
    """Who answers HTTP/2. `stop`: end calls that still run after so many seconds, and every connection."""

    protocol: ProtocolFactory
    stop: Callable[[float], Awaitable[None]]


def grpc_on(grpc: GrpcServer, settings: ServerSettings) -> Http2:
    """HTTP/2 on the same port is gRPC's."""
    connect = connect_to(grpc.path)
    return Http2(lambda on_closed: GrpcSplice(connect, settings.keep_alive_s, on_closed), grpc.stop)


class DrainedServer:
    """`listener`: a socket from `one_port.listen`, which is closed here; made here when None."""

    def __init__(
        self,
        app: Asgi,
        limiter: ConcurrencyLimiter,
        settings: ServerSettings,
        listener: socket.socket | None = None,
        http2: Http2 | None = None,
    ) -> None:
        self._app = app
        self._limiter = limiter
        IN_FLIGHT.set_function(lambda: limiter.in_flight)
        self._settings = settings
        self._listener = listener
        self._http2 = http2
        self._edge = HttpEdge(settings)
        self._signals: asyncio.Queue[int] = asyncio.Queue(maxsize=8)

    def run(self, lifespan: contextlib.AbstractAsyncContextManager[Any]) -> int:
        """Serve on a new event loop; returns the exit status."""
        status: int = uvloop.run(self.serve(lifespan))
        return status

    async def serve(self, lifespan: contextlib.AbstractAsyncContextManager[Any]) -> int:
        """Serve inside `lifespan` until SIGTERM or SIGINT and the drain; 0, or 128 + the second signal's number.

        The lifespan is entered before the first connection is accepted and left when the last one is closed, so it must
        start what takes long in a task of its own.
        """
        with self._signal_handlers():
            async with lifespan:
                return await self._serve_until_drained()

    async def _serve_until_drained(self) -> int:
        listener = self._listener or listen(self._settings.host, self._settings.http_port)
        http2 = self._http2
        port = self._edge.port(listener, self._app, http2.protocol if http2 is not None else None)
        # What was made until now lives as long as the process; a collection that walked it would hold every stream.
        gc.freeze()
        _log.info("serving HTTP/1.1%s on port %d", " and gRPC" if http2 else "", listener.getsockname()[1])
        try:
            await self._signals.get()
            forced = await self._drain()
            await port.close_listener()
            grace_s = 0.1 if forced else _CLOSE_TIMEOUT_S
            await self._edge.end(grace_s)
            await self._stop_http2(grace_s)
            await port.wait_empty(grace_s)
            self._edge.abort()
            return 128 + forced if forced else 0
        finally:
            await port.close_listener()
            await self._stop_http2(0)

    async def _stop_http2(self, grace_s: float) -> None:
        if self._http2 is not None:
            await self._http2.stop(grace_s)

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Begin to drain, as the signal would."""
        with contextlib.suppress(asyncio.QueueFull):
            self._signals.put_nowait(sig)

    def fail(self, why: str) -> None:
        """End because this server can never serve; clients that still come are told why."""
        self._limiter.why_ending = why
        self.stop()

    async def _drain(self) -> int:
        """Wait until the drain policy lets the server end; returns the second signal's number, 0 when none came."""
        settings = self._settings
        spec = DrainSpec(settings.drain_timeout_s, settings.accept_while_draining_s, settings.drain_quiet_s)
        limiter = self._limiter
        limiter.start_draining()
        _log.info("draining: %d requests in flight, at most %g s", limiter.in_flight, spec.timeout_s)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        self._edge.close_after_answers()
        while True:
            phase = decide(spec, limiter.in_flight, limiter.quiet_for_s(), loop.time() - started_at)
            if phase in (DrainPhase.EXIT, DrainPhase.CUT):
                if phase is DrainPhase.CUT:
                    _log.warning("the drain's time is over; %d requests are cut", limiter.in_flight)
                limiter.refusing = True
                return 0
            limiter.refusing = phase is DrainPhase.REFUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TICK_S):
                    number = await self._signals.get()
                    _log.warning("a second signal: ending at once")
                    limiter.refusing = True
                    return number
