"""An OpenAI server that costs next to nothing and answers always the same: what gateways are measured in front of.

Whole answers at once; streams an event per token, `--interval_ms` apart, the first after `--first_ms`. With `--slots`
only so many streams run at once and the others wait in their order, as at an engine whose batch is full. On one uvloop,
httptools on the transport.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from typing import Any

import httptools
import uvloop

CHUNK = (
    b'data: {"id":"chatcmpl-canned","object":"chat.completion.chunk","created":1,"model":"demo",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
LAST = CHUNK.replace(b'{"content":" word"}', b"{}").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
WHOLE = json.dumps(
    {
        "id": "chatcmpl-canned",
        "object": "chat.completion",
        "created": 1,
        "model": "demo",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "A canned answer."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
    }
).encode()
MODELS = b'{"object":"list","data":[{"id":"demo","object":"model","created":1,"owned_by":"canned"}]}'


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def piece(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


HEALTHY, LISTED, ANSWERED = whole(b"{}"), whole(MODELS), whole(WHOLE)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = piece(LAST) + piece(b"data: [DONE]\n\n") + b"0\r\n\r\n"
EVENT = piece(CHUNK)


class Slots:
    """Who may stream now. `count` 0: everybody."""

    def __init__(self, count: int) -> None:
        self._free = count or 1_000_000
        self._waiting: deque[Backend] = deque()

    def take(self, backend: Backend) -> None:
        if self._free:
            self._free -= 1
            backend.start()
        else:
            self._waiting.append(backend)

    def leave(self, backend: Backend) -> None:
        """Give the slot back, or the place in the queue."""
        if backend in self._waiting:
            self._waiting.remove(backend)
        elif self._waiting:
            self._waiting.popleft().start()
        else:
            self._free += 1


class Backend(asyncio.Protocol):
    def __init__(self, interval_s: float, first_s: float, slots: Slots) -> None:
        self._interval_s = interval_s
        self._first_s = first_s
        self._slots = slots
        self._streaming = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._leave()

    def _leave(self) -> None:
        if self._streaming:
            self._streaming = False
            self._slots.leave(self)

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._url.endswith(b"/completions"):
            self._transport.write(LISTED if self._url.endswith(b"/models") else HEALTHY)
            return
        asked = json.loads(self._body)
        if not asked.get("stream"):
            self._transport.write(ANSWERED)
            return
        self._left = int(asked.get("max_tokens", 16))
        self._transport.write(STREAM_HEAD)
        self._streaming = True
        self._slots.take(self)

    def start(self) -> None:
        """A slot is free for it."""
        if self._first_s:
            self._timer = self._loop.call_later(self._first_s, self._next)
        else:
            self._next()

    def _next(self) -> None:
        if not self._left:
            self._transport.write(STREAM_END)
            self._leave()
            return
        self._left -= 1
        self._transport.write(EVENT)
        self._timer = self._loop.call_later(self._interval_s, self._next)


async def main(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    slots = Slots(given.slots)

    def backend() -> Backend:
        return Backend(given.interval_ms / 1000, given.first_ms / 1000, slots)

    server = await loop.create_server(backend, "127.0.0.1", given.port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval_ms", type=float, default=20.0)
    parser.add_argument("--first_ms", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=0)
    uvloop.run(main(parser.parse_args()))
