"""ASGI apps behind ports: our protocol on every HTTP/1.1 connection, and how those connections end.

Composition of `OnePort` (accepts) and `HttpProtocol` (parses). It must not know routes, or what HTTP/2 is used for.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_protocol import App, EdgeState, HttpProtocol
from pilotlight_wire.one_port import OnePort, ProtocolFactory


class HttpEdge:
    """Any number of ports with the same bounds, whose connections end together."""

    def __init__(self, bounds: EdgeBounds) -> None:
        self._bounds = bounds
        self._state = EdgeState(bounds)

    def http(self, app: App) -> ProtocolFactory:
        """Makes the protocol of HTTP/1.1 connections that `app` answers."""
        return partial(HttpProtocol, app, self._state)

    def port(self, listener: socket.socket, app: App, http2: ProtocolFactory | None) -> OnePort:
        """Accept on `listener` from now on; without `http2` its clients are answered by the HTTP/1.1 parser."""
        port = OnePort(listener, self.http(app), http2, self._bounds.max_connections, self._bounds.header_timeout_s)
        port.start()
        return port

    def close_after_answers(self) -> None:
        """Running answers are the last of their connections."""
        for connection in self._state.connections:
            cycle = connection.cycle
            if cycle is not None and not cycle.complete:
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
