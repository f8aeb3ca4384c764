"""Loopback addresses that stand for in-cluster services: what a transformer gets as `--predictor_host`.

Name lookup of `*.localhost` is not to be relied on, so each component that is called by another gets a listener of its
own, opened when the caller starts first. Must not: choose revisions (the ingress does).
"""

import socket
from collections.abc import Callable

from pilotlight_local.ingress.routes import EndpointName
from pilotlight_local.pods.loopback_ports import LOOPBACK
from pilotlight_specs.desired import Role
from pilotlight_wire.one_port import OnePort, listen

OpenPort = Callable[[socket.socket, EndpointName, Role], OnePort]
"""Serves one component to whoever connects to the socket."""


class ServiceAddresses:
    """Opens one listener per called component, and closes it with its endpoint."""

    def __init__(self, open_port: OpenPort) -> None:
        self._open_port = open_port
        self._ports: dict[tuple[EndpointName, Role], tuple[OnePort, int]] = {}

    def address(self, endpoint: EndpointName, component: Role) -> str:
        """`host:port` of the component; connections are accepted from now on."""
        key = (endpoint, component)
        if key not in self._ports:
            listener = listen(LOOPBACK, 0)
            number = listener.getsockname()[1]
            self._ports[key] = (self._open_port(listener, endpoint, component), number)
        return f"{LOOPBACK}:{self._ports[key][1]}"

    async def close(self, endpoint: EndpointName) -> None:
        """Close the endpoint's listeners."""
        for key in [key for key in self._ports if key[0] == endpoint]:
            port, _ = self._ports.pop(key)
            await port.close_listener()
