"""A predictor that speaks the token contract over real HTTP on loopback, as a test tells it to; no engine, no vLLM.

It runs its own event loop in a thread, so that any kind of test can use it. Each request takes the next `Script`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """`deltas`: the token ids of each event, the same for each choice; `choices`: as many as asked for when None.

    `refuse`: (status, body, headers) instead of an answer. `break_after`: close the connection after so many events.
    `fail_after`: (events, status, message) inside the stream. `hold`: keep the stream open after the events until the
    client hangs up. `coalesce`: all events in one write. `drop`: close the connection instead of answering.
    """

    deltas: list[list[int]] = field(default_factory=lambda: [[1], [2]])
    finish_reason: str = "length"
    stop_reason: int | None = None
    choices: int | None = None
    logprobs: bool = False
    prompt_logprobs: list[Any] | None = None
    cached_tokens: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    refuse: tuple[int, bytes, dict[str, str]] | None = None
    break_after: int | None = None
    fail_after: tuple[int, int, str] | None = None
    hold: bool = False
    coalesce: bool = False
    drop: bool = False


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    aborted: bool = False
    answered: bool = False


class FakeTokenPredictor:
    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.seen: list[Seen] = []
        self.port = 0
        self._connections = 0
        self._loop = asyncio.new_event_loop()

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeTokenPredictor]:
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connection, "127.0.0.1", self.port), self._loop
        ).result(10)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def plan(self, *scripts: Script) -> None:
        self.scripts.clear()
        self.seen.clear()
        self.scripts.extend(scripts)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        seen = Seen(request_line.split(" ")[1], headers, body, number)
        self.seen.append(seen)
        script = self.scripts.popleft() if self.scripts else Script()
        if script.drop:
            return False
        if script.refuse is not None:
            status, answer, extra = script.refuse
            self._whole(writer, status, answer, extra)
        elif seen.path.endswith("/generate"):
            self._whole(writer, 200, json.dumps(self._answer(script, body)).encode(), script.headers)
        else:
            hang_up = asyncio.create_task(reader.read(1))
            try:
                if not await self._stream(writer, script, body, hang_up):
                    seen.aborted = hang_up.done()
                    return False
            finally:
                if hang_up.done():
                    seen.aborted = not seen.answered
                hang_up.cancel()
                await asyncio.gather(hang_up, return_exceptions=True)
        seen.answered = True
        await writer.drain()
        return True

    def _whole(self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{lines}"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )

    async def _stream(
        self, writer: asyncio.StreamWriter, script: Script, body: dict[str, Any], hang_up: asyncio.Task[bytes]
    ) -> bool:
        lines = "".join(f"{name}: {value}\r\n" for name, value in script.headers.items())
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{lines}transfer-encoding: chunked\r\n\r\n".encode()
        )
        events = self._events(script, body)
        if script.fail_after is not None:
            count, status, message = script.fail_after
            events = [*events[:count], {"error": message, "status": status}]
        if script.break_after is not None:
            events = events[: script.break_after]
        blocks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        for block in [b"".join(blocks)] if script.coalesce else blocks:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block))
            await writer.drain()
            # One event, one read at the other end: they must not be joined unless the script says so.
            await asyncio.wait([hang_up], timeout=0.003)
            if hang_up.done():
                return False
        if script.hold:
            await asyncio.wait([hang_up], timeout=20)
            return False
        if script.break_after is not None:
            return False
        writer.write(b"0\r\n\r\n")
        return True

    def _events(self, script: Script, body: dict[str, Any]) -> list[dict[str, Any]]:
        events = []
        last = len(script.deltas) - 1
        for place, ids in enumerate(script.deltas):
            for index in range(_choices(script, body)):
                ends = place == last and not script.hold
                event: dict[str, Any] = {
                    "model_name": "m",
                    "model_version": "1",
                    "id": body["id"],
                    "index": index,
                    "output_ids": ids,
                    "finish_reason": script.finish_reason if ends else None,
                }
                if ends:
                    event["stop_reason"] = script.stop_reason
                if script.logprobs:
                    event["logprobs"] = [_logprob(token_id) for token_id in ids]
                if place == 0 and index == 0:
                    event |= {"prompt_tokens": len(body["input_ids"]), "cached_tokens": script.cached_tokens}
                    if script.prompt_logprobs is not None:
                        event["prompt_logprobs"] = script.prompt_logprobs
                events.append(event)
        return events

    def _answer(self, script: Script, body: dict[str, Any]) -> dict[str, Any]:
        ids = [token_id for delta in script.deltas for token_id in delta]
        outputs: list[dict[str, Any]] = [
            {
                "index": index,
                "output_ids": ids,
                "finish_reason": script.finish_reason,
                "stop_reason": script.stop_reason,
            }
            | ({"logprobs": [_logprob(token_id) for token_id in ids]} if script.logprobs else {})
            for index in range(_choices(script, body))
        ]
        usage = {
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": len(ids) * len(outputs),
            "cached_tokens": script.cached_tokens,
        }
        answer: dict[str, Any] = {"model_name": "m", "model_version": "1", "id": body["id"]}
        answer |= {"outputs": outputs, "usage": usage}
        answer |= {"output_ids": ids, "finish_reason": script.finish_reason}
        return answer if script.prompt_logprobs is None else answer | {"prompt_logprobs": script.prompt_logprobs}


def _choices(script: Script, body: dict[str, Any]) -> int:
    return script.choices or int(body["parameters"].get("n", 1))


def _logprob(token_id: int) -> dict[str, Any]:
    return {"token_id": token_id, "logprob": -0.5, "top": [[token_id, -0.5], [token_id + 1, -1.5]]}
