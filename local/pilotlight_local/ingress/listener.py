"""Accepts connections for the ingress and hands each to the HTTP/1.1 server or to the gRPC proxy by its first bytes.

Nothing is copied through here: after the first bytes the connection's transport belongs to its protocol. Must not:
know endpoints or pods.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from pilotlight_wire.h2_frames import PREFACE

FIRST_BYTES_TIMEOUT_S = 60.0

ProtocolFactory = Callable[[], asyncio.Protocol]


class FirstBytes(asyncio.Protocol):
    """Decides which protocol a new connection speaks."""

    def __init__(self, http: ProtocolFactory, grpc: ProtocolFactory) -> None:
        self._http = http
        self._grpc = grpc
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(FIRST_BYTES_TIMEOUT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if len(self._seen) < len(PREFACE) and PREFACE.startswith(self._seen):
            return
        self._deadline.cancel()
        protocol = self._grpc() if self._seen.startswith(PREFACE) else self._http()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
