"""A load generator that is cheap beside what it measures: raw HTTP/1.1 streams on one event loop.

It parses no JSON while a stream runs: it keeps the arrival time of every chunk and reads the bodies afterwards. The
same code drives every server, so its own cost cancels in the comparison.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit


@dataclass(frozen=True)
class StreamResult:
    """Times in seconds since the request was written; `tokens` counted from the events' own content."""

    ttft_s: float
    end_s: float
    gaps_s: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class LoadResult:
    wall_s: float
    streams: tuple[StreamResult, ...]

    @property
    def tokens(self) -> int:
        return sum(stream.tokens for stream in self.streams)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s


class TimedStream(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self.request = request
        self.arrivals: list[float] = []
        self.body = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = 0.0
        self.head_seen = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.started = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.body += data
        if b"data:" in data:
            self.arrivals.append(now)
        if data.endswith(b"0\r\n\r\n"):
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(exc)


def request_bytes(url: str, body: dict[str, object], headers: Mapping[str, str]) -> tuple[str, int, bytes]:
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    host = parts.hostname or "127.0.0.1"
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n"
    )
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    return ("127.0.0.1" if host.endswith("localhost") else host), parts.port or 80, head.encode() + payload


async def one_stream(
    url: str,
    body: dict[str, object],
    count: Callable[[dict[str, object]], int],
    deadline_s: float,
    headers: Mapping[str, str],
) -> StreamResult:
    host, port, raw = request_bytes(url, body, headers)
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(lambda: TimedStream(raw), host, port)
    try:
        await asyncio.wait_for(stream.done, deadline_s)
    finally:
        transport.abort()
    head, _, rest = bytes(stream.body).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise RuntimeError(f"{url} answered {status.decode()}: {rest[:300]!r}")
    tokens = 0
    for line in rest.split(b"\n"):
        if line.startswith(b"data: {"):
            tokens += count(json.loads(line[6:].strip()))
    if not stream.arrivals:
        raise RuntimeError(f"{url} streamed no event: {rest[:300]!r}")
    times = stream.arrivals
    gaps = tuple(later - earlier for earlier, later in itertools.pairwise(times))
    return StreamResult(times[0] - stream.started, times[-1] - stream.started, gaps, tokens)


async def run_load(
    url: str,
    bodies: Sequence[dict[str, object]],
    concurrency: int,
    count: Callable[[dict[str, object]], int],
    deadline_s: float = 300.0,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> LoadResult:
    """Every body once, at most `concurrency` at a time; raises on the first answer that is not a 200 stream."""
    pending = list(reversed(bodies))
    results: list[StreamResult] = []

    async def worker() -> None:
        while pending:
            results.append(await one_stream(url, pending.pop(), count, deadline_s, headers))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return LoadResult(time.perf_counter() - begun, tuple(results))
