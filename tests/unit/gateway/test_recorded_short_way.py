"""A stream of the short way is told while it is made, and another process goes on with it at any place: the same bytes,
and all of its tokens counted once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.metering import USAGE, usage_now
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, TokenUsage
from pilotlight_gateway.short_way.recorded_short_way import RecordedShortWay
from pilotlight_gateway.stream_record import LeftOff, NobodyGoesOn, StreamRecord
from pilotlight_protocol.answer_record import TELL, Seed, lost_line
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenEvent
from pilotlight_protocol.pooling import not_pooling
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.resumption.current_record import random_token, token_stream
from pilotlight_text.resumption.told_answers import told
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import OUTPUT_TOKENS

TOKENS = list(range(100, 140))
PROMPT = [1, 2, 3]


class Engine:
    """Says TOKENS in batches of `sizes`, again and again; counts as the short way's admission does."""

    facts = AnswerFacts()

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes

    async def stream(self, request: TokenRequest) -> TokenStream:
        done = int(request.metadata.get(OUTPUT_TOKENS, 0))
        assert request.input_ids == PROMPT + TOKENS[:done]
        return _Said(TOKENS[done:], self._sizes, len(request.input_ids), usage_now())

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        raise not_pooling()

    async def close(self) -> None:
        return


class _Said:
    facts = AnswerFacts()

    def __init__(self, tokens: list[int], sizes: Sequence[int], prompt: int, usage: TokenUsage) -> None:
        self._tokens, self._sizes, self._prompt, self._usage = tokens, sizes, prompt, usage
        self._batches = 0

    async def events(self) -> list[TokenEvent]:
        size = self._sizes[self._batches % len(self._sizes)]
        ids, self._tokens = self._tokens[:size], self._tokens[size:]
        event = TokenEvent(output_ids=ids, finish_reason=None if self._tokens else "length")
        if not self._batches:
            event.prompt_tokens, event.cached_tokens = self._prompt, 0
            self._usage.prompt_tokens += self._prompt
        self._usage.output_tokens += len(ids)
        self._batches += 1
        return [event] if ids else []

    async def close(self) -> None:
        return


class Short:
    """The short way without text: an event for each batch, and a name of the answer that nobody guesses."""

    def __init__(self, engine: Engine, parameters: GenerationParameters) -> None:
        self._engine = engine
        self._parameters = parameters
        self.closed = 0

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        if TELL not in request.context.headers:
            return await self._handle(request.context)
        return await told(self._handle, request.context)

    async def _handle(self, context: RequestContext) -> Reply | Stream:
        assert context.body == b"{}"
        name = random_token(4)
        asked = TokenRequest("chat", "r", list(PROMPT), self._parameters, dict(context.headers))
        return Stream(self._events(name, await token_stream(self._engine, asked)))

    async def _events(self, name: str, stream: TokenStream) -> AsyncIterator[bytes]:
        try:
            while batch := await stream.events():
                for event in batch:
                    for token in event.output_ids:
                        yield b"data: %b %d\n\n" % (name.encode(), token)
            yield b"data: [DONE]\n\n"
        finally:
            self.closed += 1

    async def close(self) -> None:
        return


def asked(record: StreamRecord | None, *, stream: bool = True) -> GatewayRequest:
    place = Place("POST", "/v1/x", "/v1/x", "/v1/x", "/v1/x", None)
    context = RequestContext("r", {"x": "1"}, b"{}")
    request = GatewayRequest(context, place, Asked("chat", stream=stream), Caller("team"), entry("chat"), "chat")
    request.record = record
    USAGE.set(request.usage)
    return request


def seeded() -> StreamRecord:
    return StreamRecord(Seed(1_700_000_000, "secret"))


async def said(way: RecordedShortWay, request: GatewayRequest, most: int = 999) -> list[bytes]:
    result = await way.answer(request)
    assert isinstance(result, Stream)
    pieces: list[bytes] = []
    events: Any = result.events
    try:
        while len(pieces) < most and (piece := await anext(events, b"")):
            pieces.append(piece)
    finally:
        await events.aclose()
    return pieces


def way(sizes: Sequence[int], **parameters: Any) -> RecordedShortWay:
    limited = GenerationParameters(max_tokens=len(TOKENS), **{"temperature": 0.0, **parameters})
    return RecordedShortWay(Short(Engine(sizes), limited))


def left_off(record: StreamRecord, behind: int = 0) -> LeftOff:
    """What would be kept of it now."""
    assert record.began is not None
    assert record.position is not None
    lines = record.told_from(behind)
    assert lines is not None
    return LeftOff(record.began, lines, record.position)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), *[st.lists(st.integers(1, 5), min_size=1, max_size=3)] * 2)
async def test_another_process_goes_on_with_the_same_bytes(cut: int, sizes: list[int], others: list[int]) -> None:
    whole = asked(seeded())
    undisturbed = b"".join(await said(way(sizes), whole))
    assert undisturbed.endswith(b" 139\n\ndata: [DONE]\n\n")
    assert (whole.usage.prompt_tokens, whole.usage.output_tokens) == (len(PROMPT), len(TOKENS))

    first = asked(seeded())
    seen = b"".join(await said(way(sizes), first, cut))
    kept = left_off(first.record)  # type: ignore[arg-type]
    assert kept.passed.sent == len(seen)

    record = StreamRecord(Seed.read(kept.began.seed), kept)
    second = asked(record)
    assert seen + b"".join(await said(way(others), second)) == undisturbed
    assert second.usage == whole.usage
    # And a third one could go on with what the second told.
    third = asked(StreamRecord(Seed.read(kept.began.seed), left_off(record)))
    assert b"".join(await said(way(others), third)) == b""
    assert third.usage == whole.usage


async def test_what_is_told_comes_in_parts() -> None:
    record = seeded()
    await said(way([2]), asked(record))
    lines = record.told_from(0)
    assert lines is not None
    for place in (1, len(lines) // 2, len(lines)):
        assert record.told_from(place) == lines[place:]


async def test_other_bytes_than_were_shown_end_it() -> None:
    first = asked(seeded())
    await said(way([1]), first, 5)
    kept = left_off(first.record)  # type: ignore[arg-type]
    other = replace(kept, passed=kept.passed.__class__(kept.passed.sent, kept.passed.crc ^ 1))
    with pytest.raises(Unavailable, match="another one than what was sent"):
        await said(way([1]), asked(StreamRecord(Seed.read(kept.began.seed), other)))


class Losing(Short):
    """It says only why there is no more."""

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        return Stream(self._lost())

    async def _lost(self) -> AsyncIterator[bytes]:
        yield lost_line("a seed cannot go on")


async def test_what_cannot_go_on_exactly_cannot_anywhere() -> None:
    losing = RecordedShortWay(Losing(Engine([1]), GenerationParameters()))
    with pytest.raises(NobodyGoesOn, match="a seed cannot go on"):
        await said(losing, asked(seeded()))


async def test_nothing_is_told_of_a_request_that_nobody_keeps_and_of_no_whole_answer() -> None:
    for record, stream in ((None, True), (seeded(), False)):
        request = asked(record, stream=stream)
        assert (await said(way([3]), request))[-1] == b"data: [DONE]\n\n"
        assert (request.usage.prompt_tokens, request.usage.output_tokens) == (len(PROMPT), len(TOKENS))
        assert request.record is None or request.record.began is None
