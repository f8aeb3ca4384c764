import asyncio

import pytest

from pilotlight_engine.client.token_mailbox import Mailbox
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenDelta, TokenLogprob


async def test_a_fast_reader_sees_each_step() -> None:
    mailbox = Mailbox(1)
    for token in (5, 6):
        mailbox.put(TokenDelta(0, [token]))
        assert [delta.token_ids for delta in await mailbox.take()] == [[token]]


async def test_a_slow_reader_gets_its_deltas_merged() -> None:
    mailbox = Mailbox(1)
    mailbox.put(TokenDelta(0, [5], logprobs=[TokenLogprob(5, -1.0)], prompt_tokens=3, cached_tokens=0))
    mailbox.put(TokenDelta(0, [6], logprobs=[TokenLogprob(6, -2.0)]))
    mailbox.put(TokenDelta(0, [7], "stop", 7, [TokenLogprob(7, -3.0)]))
    (delta,) = await mailbox.take()
    assert delta.token_ids == [5, 6, 7]
    assert (delta.finish_reason, delta.stop_reason, delta.prompt_tokens) == ("stop", 7, 3)
    assert [entry.token_id for entry in delta.logprobs or []] == [5, 6, 7]
    assert await mailbox.take() == []


async def test_choices_are_kept_apart_and_all_must_finish() -> None:
    mailbox = Mailbox(2)
    mailbox.put(TokenDelta(0, [1]))
    mailbox.put(TokenDelta(1, [2], "length"))
    mailbox.put(TokenDelta(0, [3]))
    assert [(delta.index, delta.token_ids) for delta in await mailbox.take()] == [(0, [1, 3]), (1, [2])]
    assert not mailbox.finished
    mailbox.put(TokenDelta(0, [4], "stop"))
    assert mailbox.finished


async def test_a_waiting_reader_is_woken_by_a_delta_and_by_a_failure() -> None:
    mailbox = Mailbox(1)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put(TokenDelta(0, [1]))
    assert len(await reader) == 1
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.fail(Unavailable("lost"))
    with pytest.raises(Unavailable, match="lost"):
        await reader


async def test_what_came_before_a_failure_is_read_first() -> None:
    mailbox = Mailbox(1)
    mailbox.put(TokenDelta(0, [1]))
    mailbox.fail(Unavailable("lost"))
    assert len(await mailbox.take()) == 1
    with pytest.raises(Unavailable):
        await mailbox.take()


async def test_a_failure_after_the_end_is_nothing() -> None:
    mailbox = Mailbox(1)
    mailbox.put(TokenDelta(0, [1], "stop"))
    mailbox.fail(Unavailable("lost"))
    assert len(await mailbox.take()) == 1
    assert await mailbox.take() == []
