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
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[CountingBackend]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for serving in list(self._serving):
                serving.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(reader, writer)
        finally:
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
