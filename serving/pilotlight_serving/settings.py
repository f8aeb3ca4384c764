"""What an operator can set of the serving shell."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_wire.edge_bounds import EdgeBounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings(EdgeBounds):
    """Limits and times of one server.

    `host`: "" listens on IPv6 and IPv4. `http_port`: the one port for HTTP/1.1 and, with `grpc`, for h2c; 0 lets the
    kernel choose. `max_bodies_bytes`: of the bodies of all running requests. `drain_timeout_s`: how long in-flight
    requests may go on after SIGTERM. `accept_while_draining_s`: how long requests that still arrive then are served
    (endpoint removal takes that long to spread), later ones get 503. `drain_quiet_s`: an idle server ends after so long
    without a request. `model_control`: whether clients may load and unload the model; off, because whoever may ask for
    text could switch the endpoint off.
    """

    http_port: int = 8080
    host: str = ""
    grpc: bool = True
    max_concurrent_requests: int = 1024
    max_bodies_bytes: int = 1 << 30
    drain_timeout_s: float = REQUEST_TIMEOUT_S
    accept_while_draining_s: float = 5.0
    drain_quiet_s: float = 0.5
    model_control: bool = False
