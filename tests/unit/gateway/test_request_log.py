"""The request log: what a line holds and what it never does, which requests have one, and a reader that stalls."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from endpoint_entries import entry
from waiting import until_async

from pilotlight_gateway.request_log import MOST_LINES, RequestLog
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, TokenUsage
from pilotlight_serving.concurrency_limiter import EndedRequest
from pilotlight_wire.handlers import RequestContext

PATH = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRETS = ("plk_id_secret", "what was asked")


def ended(status: str = "200", **headers: str) -> EndedRequest:
    given = {"authorization": f"Bearer {SECRETS[0]}", **headers}
    context = RequestContext("r1", given, json.dumps({"messages": SECRETS[1]}).encode())
    context.response_headers["x-pilotlight-way"] = "pods; a test"
    caller = Caller("team", key_id="id", priority="high")
    place = Place("POST", f"{PATH}?key={SECRETS[0]}", PATH, PATH, PATH, None)
    context.about = GatewayRequest(
        *(context, place, Asked("chat"), caller, entry("chat"), "chat", TokenUsage(3, 4)), first_byte_s=0.0125
    )
    return EndedRequest("http", f"POST {PATH}", status, 0.25, context)


class Sink:
    def __init__(self) -> None:
        self.written = b""
        self.open = threading.Event()
        self.open.set()

    def write(self, lines: bytes) -> None:
        assert self.open.wait(30)
        self.written += lines

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written.splitlines()]


async def written(log: RequestLog, sink: Sink) -> list[dict[str, Any]]:
    await log.close()
    return sink.lines


async def test_a_line_tells_who_asked_what_and_what_it_took() -> None:
    sink = Sink()
    log = RequestLog(write=sink.write, wall_s=lambda: 1_795_859_520.25)
    log.ended(ended(traceparent=f"00-{TRACE}-b7ad6b7169203331-01"))
    assert await written(log, sink) == [
        {
            "at": "2026-11-28T09:52:00.250Z",
            "transport": "http",
            "request": f"POST {PATH}",
            "status": 200,
            "duration_ms": 250.0,
            "request_id": "r1",
            "trace_id": TRACE,
            "tenant": "team",
            "key": "id",
            "priority": "high",
            "endpoint": "team/chat",
            "model": "chat",
            "way": "pods; a test",
            "first_byte_ms": 12.5,
            "prompt_tokens": 3,
            "output_tokens": 4,
        }
    ]


async def test_neither_a_key_nor_what_was_asked_is_in_it() -> None:
    sink = Sink()
    log = RequestLog(write=sink.write)
    log.ended(ended(traceparent="nonsense"))
    (line,) = await written(log, sink)
    assert "trace_id" not in line
    assert not [secret for secret in SECRETS if secret.encode() in sink.written]


@pytest.mark.parametrize(
    ("status", "lines"), [("200", 0), ("OK", 0), ("499", 1), ("503", 1), ("RESOURCE_EXHAUSTED", 1)]
)
async def test_who_failed_has_a_line_whatever_the_share(status: str, lines: int) -> None:
    sink = Sink()
    log = RequestLog(0.1, write=sink.write, chance=lambda: 0.5)
    log.ended(ended(status))
    assert len(await written(log, sink)) == lines


async def test_a_share_of_those_that_were_answered() -> None:
    sink, chances = Sink(), iter([0.05, 0.2, 0.09, 0.1])
    log = RequestLog(0.1, write=sink.write, chance=lambda: next(chances))
    for _ in range(4):
        log.ended(ended())
    assert len(await written(log, sink)) == 2


@pytest.mark.real_time("a thread writes")
async def test_a_reader_that_stalls_holds_nobody_and_memory_is_bounded() -> None:
    sink = Sink()
    sink.open.clear()
    log = RequestLog(write=sink.write)
    await log.start()
    log.ended(ended())
    await until_async(lambda: not log._lines)
    for _ in range(MOST_LINES + 10):
        log.ended(ended())
    sink.open.set()
    assert len(await written(log, sink)) == MOST_LINES + 1
