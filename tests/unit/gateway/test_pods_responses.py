"""Responses that pods made: what is kept of them, under which name, and what pods are given with the next request."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.pods_way.event_feed import EventFeed
from pilotlight_gateway.pods_way.pods_request import pods_request
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, TokenUsage
from pilotlight_gateway.responses.pods_responses import PodsResponses, is_of_responses
from pilotlight_gateway.surfaces import last_events
from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.responses_api.given_history import take_history
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import MAX_CHAIN_BYTES, PreviousResponseNotFound, ResponseNotFound
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import HISTORY

PATH = "/v1/responses"
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}


def request(path: str = PATH, tenant: str = "acme", **fields: Any) -> GatewayRequest:
    body = json.dumps({"model": "smart", "input": "hello", **fields}).encode()
    place = Place("POST", path, path, path, path, None)
    context = RequestContext("r1", {"x-pilotlight-tenant": tenant}, body)
    return GatewayRequest(context, place, Asked("smart"), Caller(tenant), entry("chat"), "chat")


def response(number: int = 1, **fields: Any) -> bytes:
    made = {"id": f"resp_{number}", "model": "chat", "output": [MESSAGE], "store": True, "status": "completed"}
    return json.dumps({**made, **fields}).encode()


async def given_to_pods(kept: PodsResponses, asks: GatewayRequest) -> tuple[bytes, Any]:
    """The body that pods read, and the items that they take with it."""
    asked = await kept.given(asks, pods_request(asks))
    context = RequestContext("r1", asked.headers, asked.body)
    return context.body, (take_history(context), context.body)


async def test_what_is_continued_goes_with_the_request_and_bears_the_name_that_was_asked_for() -> None:
    stored = KeptHere()
    kept = PodsResponses(stored)
    first = request()
    assert (await given_to_pods(kept, first))[1][0] == []
    await kept.keep(first, response())
    assert json.loads((await stored.get("resp_1", "acme")).response)["model"] == "smart"
    second = request(previous_response_id="resp_1", input="more")
    items, body = (await given_to_pods(kept, second))[1]
    assert [item["role"] for item in items] == ["user", "assistant"]
    assert json.loads(body) == {"model": "chat", "input": "more", "previous_response_id": "resp_1"}
    await kept.keep(second, response(2))
    items, _ = (await given_to_pods(kept, request(previous_response_id="resp_2")))[1]
    assert [item["role"] for item in items] == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    "asks", [request(tenant="other", previous_response_id="resp_1"), request(previous_response_id="resp_9")]
)
async def test_what_is_anothers_is_as_unknown_as_what_never_was(asks: GatewayRequest) -> None:
    kept = PodsResponses(KeptHere())
    await kept.keep(request(), response())
    with pytest.raises(PreviousResponseNotFound):
        await kept.given(asks, pods_request(asks))


async def test_a_small_request_that_continues_too_much_is_refused_and_no_pods_are_asked() -> None:
    kept = PodsResponses(KeptHere())
    for number in (1, 2, 3):
        continued = {"previous_response_id": f"resp_{number - 1}"} if number > 1 else {}
        await kept.keep(request(input="x" * (MAX_CHAIN_BYTES * 2 // 5), **continued), response(number))
    asks = request(previous_response_id="resp_2")
    assert len((await given_to_pods(kept, asks))[1][0]) == 4
    asks = request(previous_response_id="resp_3")
    with pytest.raises(InvalidInput, match="previous_response_id") as refused:
        await kept.given(asks, pods_request(asks))
    assert refused.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (PATH, response(store=False)),
        (f"{PATH}/input_tokens", response()),
        (PATH, b"[]"),
        (PATH, b"{"),
        (PATH, response(output=7)),
    ],
)
async def test_what_is_not_to_be_kept_or_is_no_response_is_not(path: str, made: bytes) -> None:
    stored = KeptHere()
    await PodsResponses(stored).keep(request(path), made)
    with pytest.raises(ResponseNotFound):
        await stored.get("resp_1", "acme")


@pytest.mark.parametrize("body", [b"{", b'{"previous_response_id": 7}', b'{"input": 7}'])
async def test_a_body_that_is_no_request_is_the_pods_to_refuse(body: bytes) -> None:
    asks = request()
    asks.context.body = body
    asked = pods_request(request())
    assert await PodsResponses(KeptHere()).given(asks, asked) == asked


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
@given(st.lists(st.integers(0, 1000), max_size=6))
async def test_of_a_stream_the_last_events_response_is_kept_however_it_comes(kind: str, cuts: list[int]) -> None:
    said = {"stage": "response.completed", "type": "response.incomplete"}
    first = {"response": json.loads(response(output=[], metadata=said)), "type": "response.created"}
    delta = {"type": "response.output_text.delta", "delta": '"response.completed" {"id": 1}'}
    last = {"type": f"response.{kind}", "response": json.loads(response(metadata=said))}
    stream = b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each, separators=(',', ':'))}\n\n".encode()
        for each in (first, delta, last)
    )
    stored, asks = KeptHere(), request(stream=True)
    watched = PodsResponses(stored).watch(asks)
    feed = EventFeed(TokenUsage(), last_events(PATH), watched.look)
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    assert b"".join(feed.feed(stream[a:b]) for a, b in pairwise(places)) == stream
    await watched.aclose()
    if kind == "failed":
        with pytest.raises(ResponseNotFound):
            await stored.get("resp_1", "acme")
    else:
        assert json.loads((await stored.get("resp_1", "acme")).output_items) == [MESSAGE]


def test_only_components_of_ours_are_given_anything() -> None:
    asks = request()
    assert is_of_responses(asks)
    assert is_of_responses(request("/openai/v1/responses/input_tokens/"))
    assert not is_of_responses(request("/v1/chat/completions"))
    asks.entry = entry("chat", text=None)
    assert not is_of_responses(asks)


@pytest.mark.parametrize(
    ("length", "body"), [("x", b"{}[]"), ("²", b"{}[]"), ("2", b"{}[7]"), ("2", b"{}["), ("3", b"{}")]
)
def test_what_no_gateway_sends_is_refused(length: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        take_history(RequestContext("r1", {HISTORY: length}, body))
