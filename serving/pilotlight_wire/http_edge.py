"""An ASGI app behind one port: uvicorn's protocol on every HTTP/1.1 connection, and how those connections end.

Composition of `OnePort` (accepts) and `HttpProtocol` (parses). It must not know routes, or what HTTP/2 is used for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_protocol import HttpProtocol
from pilotlight_wire.one_port import OnePort, ProtocolFactory


class HttpEdge:
    """`port` may be called for several listeners; they share the app and end together."""

    def __init__(self, app: Callable[..., Any], bounds: EdgeBounds) -> None:
        self._bounds = bounds
        self._state = ServerState()
        self._config = Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=bounds.keep_alive_s,
        )
        self._config.load()

    def protocol(self, on_closed: Callable[[], None]) -> HttpProtocol:
        """One connection's protocol; `on_closed` is called when it has ended."""
        return HttpProtocol(self._config, self._state, self._bounds, on_closed)

    @contextlib.asynccontextmanager
    async def port(self, listener: socket.socket, http2: ProtocolFactory | None) -> AsyncIterator[OnePort]:
        """Accept on `listener` while inside; without `http2` its clients are answered by the HTTP/1.1 parser."""
        port = OnePort(
            listener,
            self.protocol,
            http2,
            self._bounds.max_connections,
            first_byte_timeout_s=self._bounds.header_timeout_s,
        )
        date = asyncio.create_task(self._keep_date_header())
        port.start()
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

    def close_after_answers(self) -> None:
        """Running answers are the last of their connections."""
        for connection in list(self._state.connections):
            cycle = connection.cycle
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False

    async def end(self, grace_s: float) -> None:
        """Cancel what still runs, then close every connection that has sent its response."""
        tasks = set(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for connection in list(self._state.connections):
            connection.shutdown()

    def abort(self) -> None:
        """Drop every connection that is left."""
        for connection in list(self._state.connections):
            connection.transport.abort()
