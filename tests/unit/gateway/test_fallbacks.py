"""One request over several endpoints, each with a script: who is asked, what the client gets, and what it is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping

import msgspec
import pytest
from endpoint_entries import entry

from pilotlight_gateway.request_steps import Asked, Attempted, Caller, Choice, GatewayRequest, Place, Routed
from pilotlight_gateway.routing.fallbacks import ROUTE_HEADER, answered
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.poured_events import Sink, pour

PATH = "/v1/chat/completions"
CANNOT = {
    "gone": ModelNotFound("no such model"),
    "open breaker": Unavailable("left alone"),
    "404": Reply(b"{}", 404),
    "502": Reply(b"{}", 502),
    "503": Reply(b"{}", 503),
}
IS_AN_ANSWER = {"400": InvalidInput("wrong"), "500": Reply(b"{}", 500), "429": Reply(b"{}", 429)}
SCRIPT: Mapping[str, Reply | PilotlightError] = {**CANNOT, **IS_AN_ANSWER}  # type: ignore[dict-item]


class Endpoints:
    def __init__(self, *script: str, path: str = PATH) -> None:
        self.script = script
        self.asked: list[tuple[str, str | None, object]] = []
        choices = tuple(
            Choice(entry(f"e{place}", model_names=(f"m{place}",)), f"m{place}", "target", place)
            for place in range(len(script))
        )
        self.attempts: list[Attempted] = []
        self.context = RequestContext("r1", {}, json.dumps({"model": "smart", "n": 1}).encode())
        self.context.response_headers["x-ratelimit"] = "1"
        place = Place("POST", path, path, path, path, None)
        self.request = GatewayRequest(
            self.context,
            place,
            Asked("smart"),
            Caller("team"),
            choices[0].entry,
            choices[0].model_name,
            routed=Routed("smart", "", choices, place, observe=self.attempts.append),
        )

    async def run(self, result: Stream | None = None) -> Reply | Stream:
        """`result`: the first one's, in place of what the script says."""
        self.result = result
        assert self.request.routed is not None
        return await answered(self.request, self.request.routed, self._attempt)

    async def _attempt(self, request: GatewayRequest) -> Reply | Stream:
        word = self.script[len(self.asked)]
        self.asked.append((request.entry.name, request.model_name, json.loads(request.context.body)["model"]))
        request.context.response_headers["x-of-attempt"] = request.entry.name
        request.context.server_timing[f"lease;desc={request.entry.name}"] = 1000.0
        if len(self.asked) < len(self.script):
            request.context.response_headers["x-of-a-failed-one"] = "1"
        if self.result is not None:
            return self.result
        outcome = SCRIPT.get(word)
        if isinstance(outcome, PilotlightError):
            raise outcome
        if outcome is not None:
            return outcome
        if word == "whole":
            return Reply(json.dumps({"model": request.model_name}).encode())
        return Stream(self._events(request.model_name))

    async def _events(self, name: str) -> AsyncIterator[bytes]:
        yield f'data: {{"model":"{name}"}}\n\n'.encode()


async def outcome(endpoints: Endpoints) -> object:
    try:
        result = await endpoints.run()
    except PilotlightError as error:
        return error.http_status
    if isinstance(result, Stream):
        return b"".join([event async for event in result.events])
    return result.body if result.status == 200 else result.status


@pytest.mark.parametrize(
    "script",
    [
        (*failed, last)
        for count in range(3)
        for failed in itertools.product(CANNOT, repeat=count)
        for last in ("whole", "stream")
    ],
)
async def test_the_first_that_can_answers_by_the_name_that_was_asked_for(script: tuple[str, ...]) -> None:
    endpoints = Endpoints(*script)
    answer = await outcome(endpoints)
    assert answer in (b'{"model":"smart"}', b'data: {"model":"smart"}\n\n')
    assert endpoints.asked == [(f"e{place}", f"m{place}", "smart") for place in range(len(script))]
    told = endpoints.context.response_headers
    assert told["x-ratelimit"] == "1"
    assert told["x-of-attempt"] == f"e{len(script) - 1}"
    assert "x-of-a-failed-one" not in told
    assert list(endpoints.context.server_timing) == [f"lease;desc=e{len(script) - 1}"]
    assert [(attempt.choice.place, attempt.failed) for attempt in endpoints.attempts] == [
        (place, word not in ("gone", "404", "whole", "stream")) for place, word in enumerate(script)
    ]
    assert told[ROUTE_HEADER].startswith("target" if len(script) == 1 else f"fallback {len(script) - 1}; ")


class Poured:
    """Events that hand their pieces on themselves, as those of pods do; asked for one by one they have none."""

    def __init__(self, *pieces: bytes, lost: bool = False) -> None:
        self._pieces = pieces
        self._lost = lost

    def __aiter__(self) -> Poured:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("a routed stream is read piece by piece")

    async def pour(self, sink: Sink) -> None:
        for piece in self._pieces:
            sink.write(piece)
        if self._lost:
            raise Unavailable("cut")


class Basin:
    is_full = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    async def drained(self) -> None:
        return


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", ["smart", "m0"])
async def test_a_routed_stream_is_poured_and_what_became_of_it_is_told(name: str, lost: bool) -> None:
    endpoints, basin = Endpoints("stream"), Basin()
    pieces = [f'data: {{"model":"{name}","n":{number}}}\n\n'.encode() for number in range(3)]
    endpoints.request.answers_as = name
    result = await endpoints.run(Stream(Poured(*pieces, lost=lost)))
    assert isinstance(result, Stream)
    if lost:
        with pytest.raises(Unavailable):
            await pour(result.events, basin)
    else:
        await pour(result.events, basin)
    assert basin.pieces == [piece.replace(name.encode(), b"smart") for piece in pieces]
    assert [attempt.failed for attempt in endpoints.attempts] == [lost]


@pytest.mark.parametrize("word", IS_AN_ANSWER)
async def test_what_is_an_answer_is_the_answer(word: str) -> None:
    endpoints = Endpoints(word, "whole")
    assert await outcome(endpoints) == int(word)
    assert len(endpoints.asked) == 1


@pytest.mark.parametrize("word", CANNOT)
async def test_when_none_can_the_last_one_says_why(word: str) -> None:
    endpoints = Endpoints("502", word)
    assert await outcome(endpoints) in (404, 502, 503)
    assert len(endpoints.asked) == 2


async def test_who_is_left_is_asked_in_the_order_that_is_right_then() -> None:
    endpoints = Endpoints("503", "502", "whole")
    routed = endpoints.request.routed
    assert routed is not None
    endpoints.request.routed = msgspec.structs.replace(routed, behind=lambda choices: choices[::-1])
    assert await outcome(endpoints) == b'{"model":"smart"}'
    assert [name for name, _, _ in endpoints.asked] == ["e0", "e2", "e1"]


async def test_what_does_harm_twice_is_asked_once() -> None:
    endpoints = Endpoints("503", "whole", path="/v2/repository/models/m/load")
    assert await outcome(endpoints) == 503
    assert len(endpoints.asked) == 1
