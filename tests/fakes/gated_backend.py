"""An OpenAI server that answers when the test lets it, and remembers what it was asked; on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any


class GatedBackend:
    """`asked`: bodies in their order. While `shut` requests wait; `refuses` are answered 503 first. A body's text is in
    its answer, so that one can tell whose it is."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[dict[str, Any]] = []
        self.headers: list[bytes] = []
        self.refuses = 0
        self.gone = 0
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    @property
    def said(self) -> list[str]:
        return [str(body["messages"][0]["content"]) for body in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length))
                if self.refuses:
                    self.refuses -= 1
                    writer.write(b"HTTP/1.1 503 X\r\ncontent-length: 2\r\nretry-after: 3\r\n\r\n{}")
                    continue
                self.headers.append(head)
                self.asked.append(body)
                await self._answer(body, reader, writer)
        writer.close()

    async def _answer(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = body["messages"][0]["content"]
        if body.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(4):
                if number == 2:
                    await self._until_open(reader)
                event = f'data: {{"choices":[{{"delta":{{"content":"{text}{number}"}}}}]}}\n\n'.encode()
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return
        await self._until_open(reader)
        if text == "bad":
            writer.write(
                b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n"
                b'{"error":{"message":"so bad"}}'
            )
            return
        message = {"role": "assistant", "content": f"re: {text}"}
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        }
        raw = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(raw), raw)
        )

    async def _until_open(self, reader: asyncio.StreamReader) -> None:
        while not self._open.is_set():
            if reader.at_eof():
                self.gone += 1
                raise ConnectionResetError
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def gated_backend() -> Iterator[GatedBackend]:
    backend = GatedBackend()
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
        backend.port = server.sockets[0].getsockname()[1]
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    task = loop.create_task(run())

    def serve() -> None:
        loop.run_until_complete(task)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(30)
    try:
        yield backend
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
