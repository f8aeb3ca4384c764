"""One request over the embedded platform's control socket, and its whole answer. It must not know what is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pilotlight_wire.http_connection import HttpConnection
from pilotlight_wire.shared_timer import SharedTimer
from pilotlight_wire.unix_paths import short_unix_path

_CONNECT_TIMEOUT_S = 5.0


async def asked(socket: Path, method: str, target: str, body: bytes = b"", *, silence_s: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError, TimeoutError, ConnectionLost, Silence, PilotlightError."""
    with short_unix_path(socket) as address:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: HttpConnection(SharedTimer(silence_s)), address
            )
    try:
        length = f"content-length: {len(body)}\r\n" if body else ""
        connection.send(f"{method} {target} HTTP/1.1\r\nhost: platform\r\n{length}\r\n".encode() + body)
        status = await connection.head()
        answer = bytearray()
        while piece := await connection.read():
            answer += piece
    finally:
        connection.abort()
    return status, bytes(answer)
