"""The server of one model: V2 over HTTP and gRPC on one port.

Composition only: `HttpApp` answers HTTP, `GrpcServer` gRPC, `DrainedServer` accepts and ends.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import Any

from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.drained_server import DrainedServer, grpc_on
from pilotlight_serving.grpc_server import GrpcServer
from pilotlight_serving.http_app import HttpApp, ModelRouter
from pilotlight_serving.metrics import predict_observer
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_wire.handlers import ServedModel


class Server:
    """Serves one model until a signal ends it.

    `listener`: a socket from `one_port.listen` that was bound before the web stack was imported, so that early
    clients wait in its backlog instead of being refused; made here when None. The server closes it.
    """

    def __init__(self, model: ServedModel, settings: ServerSettings, listener: socket.socket | None = None) -> None:
        limiter = ConcurrencyLimiter(settings.max_concurrent_requests)
        plane = DataPlane(model, limiter, model_control=settings.model_control)
        routes = [*V2Routes(plane, lambda: _document(model)).routes(), *model.routes()]
        app = HttpApp(ModelRouter(routes, model), limiter, settings, predict_observer(model.name))
        http2 = grpc_on(GrpcServer(plane, limiter, settings), settings) if settings.grpc else None
        self._server = DrainedServer(app, limiter, settings, listener, http2)

    def run(self, lifespan: contextlib.AbstractAsyncContextManager[Any]) -> int:
        """Serve on a new event loop; returns the exit status."""
        return self._server.run(lifespan)

    async def serve(self, lifespan: contextlib.AbstractAsyncContextManager[Any]) -> int:
        """As `DrainedServer.serve`."""
        return await self._server.serve(lifespan)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Begin to drain, as the signal would."""
        self._server.stop(sig)

    def fail(self, why: str) -> None:
        """End because this server can never serve; clients that still come are told why."""
        self._server.fail(why)


def _document(model: ServedModel) -> dict[str, Any]:
    from pilotlight_serving.openapi_document import openapi_document  # not before somebody asks for it

    return openapi_document(model)
