"""A proxy between an HTTP client and its upstream that breaks exchanges as its script says. Loopback only.

pass           the whole answer
reset          the connection ends before a head comes
status N       that, and nothing of the request reaches the upstream
dies N         the connection breaks after N events
cut N          the answer ends after N events, as if it were whole
stalls N       nothing comes after N events, until the client leaves
silent         nothing comes at all
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable


class FaultProxy:
    """`script`: a word for each exchange with POST, then `pass`. `port`: of the upstream. `broken`: answers that it
    broke after their head; `left`: clients that left."""

    def __init__(self, port: int, script: Iterable[str] = ()) -> None:
        self.script = list(script)
        self.upstream_port = port
        self.requests: list[bytes] = []
        self.left = 0
        self.broken = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while self._writers:
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                word = "pass"
                if head.startswith(b"POST"):
                    self.requests.append(head + body)
                    word = self.script.pop(0) if self.script else "pass"
                await self._do(word, head, body, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _do(
        self, word: str, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kind, _, number = word.partition(" ")
        if kind == "reset":
            writer.transport.abort()
        elif kind == "status":
            writer.write(f"HTTP/1.1 {number} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}".encode())
            await writer.drain()
        elif kind == "silent":
            await self._until_gone(reader)
        else:
            await self._relay(head, body, kind, int(number or 0), reader, writer)

    async def _relay(
        self,
        head: bytes,
        body: bytes,
        kind: str,
        events: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        gone = asyncio.create_task(self._until_gone(reader))
        relaying = asyncio.create_task(self._relayed(head, body, kind, events, up_reader, up_writer, writer))
        try:
            await asyncio.wait((gone, relaying), return_when=asyncio.FIRST_COMPLETED)
            if relaying.done() and relaying.result():
                await gone
        finally:
            for task in (gone, relaying):
                task.cancel()
            await asyncio.wait((gone, relaying))
            up_writer.transport.abort()

    async def _relayed(
        self,
        head: bytes,
        body: bytes,
        kind: str,
        events: int,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the client is to be kept waiting."""
        up_writer.write(head[:-2] + b"connection: close\r\n\r\n" + body)
        answer_head = await up_reader.readuntil(b"\r\n\r\n")
        cuts = kind != "pass" and b"event-stream" in answer_head
        if kind == "cut":
            answer_head = answer_head.replace(b"transfer-encoding: chunked", b"connection: close")
        writer.write(answer_head)
        passed = 0
        while chunk := await (
            _chunk(up_reader) if b"chunked" in answer_head or kind == "cut" else up_reader.read(65536)
        ):
            if cuts and passed >= events:
                self.broken += 1
                if kind == "dies":
                    writer.transport.abort()
                return kind == "stalls"
            passed += chunk.count(b"data: {")
            writer.write(chunk.partition(b"\r\n")[2][:-2] if kind == "cut" else chunk)
            await writer.drain()
        return False

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
        self.left += 1


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """One chunk with its framing; b"" behind the last."""
    try:
        size = await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError:
        return b""
    return size + await reader.readexactly(int(size, 16) + 2)
