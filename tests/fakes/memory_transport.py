"""A transport without a socket: what is written stays in `written`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class MemoryTransport(asyncio.Transport):
    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.writes = 0
        self.paused = False
        self.closed = False
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.writes += 1

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.write(b"".join(pieces))

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


def connect(protocol: asyncio.Protocol) -> MemoryTransport:
    """Give `protocol` its connection."""
    transport = MemoryTransport(protocol)
    protocol.connection_made(transport)
    return transport
