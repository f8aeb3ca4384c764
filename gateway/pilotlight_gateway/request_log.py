"""One line of JSON for each request, on standard output: who asked what, which way it went, what it took.

    {"at":"2026-11-28T09:41:07.512Z","request":"POST /v1/chat/completions","status":200,"tenant":"team", …}

Neither what was asked nor what was answered is in it, and no key but its id. Lines are written a few times a second by
a thread: a reader that stalls holds no request, and what comes while too many wait is counted, and lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable

import msgspec

from pilotlight_gateway.metrics import LOG_LINES_LOST
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.ways import WAY_HEADER
from pilotlight_serving.concurrency_limiter import EndedRequest
from pilotlight_wire.hop_headers import trace_id

FLUSH_S = 0.25
MOST_LINES = 50_000


class RequestLine(msgspec.Struct, omit_defaults=True):
    """`request`: method and path, or the model of a gRPC call. `model`: as it was asked for. `way`: with its reason.
    `first_byte_ms`: until the answer began."""

    at: str
    transport: str
    request: str
    status: int | str
    duration_ms: float
    request_id: str
    trace_id: str = ""
    tenant: str = ""
    key: str = ""
    priority: str = ""
    endpoint: str = ""
    model: str = ""
    way: str = ""
    first_byte_ms: float = -1.0
    prompt_tokens: int = 0
    output_tokens: int = 0


_encode = msgspec.json.Encoder().encode


class RequestLog:
    """Between `start` and `close`. `share`: of the requests that were answered; what failed has a line in any case.
    `write`: blocking."""

    def __init__(
        self,
        share: float = 1.0,
        write: Callable[[bytes], object] = lambda lines: _write_all(1, lines),
        wall_s: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._share = share
        self._write = write
        self._wall_s = wall_s
        self._chance = chance
        self._lines: deque[bytes] = deque()
        self._second = 0
        self._dated = ""
        self._task: asyncio.Task[None] | None = None

    def ended(self, ended: EndedRequest) -> None:
        """What a `ConcurrencyLimiter` tells."""
        if self._share < 1.0 and not ended.failed and self._chance() >= self._share:
            return
        if len(self._lines) >= MOST_LINES:
            LOG_LINES_LOST.inc()
            return
        self._lines.append(_encode(self._line(ended)))

    def _line(self, ended: EndedRequest) -> RequestLine:
        context = ended.context
        line = RequestLine(
            self._now(),
            ended.transport,
            ended.what,
            int(ended.status) if ended.status.isdigit() else ended.status,
            round(ended.seconds * 1000, 2),
            context.request_id,
            trace_id(context.headers),
        )
        request = context.about
        if isinstance(request, GatewayRequest):
            caller, usage = request.caller, request.usage
            line.tenant, line.key, line.priority = caller.tenant, caller.key_id, caller.priority
            line.endpoint, line.model = f"{request.entry.namespace}/{request.entry.name}", request.asked.model or ""
            line.way = context.response_headers.get(WAY_HEADER, "")
            line.prompt_tokens, line.output_tokens = usage.prompt_tokens, usage.output_tokens
            if request.first_byte_s is not None:
                line.first_byte_ms = round(request.first_byte_s * 1000, 2)
        return line

    def _now(self) -> str:
        now_s = self._wall_s()
        second = int(now_s)
        if second != self._second:
            self._second, self._dated = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._dated}.{int((now_s - second) * 1000):03d}Z"

    async def start(self) -> None:
        self._task = asyncio.create_task(self._writing(), name="request log")

    async def _writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._lines:
                await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if lines:
            self._write(b"\n".join((*lines, b"")))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.to_thread(self._flush)


def _write_all(descriptor: int, lines: bytes) -> None:
    view = memoryview(lines)
    while view:
        view = view[os.write(descriptor, view) :]
