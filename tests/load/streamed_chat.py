"""One streamed chat request as Locust sees it: time to the first token, gaps between tokens and the whole, told."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from locust.contrib.fasthttp import FastHttpSession, FastResponse

FIRST, GAP, WHOLE = "time to first token", "gap between tokens", "whole stream"


@dataclass(frozen=True)
class Ask:
    """`name` is the row's in Locust's tables."""

    name: str
    body: dict[str, Any]
    headers: dict[str, str]


def stream(client: FastHttpSession, events: Any, ask: Ask, path: str = "/v1/chat/completions") -> None:
    """Fires a `request` event for each figure; what did not end with its finish reason and [DONE] is a failure."""
    began_s = time.perf_counter()
    last_s: float | None = None
    failure: Exception | None = None
    finished = False
    body = {**ask.body, "stream": True}
    with client.post(
        path, json=body, headers=ask.headers, name=f"{ask.name}: headers", stream=True, catch_response=True
    ) as answer:
        if answer.status_code != 200:
            answer.failure(f"{answer.status_code}: {answer.text[:200]}")
            return
        answer.success()
        try:
            for line in _lines(answer):
                if line == b"data: [DONE]":
                    finished = finished and True
                    break
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    failure = RuntimeError(f"error event: {event['error']}")
                    break
                now_s = time.perf_counter()
                choices = event.get("choices", ())
                finished = finished or any(choice.get("finish_reason") for choice in choices)
                if not any(choice["delta"].get("content") for choice in choices):
                    continue
                if last_s is None:
                    _fire(events, ask.name, FIRST, now_s - began_s)
                else:
                    _fire(events, ask.name, GAP, now_s - last_s)
                last_s = now_s
        except (OSError, ValueError) as error:
            failure = error
    if failure is None and not finished:
        failure = RuntimeError("the stream ended before its answer did")
    _fire(events, ask.name, WHOLE, time.perf_counter() - began_s, failure)


def _lines(answer: FastResponse) -> Any:
    while answer.stream is not None and (line := answer.stream.readline(b"\n")):
        yield line.rstrip()


def _fire(events: Any, name: str, kind: str, seconds: float, failure: Exception | None = None) -> None:
    events.request.fire(
        request_type="SSE",
        name=f"{name}: {kind}",
        response_time=1000 * seconds,
        response_length=0,
        exception=failure,
        context={},
    )
