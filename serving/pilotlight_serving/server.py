"""The server: one port for V2 over HTTP and gRPC, and a drain that lets requests end.

Composition only: `HttpEdge` accepts, `HttpApp` answers HTTP, `GrpcServer` gRPC, `drain.decide` says when to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import Any

import uvloop

from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.drain import DrainPhase, DrainSpec, decide
from pilotlight_serving.grpc_server import GrpcServer
from pilotlight_serving.http_app import HttpApp
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_wire.grpc_splice import GrpcSplice, connect_to
from pilotlight_wire.handlers import ServedModel
from pilotlight_wire.http_edge import HttpEdge
from pilotlight_wire.one_port import ProtocolFactory, listen

_DRAIN_TICK_S = 0.02
_CLOSE_TIMEOUT_S = 2.0

_log = logging.getLogger("pilotlight.server")


class Server:
    """Serves one model until a signal ends it.

    `listener`: a socket from `one_port.listen` that was bound before the web stack was imported, so that early
    clients wait in its backlog instead of being refused; made here when None. The server closes it.
    """

    def __init__(self, model: ServedModel, settings: ServerSettings, listener: socket.socket | None = None) -> None:
        self._settings = settings
        self._listener = listener
        self._limiter = ConcurrencyLimiter(settings.max_concurrent_requests)
        self._plane = DataPlane(model, self._limiter, model_control=settings.model_control)
        routes = [*V2Routes(self._plane, lambda: _document(model)).routes(), *model.routes()]
        self._app = HttpApp(routes, model, self._limiter, settings)
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
        settings = self._settings
        grpc = GrpcServer(self._plane, self._limiter, settings)
        listener = self._listener or listen(settings.host, settings.http_port)
        port = self._edge.port(listener, self._app, self._http2(grpc) if settings.grpc else None)
        _log.info("serving HTTP/1.1%s on port %d", " and gRPC" if settings.grpc else "", listener.getsockname()[1])
        try:
            await self._signals.get()
            forced = await self._drain()
            await port.close_listener()
            grace_s = 0.1 if forced else _CLOSE_TIMEOUT_S
            await self._edge.end(grace_s)
            await grpc.stop(grace_s)
            await port.wait_empty(grace_s)
            self._edge.abort()
            return 128 + forced if forced else 0
        finally:
            await port.close_listener()
            await grpc.stop(0)

    def _http2(self, grpc: GrpcServer) -> ProtocolFactory:
        connect = connect_to(grpc.path)
        return lambda on_closed: GrpcSplice(connect, self._settings.keep_alive_s, on_closed)

    @contextlib.contextmanager
    def _signal_handlers(self) -> Any:
        loop = asyncio.get_running_loop()

        def note(number: int) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                self._signals.put_nowait(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, note, number)
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


def _document(model: ServedModel) -> dict[str, Any]:
    from pilotlight_serving.openapi_document import openapi_document  # not before somebody asks for it

    return openapi_document(model)
