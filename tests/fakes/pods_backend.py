"""A server that answers the OpenAI API as pods do, from a script: what tests of the gateway need of an endpoint.

`answers`: status codes of the next requests, 200 for all that follow. A stream's events come when `flows` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from endpoint_entries import entry

from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress

OK = 200
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class PodsBackend:
    """Serves inside `serving`. `requests`: (headers, JSON body) as they came."""

    def __init__(self, name: str, namespace: str = "prod") -> None:
        self.name = name
        self.namespace = namespace
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.answers: list[int] = []
        self.delay_s = 0.0
        self.reply: dict[str, Any] = {}
        self.flows = asyncio.Event()
        self.flows.set()
        self.port = 0
        self._running: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[PodsBackend]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._running):
                writer.transport.abort()
            await server.wait_closed()

    def entry(self, **fields: Any) -> EndpointEntry:
        """As the platform tells of it: with an engine of its own, so that requests come here."""
        made: dict[str, Any] = {"lease": None, "text": None, "pods_ready": 1}
        pods = PodsAddress(f"http://127.0.0.1:{self.port}", f"{self.name}.{self.namespace}.localhost")
        return entry(self.name, self.namespace, pods=pods, **{**made, **fields})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._running.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._running.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(raw) if raw else {}
        self.requests.append((headers, body))
        await asyncio.sleep(self.delay_s)
        status = self.answers.pop(0) if self.answers else OK
        if status == OK and body.get("stream"):
            await self._stream(writer, body["model"])
            return
        told = {"error": {"message": f"canned {status}"}} if status != OK else self._completion(body.get("model"))
        data = json.dumps(told).encode()
        retry_after = "retry-after: 9\r\n" if status == 503 else ""
        line = (
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{retry_after}content-length: {len(data)}\r\n\r\n"
        )
        writer.write(line.encode() + data)
        await writer.drain()

    def _completion(self, model: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"I am {self.name}"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage, **self.reply}

    async def _stream(self, writer: asyncio.StreamWriter, model: str) -> None:
        writer.write(STREAM_HEAD)
        for number in range(8):
            if number:
                await self.flows.wait()
            event = {"model": model, "choices": [{"index": 0, "delta": {"content": f"{self.name}{number} "}}]}
            data = f"data: {json.dumps(event)}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
