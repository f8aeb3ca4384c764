"""A request over engines that die under it: no token twice, none left out, and a clear end where it cannot go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from scripted_engine import ScriptedEngine, ScriptedProvider

from pilotlight_engine.contract import GenerateRequest
from pilotlight_engine.leasing.engine_holder import EngineHolder, LeaseNews, Lending
from pilotlight_engine.leasing.metrics import RESUMES
from pilotlight_engine.leasing.resume import Delivered, ResumeLimits
from pilotlight_engine.leasing.resumed_generation import Generator, book
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_wire.handlers import RequestContext


@contextlib.asynccontextmanager
async def holding(provider: ScriptedProvider, lending: Lending | None = None) -> AsyncIterator[EngineHolder]:
    holder = EngineHolder(provider, lending)
    task = asyncio.create_task(holder.run())
    try:
        async with asyncio.timeout(5):
            while not holder.held:  # noqa: ASYNC110 the fakes have no event to wait for
                await asyncio.sleep(0)
        yield holder
    finally:
        task.cancel()
        await asyncio.wait({task})


async def deltas_of(
    provider: ScriptedProvider,
    limits: ResumeLimits | None = None,
    kill_after: tuple[int, ...] = (),
    **parameters: Any,
) -> list[TokenDelta]:
    """Everything the client is given when the engine dies after so many of its batches."""
    seen: list[TokenDelta] = []
    async with holding(provider) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(**parameters))
        stream = Generator(holder, limits or ResumeLimits()).generate(request, RequestContext("r", {}))
        batches = 0
        async for deltas in stream:
            seen += deltas
            batches += 1
            if batches in kill_after:
                provider.engines[-1].lose("killed by the test")
    return seen


def ids(deltas: list[TokenDelta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


@pytest.mark.parametrize("kill_after", [(1,), (5,), (9,), (1, 2, 3)])
async def test_a_stream_over_dead_engines_equals_an_undisturbed_one(kill_after: tuple[int, ...]) -> None:
    wanted: dict[str, Any] = {"max_tokens": 10, "temperature": 0.0, "logprobs": 1}
    undisturbed = await deltas_of(ScriptedProvider(), **wanted)
    disturbed = await deltas_of(ScriptedProvider(), kill_after=kill_after, **wanted)
    assert disturbed == undisturbed


@pytest.mark.parametrize("prefill_s", [-1.0, 0.0, 0.001, 1e6])
async def test_phases_add_up_to_the_time_to_the_first_token(prefill_s: float) -> None:
    context = RequestContext("r", {})
    async with holding(ScriptedProvider(prefill_s=prefill_s)) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=2))
        stream = Generator(holder, ResumeLimits()).generate(request, context)
        began_s = time.perf_counter()
        await anext(stream)
        waited_ms = (time.perf_counter() - began_s) * 1000
        async for _ in stream:
            pass
    phases = context.server_timing
    assert list(phases) == (["prefill"] if prefill_s < 0 else ["queue", "prefill"])
    assert 0 < sum(phases.values()) <= waited_ms
    if prefill_s >= 0:
        assert phases["prefill"] <= prefill_s * 1000


async def test_a_resume_is_counted_though_nobody_reads_on_after_the_last_token() -> None:
    counted = RESUMES.labels("resumed")._value
    before, provider = counted.get(), ScriptedProvider()
    async with holding(provider) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=4))
        stream = Generator(holder, ResumeLimits()).generate(request, RequestContext("r", {}))
        await anext(stream)
        provider.engines[-1].lose("killed by the test")
        async for deltas in stream:
            if deltas[-1].finish_reason is not None:
                break
        await stream.aclose()
    assert counted.get() == before + 1


async def test_every_choice_goes_on() -> None:
    wanted: dict[str, Any] = {"max_tokens": 6, "n": 3, "temperature": 1.0}
    undisturbed = await deltas_of(ScriptedProvider(), **wanted)
    disturbed = await deltas_of(ScriptedProvider(), kill_after=(2, 4), **wanted)
    for index in range(3):
        assert ids(disturbed, index) == ids(undisturbed, index)
    assert [delta.finish_reason for delta in disturbed].count("length") == 3
    assert [delta.prompt_tokens for delta in disturbed if delta.prompt_tokens >= 0] == [1]


async def test_a_seeded_sample_ends_with_a_clear_error() -> None:
    with pytest.raises(Unavailable, match="after 2 tokens, and a request with a seed cannot go on"):
        await deltas_of(ScriptedProvider(), kill_after=(2,), max_tokens=9, seed=1)


@pytest.mark.parametrize("killed_after", [0, 2])
async def test_what_one_model_began_no_other_continues(killed_after: int) -> None:
    """Its files were changed while it ran: the next lease of the same URI is answered with others."""
    provider = ScriptedProvider()

    async def reachable() -> None:
        return

    def news() -> LeaseNews:
        return LeaseNews("loaded", {}, f"content {len(provider.engines)}")

    async with holding(provider, Lending(60.0, 60.0, reachable, news, lambda tell: None)) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=5, temperature=0.0))
        stream, seen = Generator(holder, ResumeLimits()).generate(request, RequestContext("r", {})), list[TokenDelta]()
        if not killed_after:
            provider.engines[-1].lose("killed by the test")
        with pytest.raises(Unavailable, match="changed meanwhile") if killed_after else contextlib.nullcontext():
            async for deltas in stream:
                seen += deltas
                if len(seen) == killed_after:
                    provider.engines[-1].lose("killed by the test")
    assert ids(seen) == ([2, 3] if killed_after else [2, 3, 4, 5, 6])


async def test_resumes_are_bounded() -> None:
    with pytest.raises(Unavailable, match="given up after 1 resumes"):
        await deltas_of(ScriptedProvider(), ResumeLimits(max_resumes=1), kill_after=(2, 3), max_tokens=9)


async def test_a_wait_for_the_next_engine_has_a_deadline() -> None:
    provider = ScriptedProvider()
    async with holding(provider) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=9))
        stream = Generator(holder, ResumeLimits(deadline_s=0.01)).generate(request, RequestContext("r", {}))
        await anext(stream)
        provider.boot_s = 60
        provider.engines[-1].lose("killed by the test")
        with pytest.raises(Unavailable, match="killed by the test; no other engine: the engine is starting"):
            await anext(stream)


class AbortingEngine(ScriptedEngine):
    """Its first request ends with `abort`, as one of a lease that was taken away."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[TokenDelta], None]:
        if self.seen:
            async for deltas in super().generate(request):
                yield deltas
            return
        self.seen.append(request)
        yield [TokenDelta(0, [2], prompt_tokens=1, cached_tokens=0)]
        self.lose("revoked")
        yield [TokenDelta(0, [3], "abort")]


async def test_an_abort_that_nobody_asked_for_is_a_loss_and_not_an_end() -> None:
    provider = ScriptedProvider()
    provider.engine_class = AbortingEngine
    async with holding(provider) as holder:
        provider.engine_class = ScriptedEngine
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=5))
        stream = Generator(holder, ResumeLimits()).generate(request, RequestContext("r", {}))
        seen = [delta async for deltas in stream for delta in deltas]
    assert ids(seen) == [2, 3, 4, 5, 6]
    assert [delta.finish_reason for delta in seen] == [None, None, None, None, "length"]


class LostAtTheEnd(ScriptedEngine):
    """Says every choice's last token and is lost before its stream ends."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[TokenDelta], None]:
        async for deltas in super().generate(request):
            yield deltas
        self.lose("killed by the test")
        raise Unavailable("killed by the test")


async def test_a_loss_after_the_last_token_is_the_end() -> None:
    provider = ScriptedProvider()
    provider.engine_class = LostAtTheEnd
    async with holding(provider) as holder:
        provider.engine_class = ScriptedEngine
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=2, n=2, temperature=0.0))
        stream = Generator(holder, ResumeLimits()).generate(request, RequestContext("r", {}))
        seen = [delta async for deltas in stream for delta in deltas]
        assert provider.engines[-1].seen == []
    assert [delta.finish_reason for delta in seen].count("length") == 2


async def test_closing_a_resumed_stream_aborts_its_parts() -> None:
    provider = ScriptedProvider()
    async with holding(provider) as holder:
        request = GenerateRequest("r", [1], GenerationParameters(max_tokens=99, n=2))
        stream: Any = Generator(holder, ResumeLimits()).generate(request, RequestContext("r", {}))
        await anext(stream)
        provider.engines[0].lose("killed by the test")
        await anext(stream)
        assert provider.engines[1].active == 2
        await stream.aclose()
        assert provider.engines[1].active == 0


def test_deltas_are_booked_per_choice_and_an_abort_is_told_and_is_no_end() -> None:
    delivered = [Delivered(), Delivered(), Delivered()]
    assert not book(
        [TokenDelta(0, [5], prompt_tokens=2), TokenDelta(1, [6, 7]), TokenDelta(1, [8], "length")], delivered
    )
    assert book([TokenDelta(2, [9], "abort")], delivered)
    assert delivered == [Delivered([5], opened=True), Delivered([6, 7, 8], finished=True), Delivered([9])]
