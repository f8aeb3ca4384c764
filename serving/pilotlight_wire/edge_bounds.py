"""What one client may take of a server: sizes, times and connections. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_wire.cors import EVERY_ORIGIN, CorsPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeBounds:
    """`header_timeout_s`: for a connection's first byte and for each request's head. `body_stall_timeout_s`: the
    longest pause between two pieces of a body, or before a gRPC call's message; a body that is read as a whole has
    `body_timeout_s`, and beyond one such pause comes with `min_body_bytes_s` a second at least.
    `write_stall_timeout_s`: how long a client may leave its answer unread once the buffers are full. `keep_alive_s`:
    how long a connection, or a gRPC stream, may stay open with nothing to do; longer than Envoy's and queue-proxy's
    idle time-outs, so that they never reuse a connection that was just closed.
    """

    max_body_bytes: int = 16 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_connections: int = 4096
    header_timeout_s: float = 10.0
    body_stall_timeout_s: float = 20.0
    body_timeout_s: float = 300.0
    min_body_bytes_s: int = 1024
    write_stall_timeout_s: float = 60.0
    keep_alive_s: int = 125
    cors: CorsPolicy = EVERY_ORIGIN
