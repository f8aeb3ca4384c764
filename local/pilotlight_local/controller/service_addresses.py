"""Loopback addresses that stand for in-cluster services: what a transformer gets as `--predictor_host`.

Name lookup of `*.localhost` is not to be relied on, so each component that is called by another gets a listener of its
own, opened when the caller starts first. Must not: choose revisions (the ingress does).
"""

import asyncio
import socket
from collections.abc import Callable

from pilotlight_local.ingress.routes import Component, EndpointName
from pilotlight_local.pods.loopback_ports import LOOPBACK

ServiceProtocol = Callable[[EndpointName, Component], asyncio.Protocol]


class ServiceAddresses:
    """Opens one listener per called component, and closes it with its endpoint."""

    def __init__(self, protocol: ServiceProtocol) -> None:
        self._protocol = protocol
        self._sockets: dict[tuple[EndpointName, Component], socket.socket] = {}
        self._servers: dict[tuple[EndpointName, Component], asyncio.Task[asyncio.Server]] = {}

    def address(self, endpoint: EndpointName, component: Component) -> str:
        """`host:port` of the component; connections are accepted from now on."""
        key = (endpoint, component)
        if key not in self._sockets:
            listener = socket.create_server((LOOPBACK, 0), backlog=1024)
            listener.setblocking(False)
            self._sockets[key] = listener
            loop = asyncio.get_running_loop()
            self._servers[key] = loop.create_task(
                loop.create_server(lambda: self._protocol(endpoint, component), sock=listener)
            )
        return f"{LOOPBACK}:{self._sockets[key].getsockname()[1]}"

    async def close(self, endpoint: EndpointName) -> None:
        """Close the endpoint's listeners."""
        for key in [key for key in self._servers if key[0] == endpoint]:
            server = await self._servers.pop(key)
            server.close()
            del self._sockets[key]
