"""A request's deltas between the socket and their reader."""

import asyncio

import pytest

from pilotlight_engine.client.engine_client import EngineStream
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenDelta, TokenLogprob


async def test_a_fast_reader_sees_each_step() -> None:
    stream = EngineStream(1, lambda: None)
    for token in (5, 6):
        stream.put(TokenDelta(0, [token]))
        assert [delta.token_ids for delta in await anext(stream)] == [[token]]


async def test_a_slow_reader_gets_its_deltas_merged() -> None:
    stream = EngineStream(1, lambda: None)
    stream.put(TokenDelta(0, [5], logprobs=[TokenLogprob(5, -1.0)], prompt_tokens=3, cached_tokens=0))
    stream.put(TokenDelta(0, [6], logprobs=[TokenLogprob(6, -2.0)]))
    stream.put(TokenDelta(0, [7], "stop", 7, [TokenLogprob(7, -3.0)]))
    (delta,) = await anext(stream)
    assert delta.token_ids == [5, 6, 7]
    assert (delta.finish_reason, delta.stop_reason, delta.prompt_tokens) == ("stop", 7, 3)
    assert [entry.token_id for entry in delta.logprobs or []] == [5, 6, 7]
    assert await anext(stream, None) is None


async def test_choices_are_kept_apart_and_all_must_finish() -> None:
    stream = EngineStream(2, lambda: None)
    stream.put(TokenDelta(0, [1]))
    stream.put(TokenDelta(1, [2], "length"))
    stream.put(TokenDelta(0, [3]))
    assert [(delta.index, delta.token_ids) for delta in await anext(stream)] == [(0, [1, 3]), (1, [2])]
    assert not stream.finished
    stream.put(TokenDelta(0, [4], "stop"))
    assert stream.finished


async def test_a_waiting_reader_is_woken_by_a_delta_and_by_a_failure() -> None:
    stream = EngineStream(1, lambda: None)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.put(TokenDelta(0, [1]))
    assert len(await reader) == 1
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.fail(Unavailable("lost"))
    with pytest.raises(Unavailable, match="lost"):
        await reader


async def test_what_came_before_a_failure_is_read_first() -> None:
    stream = EngineStream(1, lambda: None)
    stream.put(TokenDelta(0, [1]))
    stream.fail(Unavailable("lost"))
    assert len(await anext(stream)) == 1
    with pytest.raises(Unavailable):
        await anext(stream)


async def test_a_failure_after_the_end_is_nothing() -> None:
    stream = EngineStream(1, lambda: None)
    stream.put(TokenDelta(0, [1], "stop"))
    stream.fail(Unavailable("lost"))
    assert len(await anext(stream)) == 1
    assert await anext(stream, None) is None
