"""The ports of the platform that clients connect to: the ingress, and one for each in-cluster address.

Composition of wire's edge with `HttpIngress` and `GrpcClientSide`. Must not: choose revisions.
"""

import socket

from pilotlight_local.ingress.grpc_proxy import Find, GrpcClientSide, find_by_host
from pilotlight_local.ingress.http_ingress import HttpIngress
from pilotlight_local.ingress.routes import Destination, EndpointName, EndpointTable
from pilotlight_specs.desired import Role
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_edge import HttpEdge
from pilotlight_wire.http_exchange import Asgi
from pilotlight_wire.one_port import OnePort

MAX_CONNECTIONS = 16_384
KEEP_ALIVE_S = 75


class IngressPorts:
    """They have the same bounds and connections to pods, and end together."""

    def __init__(self, table: EndpointTable, cors: CorsPolicy) -> None:
        bounds = EdgeBounds(max_connections=MAX_CONNECTIONS, keep_alive_s=KEEP_ALIVE_S, cors=cors)
        self._table = table
        self._edge = HttpEdge(bounds)
        self._http = HttpIngress(table, bounds)

    def open_ingress(self, listener: socket.socket) -> OnePort:
        """Requests are routed by host, and by path."""
        return self._open(listener, self._http, find_by_host(self._table))

    def open_service(self, listener: socket.socket, endpoint: EndpointName, component: Role) -> OnePort:
        """Every request is for this component."""
        app = self._http.service(endpoint, component)
        return self._open(listener, app, lambda authority, path: Destination(endpoint, component, path))

    def _open(self, listener: socket.socket, app: Asgi, find: Find) -> OnePort:
        return self._edge.port(listener, app, lambda on_closed: GrpcClientSide(self._table, find, on_closed))

    async def end(self, grace_s: float) -> None:
        """Answers that are on their way have `grace_s`, then every connection ends."""
        await self._edge.end(grace_s)
        self._edge.abort()
        self._http.close()
