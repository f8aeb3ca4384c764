"""What every source of tokens does, whatever is behind it. Subclass it and give the fixtures.

The engine behind is the scripted one: it counts up from the prompt's last token, ends at EOS, refuses REFUSED, and dies
after two tokens of a prompt with LOST.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from scripted_engine import EOS, LOST, REFUSED, ScriptedProvider
from waiting import until_async

from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_protocol.errors import InvalidInput, NotSupported, Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenEvent
from pilotlight_text.token_source import TokenRequest, TokenSource, TokenStream

Running = Callable[[], Awaitable[int]]
"""How many sequences are being generated."""


@asynccontextmanager
async def ready_holder(provider: ScriptedProvider) -> AsyncIterator[EngineHolder]:
    """A holder in this process that has its engine."""
    holder = EngineHolder(provider)
    holding = asyncio.create_task(holder.run())
    try:
        async with asyncio.timeout(5):
            while not holder.ready:  # noqa: ASYNC110 the holder has no event to wait for
                await asyncio.sleep(0)
        yield holder
    finally:
        holding.cancel()
        await asyncio.wait({holding})


def running_on(provider: ScriptedProvider) -> Running:
    async def count() -> int:
        return sum(engine.active for engine in provider.engines)

    return count


def asked(ids: list[int], *, whole: bool = False, model: str = "demo", **parameters: Any) -> TokenRequest:
    return TokenRequest(model, "r1", ids, GenerationParameters(**parameters), whole=whole)


async def all_events(stream: TokenStream) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    try:
        while new := await stream.events():
            events += new
        return events
    finally:
        await stream.close()


def tokens_of(events: list[TokenEvent], choice: int = 0) -> list[int]:
    return [token for event in events if event.index == choice for token in event.output_ids]


def reasons_of(events: list[TokenEvent]) -> dict[int, str]:
    return {event.index: event.finish_reason for event in events if event.finish_reason is not None}


@pytest.mark.parametrize("whole", [False, True])
class TokenSourceConformance:
    """Fixtures: `source` (of model `demo` with the adapter `adapter`), `running`, `has_logprobs`.

    `streams_are_silent`: the wire has no place for the phases of a stream.
    """

    async def test_an_answer_is_complete_and_ends(self, source: TokenSource, whole: bool) -> None:
        stream = await source.stream(asked([1, 2], whole=whole, max_tokens=5))
        events = await all_events(stream)
        assert tokens_of(events) == [3, 4, 5, 6, 7]
        assert reasons_of(events) == {0: "length"}
        assert [event.prompt_tokens for event in events][:1] == [2]
        assert await stream.events() == []

    async def test_every_choice_has_its_own(self, source: TokenSource, whole: bool) -> None:
        events = await all_events(await source.stream(asked([5], whole=whole, n=3, max_tokens=4)))
        assert [tokens_of(events, choice) for choice in range(3)] == [[6, 7, 8, 9]] * 3
        assert reasons_of(events) == {0: "length", 1: "length", 2: "length"}

    async def test_the_end_of_a_sequence_is_told(self, source: TokenSource, whole: bool) -> None:
        events = await all_events(await source.stream(asked([EOS - 2], whole=whole, max_tokens=9)))
        assert (tokens_of(events), reasons_of(events)) == ([EOS - 1, EOS], {0: "stop"})

    async def test_an_adapter_goes_by_its_name(self, source: TokenSource, whole: bool) -> None:
        events = await all_events(await source.stream(asked([1], whole=whole, model="adapter", max_tokens=1)))
        assert tokens_of(events) == [2]

    async def test_phases_are_told_at_the_start(
        self, source: TokenSource, whole: bool, streams_are_silent: bool
    ) -> None:
        stream = await source.stream(asked([1], whole=whole, max_tokens=2))
        assert ("prefill" in stream.facts.phases_ms) == (whole or not streams_are_silent)
        await all_events(stream)

    async def test_a_refusal_comes_before_the_answer(self, source: TokenSource, whole: bool) -> None:
        with pytest.raises(InvalidInput):
            await source.stream(asked([REFUSED], whole=whole, max_tokens=2))

    async def test_log_probabilities_come_or_are_refused(
        self, source: TokenSource, whole: bool, has_logprobs: bool
    ) -> None:
        request = asked([1], whole=whole, max_tokens=2, logprobs=1)
        if not has_logprobs:
            with pytest.raises(NotSupported):
                await source.stream(request)
            return
        events = await all_events(await source.stream(request))
        assert [entry.token_id for event in events for entry in event.logprobs or ()] == [2, 3]

    async def test_closing_early_ends_the_generation(self, source: TokenSource, whole: bool, running: Running) -> None:
        stream = await source.stream(asked([1], max_tokens=400))
        assert await stream.events()
        await stream.close()
        await until_async(running, holds=operator.not_)

    async def test_who_stops_waiting_ends_the_generation(
        self, source: TokenSource, whole: bool, running: Running
    ) -> None:
        waiting = asyncio.create_task(source.stream(asked([1], whole=whole, max_tokens=400)))
        await asyncio.sleep(0.002)
        waiting.cancel()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.close()
        await until_async(running, holds=operator.not_)

    async def test_a_lost_engine_is_never_the_end_of_an_answer(self, source: TokenSource, whole: bool) -> None:
        try:
            events = await all_events(await source.stream(asked([LOST], whole=whole, max_tokens=8)))
        except Unavailable:
            return
        assert tokens_of(events) == list(range(LOST + 1, LOST + 9))
        assert reasons_of(events) == {0: "length"}
