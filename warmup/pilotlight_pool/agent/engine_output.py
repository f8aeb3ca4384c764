"""An engine's standard output and error: forwarded line by line under the slot's name, its end kept for reasons."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque

_KEPT_LINES = 40
_LONGEST_LINE_BYTES = 4096


class EngineOutput(asyncio.Protocol):
    """The reading end of a pipe; `writer_fd` is for the engine and must be closed here once it was handed over."""

    def __init__(self, slot_id: str) -> None:
        self._prefix = f"[{slot_id}] "
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, slot_id: str) -> tuple[EngineOutput, int]:
        """(output, writer_fd)"""
        reader_fd, writer_fd = os.pipe2(os.O_CLOEXEC)
        output = cls(slot_id)
        pipe = os.fdopen(reader_fd, "rb", 0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: output, pipe)
        return output, writer_fd

    def tail(self) -> tuple[str, ...]:
        return tuple(self._lines)

    async def ended(self, deadline_s: float) -> None:
        """Return when the last writer is gone, or after the deadline."""
        await asyncio.wait({self._closed}, timeout=deadline_s)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LONGEST_LINE_BYTES:]
        for line in lines:
            self._forward(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._forward(self._rest)
        if not self._closed.done():
            self._closed.set_result(None)

    def _forward(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self._lines.append(text)
        sys.stderr.write(f"{self._prefix}{text}\n")
