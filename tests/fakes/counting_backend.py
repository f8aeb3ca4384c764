"""An endpoint's pods without any engine: answers a completion with the tokens that its request asked for.

`{"max_tokens": 20, "delay_s": 0.5}` is answered after half a second with a usage of `PROMPT_TOKENS` and 20 tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator

PROMPT_TOKENS = 7


class CountingBackend:
    """`running` and `most_running` count requests by tenant, `tokens` what they were answered."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.port = 0
        self._connections: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[CountingBackend]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            while self._connections:
                for writer in list(self._connections):
                    writer.transport.abort()
                await asyncio.sleep(0)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        asked = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        tenant, tokens = headers.get("x-pilotlight-tenant", ""), int(asked.get("max_tokens", 1))
        self.running[tenant] += 1
        self.most_running[tenant] = max(self.most_running[tenant], self.running[tenant])
        try:
            await asyncio.sleep(asked.get("delay_s", 0.0))
            self.tokens[tenant] += PROMPT_TOKENS + tokens
            usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
            body = json.dumps({"object": "text_completion", "usage": usage}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        finally:
            self.running[tenant] -= 1
