"""Each streamed event is the JSON of a TokenEvent, however it was formatted."""

from __future__ import annotations

import msgspec
import pytest

from pilotlight_protocol.generation import EventFormatter, TokenDelta, TokenEvent, TokenLogprob

LOGPROB = TokenLogprob(5, -0.25, [(5, -0.25), (6, -1.5)])


def read(chunk: bytes) -> list[TokenEvent]:
    events = chunk.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    return [msgspec.json.decode(event.removeprefix("data: "), type=TokenEvent) for event in events]


@pytest.mark.parametrize(
    "delta",
    [
        TokenDelta(0, [5]),
        TokenDelta(1, [5, 6, 7]),
        TokenDelta(0, []),
        TokenDelta(0, [5], finish_reason="length"),
        TokenDelta(0, [5], finish_reason="stop", stop_reason=2),
        TokenDelta(0, [5], logprobs=[LOGPROB]),
        TokenDelta(0, [5], prompt_tokens=7, cached_tokens=4, prompt_logprobs=[None, LOGPROB]),
    ],
)
def test_an_event_says_what_the_delta_says(delta: TokenDelta) -> None:
    (event,) = read(EventFormatter('a "quoted" name', "1", "id-é", 2).events([delta]))
    assert (event.model_name, event.model_version, event.id) == ('a "quoted" name', "1", "id-é")
    assert (event.index, event.output_ids, event.finish_reason) == (delta.index, delta.token_ids, delta.finish_reason)
    assert (event.stop_reason, event.logprobs) == (delta.stop_reason, delta.logprobs)
    assert event.prompt_tokens == (delta.prompt_tokens if delta.prompt_tokens >= 0 else None)
    assert event.prompt_logprobs == delta.prompt_logprobs


def test_the_plain_event_is_the_contracts_text() -> None:
    text = EventFormatter("m", "1", "r", 1).events([TokenDelta(0, [5])])
    assert text == (
        b'data: {"model_name":"m","model_version":"1","id":"r","index":0,"output_ids":[5],"finish_reason":null}\n\n'
    )


def test_deltas_of_one_step_are_one_chunk() -> None:
    events = read(EventFormatter("m", "1", "r", 2).events([TokenDelta(0, [5]), TokenDelta(1, [6])]))
    assert [(event.index, event.output_ids) for event in events] == [(0, [5]), (1, [6])]
