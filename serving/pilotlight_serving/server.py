"""The server: KServe's ModelServer with one port, our routes on its app, and a drain that lets requests end.

Composition only: `HttpApp` answers HTTP, `InferenceService` gRPC, `OnePort` accepts, `drain.decide` says when to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from pilotlight_serving.concurrency_limiter import Gate
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.drain import DrainPhase, DrainSpec, decide
from pilotlight_serving.grpc_service import grpc_server
from pilotlight_serving.http_app import HttpApp
from pilotlight_serving.http_protocol import HttpProtocol
from pilotlight_serving.kserve_sdk import ModelServer, app
from pilotlight_serving.openapi_document import openapi_document
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_wire.handlers import ServedModel
from pilotlight_wire.one_port import OnePort, listen

_DRAIN_TICK_S = 0.02
_CLOSE_TIMEOUT_S = 2.0

_log = logging.getLogger("pilotlight.server")


class Server(ModelServer):  # type: ignore[misc]
    """Serves one model until a signal ends it.

    `listener`: a socket from `one_port.listen` that was bound before the web stack was imported, so that early
    clients wait in its backlog instead of being refused; made here when None. The server closes it.
    """

    def __init__(self, model: ServedModel, settings: ServerSettings, listener: socket.socket | None = None) -> None:
        super().__init__(http_port=settings.http_port, enable_grpc=settings.grpc, enable_latency_logging=False)
        self._settings = settings
        self._listener = listener
        self._gate = Gate(settings.max_concurrent_requests)
        self._plane = DataPlane(model, self._gate, self.registered_models, model_control=settings.model_control)
        document = openapi_document(model)
        routes = [*V2Routes(self._plane, document).routes(), *model.routes()]
        self._app = HttpApp(routes, model, self._gate, settings, app)
        self._state = ServerState()
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
        self.setup_event_loop()
        with self._signal_handlers():
            async with lifespan:
                return await self._serve_until_drained()

    async def _serve_until_drained(self) -> int:
        async with self._grpc() as (grpc_path, stop_grpc), self._port(grpc_path) as port:
            await self._signals.get()
            forced = await self._drain()
            await port.close_listener()
            grace_s = 0.1 if forced else _CLOSE_TIMEOUT_S
            await self._end_http(grace_s)
            await stop_grpc(grace_s)
            port.close_splices()
            await port.wait_empty(grace_s)
            for connection in list(self._state.connections):
                connection.transport.abort()
            return 128 + forced if forced else 0

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
        self._gate.why_ending = why
        self.stop()

    @contextlib.asynccontextmanager
    async def _grpc(self) -> AsyncIterator[tuple[str | None, Any]]:
        async def nothing(grace_s: float) -> None:
            return

        if not self._settings.grpc:
            yield None, nothing
            return
        server = grpc_server(self._plane, self._gate, self._settings)

        async def stop(grace_s: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + 1):
                    await server.stop(grace_s)

        path = f"pilotlight-{secrets.token_hex(8)}"
        server.add_insecure_port(f"unix-abstract:{path}")
        await server.start()
        try:
            yield path, stop
        finally:
            await stop(0)

    @contextlib.asynccontextmanager
    async def _port(self, grpc_path: str | None) -> AsyncIterator[OnePort]:
        config = Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._settings.keep_alive_s,
        )
        config.load()
        listener = self._listener or listen(self._settings.host, self._settings.http_port)
        self.http_port = listener.getsockname()[1]
        port = OnePort(
            listener,
            lambda on_closed: HttpProtocol(config, self._state, self._settings, on_closed),
            grpc_path,
            self._settings.max_connections,
            self._settings.header_timeout_s,
        )
        date = asyncio.create_task(self._keep_date_header())
        port.start()
        _log.info("serving HTTP/1.1%s on port %d", " and gRPC" if grpc_path else "", self.http_port)
        try:
            yield port
        finally:
            await port.close_listener()
            date.cancel()

    async def _keep_date_header(self) -> None:
        while True:
            # One list for all: uvicorn's protocols read it at each request.
            self._state.default_headers[:] = [(b"date", formatdate(usegmt=True).encode("ascii"))]
            await asyncio.sleep(1)

    async def _drain(self) -> int:
        """Wait until the drain policy lets the server end; returns the second signal's number, 0 when none came."""
        settings = self._settings
        spec = DrainSpec(settings.drain_timeout_s, settings.accept_while_draining_s, settings.drain_quiet_s)
        gate = self._gate
        gate.start_draining()
        _log.info("draining: %d requests in flight, at most %g s", gate.in_flight, spec.timeout_s)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        for connection in list(self._state.connections):
            cycle = connection.cycle
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False
        while True:
            phase = decide(spec, gate.in_flight, gate.quiet_for_s(), loop.time() - started_at)
            if phase in (DrainPhase.EXIT, DrainPhase.CUT):
                if phase is DrainPhase.CUT:
                    _log.warning("the drain's time is over; %d requests are cut", gate.in_flight)
                gate.refusing = True
                return 0
            gate.refusing = phase is DrainPhase.REFUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TICK_S):
                    number = await self._signals.get()
                    _log.warning("a second signal: ending at once")
                    gate.refusing = True
                    return number

    async def _end_http(self, grace_s: float) -> None:
        """Cancel what still runs, then close every connection that has sent its response."""
        tasks = set(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for connection in list(self._state.connections):
            connection.shutdown()
