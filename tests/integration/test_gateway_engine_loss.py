"""The engine under a stream of the gateway's short way dies, or stands still: the stream says what an undisturbed one
says, or ends with an error event, and is billed once."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from front_door import DEADLINE_S, QUESTION, FrontDoor, endpoint
from pooled_platform import pooled_platform
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

# An engine needs a second for so many and more; of the 1024 tokens of its context the prompt has some.
TOKENS = 900
# A machine with other work may let us look when the engine has said everything.
TRIES = 4
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": QUESTION},
    "completions": {"prompt": "Once upon a time"},
}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": TOKENS}
RESUMED = re.compile(r'^pilotlight_predictor_resumes_total\{outcome="(\w+)"\} (\S+)', re.MULTILINE)


@pytest.fixture(scope="module")
def door() -> Iterator[FrontDoor]:
    service = endpoint("alone", "shared")
    # Where 16 bits round, a token that is computed in another batch may be another one.
    service["spec"]["predictor"]["containers"][0]["args"].append("--engine_arg=dtype=float32")
    spec = yaml.safe_dump(service).replace("demo-awq", "demo-bf16")
    with pooled_platform(FrontDoor, spec, DEADLINE_S) as running:
        until(running.is_ready, 60, lambda: running.log.read_text()[-2000:])
        yield running


def stream(door: FrontDoor, surface: str, fault: signal.Signals | None = None, **fields: Any) -> list[dict[str, Any]]:
    """All events. `fault`: what the engine gets once the stream has begun."""
    engines = set() if fault is None else door.engine_pids()
    body = {"model": "alone", "stream": True, "stream_options": {"include_usage": True}, **ASKED[surface], **fields}
    events: list[str] = []
    with httpx.stream("POST", f"{door.url}/v1/{surface}", json=body, timeout=DEADLINE_S) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["x-pilotlight-way"].startswith("short")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
            if fault is not None and len(events) == 3:
                for engine in engines:
                    os.kill(engine, fault)
                fault = None
    assert events[-1] == "[DONE]" or "error" in json.loads(events[-1]), events[-1]
    return [json.loads(event) for event in events if event != "[DONE]"]


def said_in(events: list[dict[str, Any]]) -> str:
    """The text of a whole stream."""
    assert events[-1]["usage"]["completion_tokens"] == TOKENS, events[-1]
    assert len({(event["id"], event["created"]) for event in events}) == 1
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def resumes(door: FrontDoor, outcome: str) -> float:
    told = httpx.get(f"{door.url}/metrics", timeout=DEADLINE_S).text
    return sum(float(count) for name, count in RESUMED.findall(told) if name == outcome)


def billed(door: FrontDoor) -> Counter[str]:
    total = httpx.get(f"{door.url}/v1/usage", timeout=DEADLINE_S).json()["total"]
    return Counter({name: total[name] for name in ("requests", "prompt_tokens", "output_tokens")})


def disturbed(door: FrontDoor, surface: str, fault: signal.Signals, outcome: str, **fields: Any) -> list[Any]:
    """A stream whose engine was lost before it had said everything, which ended so."""
    for _ in range(TRIES):
        before = resumes(door, outcome)
        events = stream(door, surface, fault, **fields)
        if resumes(door, outcome) == before + 1:
            return events
    raise AssertionError(f"no stream in {TRIES} was hit in its middle\n{door.log.read_text()[-3000:]}")


@pytest.mark.parametrize("surface", ASKED)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "stands-still"])
def test_a_greedy_stream_goes_on_and_is_billed_once(door: FrontDoor, surface: str, fault: signal.Signals) -> None:
    requests = billed(door)["requests"]
    undisturbed = stream(door, surface, **GREEDY)
    before = until(lambda: billed(door), holds=lambda now: now["requests"] == requests + 1)
    events = disturbed(door, surface, fault, "resumed", **GREEDY)
    assert said_in(events) == said_in(undisturbed)
    assert events[-1]["usage"]["prompt_tokens"] == undisturbed[-1]["usage"]["prompt_tokens"]
    until(lambda: billed(door), holds=lambda now: is_billed_once(now - before, events[-1]["usage"]))


def is_billed_once(more: Counter[str], usage: dict[str, Any]) -> bool:
    """Whether that is what so many streams like this took, those that were not hit among them."""
    streams = more["requests"]
    took = {"prompt_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    return streams > 0 and more == Counter(requests=streams, **{name: streams * each for name, each in took.items()})


def test_what_cannot_go_on_ends_with_an_error_event(door: FrontDoor) -> None:
    fields = {**GREEDY, "temperature": 1, "seed": 7}
    *begun, last = disturbed(door, "chat/completions", signal.SIGKILL, "impossible", **fields)
    assert last["error"]["type"] == "service_unavailable_error"
    assert "a seed" in last["error"]["message"]
    assert not any(choice["finish_reason"] for event in begun for choice in event["choices"])
