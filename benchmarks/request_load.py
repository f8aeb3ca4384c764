"""Whole requests over keep-alive connections, one after another on each: latencies and how many were answered.

Raw HTTP/1.1 on the transport, so that the generator is cheap beside what it measures.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RequestLoad:
    """`latencies_s` of what was answered 200; `failed` what was not."""

    wall_s: float
    latencies_s: tuple[float, ...]
    failed: int

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s

    def latency_ms(self, percentile: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percentile / 100))]


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, until_s: float) -> None:
        self._request, self._until_s = request, until_s
        self.latencies_s: list[float] = []
        self.failed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = bytearray()
        self._sent_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_whole():
            return
        now = time.perf_counter()
        if self._received.startswith(b"HTTP/1.1 200"):
            self.latencies_s.append(now - self._sent_s)
        else:
            self.failed += 1
        self._received.clear()
        if now < self._until_s:
            self._send()
        else:
            self._transport.close()

    def _is_whole(self) -> bool:
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head)
        return len(body) >= int(length[1]) if length is not None else body.endswith(b"0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run_requests(host: str, port: int, request: bytes, connections: int, seconds: float) -> RequestLoad:
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    clients = [
        (await loop.create_connection(lambda: _Client(request, begun + seconds), host, port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(client.done for client in clients))
    latencies = tuple(latency for client in clients for latency in client.latencies_s)
    return RequestLoad(time.perf_counter() - begun, latencies, sum(client.failed for client in clients))
