"""A cascade: which first answers are good enough, what the client gets, and what it is billed for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.cascade.asked_logprobs import events_without_logprobs, with_logprobs, without_logprobs
from pilotlight_gateway.cascade.cascade_spec import CascadeSpec
from pilotlight_gateway.cascade.cascades import ESCALATION_HEADER
from pilotlight_gateway.cascade.first_answer import FirstAnswer, why_not_good
from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.request_steps import Asked, Caller, Cascade, Choice, GatewayRequest, Place, Routed
from pilotlight_gateway.routing.fallbacks import ROUTE_HEADER, by_route
from pilotlight_protocol.errors import ContextLengthExceeded, PilotlightError, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.poured_events import pour

SPEC = CascadeSpec(first=("a/small",), mean_logprob_below=-1.0, hold_tokens=3)
CHAT = "/v1/chat/completions"


def chat(text: str | None = "fine", logprobs: list[float] | None = None, **message: Any) -> dict[str, Any]:
    told = None if logprobs is None else {"content": [{"token": "t", "logprob": each} for each in logprobs]}
    return {"choices": [{"index": 0, "message": {"content": text, **message}, "logprobs": told}], "model": "m"}


@pytest.mark.parametrize(
    ("answer", "wants_json", "why"),
    [
        (chat(), False, ""),
        (chat(logprobs=[-0.1, -0.2]), False, ""),
        (chat(logprobs=[-0.1, -3.0]), False, "low confidence"),
        (chat(" I cannot help"), False, "refusal"),
        (chat("", refusal="no"), False, "refusal"),
        (chat("{"), True, "invalid JSON"),
        (chat("{"), False, ""),
        (chat('{"a": 1}'), True, ""),
        (chat(None, tool_calls=[{"id": "1"}]), True, ""),
        ({"choices": [{"text": "a", "logprobs": {"token_logprobs": [None, -5.0]}}]}, False, "low confidence"),
        ({"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "As an AI model"}]}, False, "refusal"),
        ({"choices": "what"}, True, ""),
    ],
)
def test_which_first_answer_is_good_enough(answer: dict[str, Any], wants_json: bool, why: str) -> None:
    seen = FirstAnswer()
    seen.take(json.dumps(answer).encode())
    seen.is_whole = True
    assert why_not_good(SPEC, seen, wants_json) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [("Sure, here is", "invalid JSON"), (' {"a": ', ""), ("[1,", ""), ('"tex', ""), ("-1", ""), ("", ""), ("\n", "")],
)
def test_what_begins_as_no_json_needs_no_end_to_be_none(text: str, why: str) -> None:
    seen = FirstAnswer()
    seen.take(json.dumps(chat(text)).encode())
    assert why_not_good(SPEC, seen, True) == why
    assert why_not_good(SPEC, seen, False) == ""


class Basin:
    is_full = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    async def drained(self) -> None:
        return


class World:
    """Two endpoints. `small`, `large`: replies, events, or an error."""

    def __init__(self, small: Any, large: Any = None, path: str = CHAT, **fields: Any) -> None:
        self.answers = {"small": small, "large": large if large is not None else chat("large")}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.closed: list[str] = []
        choices = {
            name: (Choice(entry(name), name, "target" if name == "large" else "cascade"),) for name in self.answers
        }
        place = Place("POST", path, path, path, path, None)
        body = json.dumps({"model": "smart", "messages": [], **fields}).encode()
        self.context = RequestContext("r1", {}, body)
        large_entry = choices["large"][0].entry
        self.request = GatewayRequest(self.context, place, Asked("smart"), Caller("team"), large_entry, "large")
        self.request.routed = Routed("smart", "", choices["large"], place, Cascade(SPEC, choices["small"]))

    async def run(self, *, poured: bool = False) -> Any:
        assert self.request.routed is not None
        result = await by_route(self.request, self.request.routed, self._attempt)
        if isinstance(result, Reply):
            return json.loads(result.body)
        if poured:
            basin = Basin()
            await pour(result.events, basin)
            pieces = basin.pieces
        else:
            pieces = [piece async for piece in result.events]
        await result.events.aclose()  # type: ignore[attr-defined]
        return [json.loads(piece[6:]) for piece in pieces]

    async def _attempt(self, request: GatewayRequest) -> Reply | Stream:
        name = request.entry.name
        self.asked.append((name, json.loads(request.context.body)))
        answer = self.answers[name]
        request.usage.prompt_tokens += 7
        if isinstance(answer, PilotlightError):
            raise answer
        if isinstance(answer, list):
            return Stream(self._events(name, answer))
        usage_now().output_tokens += 5
        return Reply(json.dumps(answer).encode())

    async def _events(self, name: str, events: list[Any]) -> AsyncIterator[bytes]:
        usage = usage_now()
        try:
            for event in events:
                if isinstance(event, PilotlightError):
                    raise event
                usage.output_tokens += 1
                yield b"data: " + json.dumps(event).encode()
        finally:
            self.closed.append(name)

    @property
    def who_answered(self) -> list[str]:
        return [name for name, _ in self.asked]

    @property
    def told(self) -> str:
        return self.context.response_headers[ROUTE_HEADER]


def events(*logprobs: float, text: str = "t") -> list[Any]:
    return [
        {
            "choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"logprob": each}]}}],
            "model": "m",
        }
        for each in logprobs
    ]


async def test_a_good_first_answer_is_the_answer_without_what_was_not_asked_for() -> None:
    world = World(chat("good", [-0.1]))
    answer = await world.run()
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["logprobs"]) == ("good", None)
    assert (world.who_answered, world.told, answer["model"]) == (["small"], "cascade; whole", "smart")
    assert world.asked[0][1]["logprobs"] is True
    assert (world.request.usage.prompt_tokens, world.request.usage.output_tokens) == (7, 5)
    assert "logprobs" not in json.loads(world.context.body)


async def test_who_asks_for_log_probabilities_gets_them() -> None:
    answer = await World(chat("good", [-0.1]), logprobs=True).run()
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.1


async def test_an_answer_that_is_not_good_is_billed_to_nobody_and_told() -> None:
    world = World(chat("bad", [-9.0]))
    assert (await world.run())["choices"][0]["message"]["content"] == "large"
    assert (world.who_answered, world.told) == (["small", "large"], "escalated; low confidence")
    assert "logprobs" not in world.asked[1][1]
    assert world.context.response_headers[ESCALATION_HEADER] == "unbilled; prompt_tokens=7, output_tokens=5"
    assert (world.request.usage.prompt_tokens, world.request.usage.output_tokens) == (7, 5)
    assert usage_now() is world.request.usage


@pytest.mark.parametrize("error", [Unavailable("no"), ContextLengthExceeded.of(9, 10, None, "messages")])
async def test_where_the_first_cannot_the_other_one_answers(error: PilotlightError) -> None:
    world = World(error)
    assert (await world.run())["choices"][0]["message"]["content"] == "large"
    assert world.who_answered == ["small", "large"]


async def test_where_the_other_one_cannot_the_first_answer_stands() -> None:
    for small in (chat("bad", [-9.0]), events(-9.0, -9.0, -9.0, -9.0)):
        world = World(small, Unavailable("no"))
        answer = await world.run()
        assert world.told == "cascade; low confidence, but 503"
        assert (world.request.entry.name, world.request.model_name) == ("small", "small")
        assert world.request.usage.output_tokens == (4 if isinstance(answer, list) else 5)
        assert usage_now() is world.request.usage
        assert "bad" in str(answer) or len(answer) == 4


@pytest.mark.parametrize("poured", [False, True])
async def test_a_good_stream_is_held_and_then_goes_on(poured: bool) -> None:
    world = World(events(-0.1, -0.1, -0.1, -9.0, -9.0), stream=True)
    answer = await world.run(poured=poured)
    assert [event["choices"][0]["delta"]["content"] for event in answer] == ["t"] * 5
    assert all(event["choices"][0]["logprobs"] is None and event["model"] == "smart" for event in answer)
    assert (world.who_answered, world.told, world.closed) == (["small"], "cascade; held 3 tokens", ["small"])
    assert world.request.usage.output_tokens == 5


@pytest.mark.parametrize(
    "small",
    [events(-9.0, -9.0, -9.0, -9.0), events(-0.1, -0.1, text="I cannot "), [*events(-0.1), Unavailable("died")]],
)
async def test_a_stream_that_is_not_good_is_ended_before_anything_was_sent(small: list[Any]) -> None:
    world = World(small, events(-0.1, -0.1, text="large"), stream=True)
    answer = await world.run()
    assert {event["choices"][0]["delta"]["content"] for event in answer} == {"large"}
    assert world.closed == ["small", "large"]
    assert world.request.usage.output_tokens == 2


async def test_what_is_no_completion_goes_to_the_routes_own() -> None:
    world = World(chat("good"), path="/v1/embeddings")
    await world.run()
    assert world.who_answered == ["large"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("choices", "logprobs", "a")), inner),
    max_leaves=8,
)


@given(JSON)
def test_nothing_else_of_a_body_is_changed(value: Any) -> None:
    data = json.dumps(value).encode()
    kept = json.loads(without_logprobs(data))
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        for choice in value["choices"]:
            if all(isinstance(each, dict) for each in value["choices"]) and "logprobs" in choice:
                choice["logprobs"] = None
    assert kept == value
    event = b"event: x\ndata: " + data + b"\n\n"
    assert events_without_logprobs(event).startswith(b"event: x\ndata: ")
    asked = with_logprobs(data, is_chat=True)
    if asked is not None:
        assert {**json.loads(asked), "logprobs": 0} == {**value, "logprobs": 0}
