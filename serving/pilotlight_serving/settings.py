"""What an operator can set of the serving shell."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S

DEFAULT_MAX_BODY_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and times of one server.

    `host`: "" listens on IPv6 and IPv4. `http_port`: the one port for HTTP/1.1 and, with `grpc`, for h2c; 0 lets the
    kernel choose. `drain_timeout_s`: how long in-flight requests may go on after SIGTERM. `accept_while_draining_s`:
    how long requests that still arrive then are served (endpoint removal takes that long to spread), later ones get
    503. `drain_quiet_s`: an idle server ends after so long without a request. `keep_alive_s` is longer than Envoy's and
    queue-proxy's idle time-outs, so that they never reuse a connection that was just closed. `model_control`: whether
    clients may load and unload the model; off, because whoever may ask for text could switch the endpoint off.
    """

    http_port: int = 8080
    host: str = ""
    grpc: bool = True
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_header_bytes: int = 64 * 1024
    max_concurrent_requests: int = 1024
    max_connections: int = 4096
    header_timeout_s: float = 10.0
    body_stall_timeout_s: float = 20.0
    keep_alive_s: int = 125
    drain_timeout_s: float = REQUEST_TIMEOUT_S
    accept_while_draining_s: float = 5.0
    drain_quiet_s: float = 0.5
    model_control: bool = False
