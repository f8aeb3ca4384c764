"""A folder that hangs holds up who asks for it, and nobody else. Look-ups are threads that wait for the test."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from waiting import until_async

from pilotlight_pool.agent.model_look_ups import ModelLookUps
from pilotlight_protocol.errors import InvalidInput, Unavailable

GOOD, BAD = "/models/good", "/models/bad"


async def test_one_model_that_hangs_is_given_up_and_the_others_are_read_meanwhile() -> None:
    look_ups, answers, begun = ModelLookUps(deadline_s=0.05), threading.Event(), []

    def hang() -> None:
        begun.append(1)
        answers.wait(20)

    try:
        asked = [asyncio.create_task(look_ups.look(BAD, hang)) for _ in range(40)]
        for number in range(10):
            assert await look_ups.look(GOOD, partial(int, number)) == number
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert "/models/bad was not read within 0.05 s" in str(outcomes[0])
        with pytest.raises(Unavailable):
            await look_ups.look(BAD, hang)
        assert len(begun) == 2, "a model has two threads at most, however often it is asked for"
    finally:
        answers.set()
    await until_async(lambda: not look_ups._models)
    assert await look_ups.look(BAD, lambda: "answers again") == "answers again"
    look_ups.close()


async def test_what_a_look_up_raises_is_raised_and_no_model_is_remembered() -> None:
    look_ups = ModelLookUps()

    def refuse() -> None:
        raise InvalidInput("no model")

    def late() -> None:
        raise TimeoutError("the work's own")

    for number in range(3):
        with pytest.raises(InvalidInput, match="no model"):
            await look_ups.look(f"/models/{number}", refuse)
    with pytest.raises(TimeoutError, match="the work's own"):
        await look_ups.look(BAD, late)
    await until_async(lambda: not look_ups._models)
    look_ups.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await look_ups.look(GOOD, lambda: 1)


async def test_who_stops_waiting_frees_its_turn_when_the_thread_ends_and_what_it_found_is_given_back() -> None:
    look_ups, answers, begun = ModelLookUps(), threading.Event(), threading.Semaphore(0)
    back = threading.Semaphore(0)
    given_back: list[bool] = []

    def hang() -> bool:
        begun.release()
        return answers.wait(20)

    def give_back(found: bool) -> None:
        given_back.append(found)
        back.release()

    first = [asyncio.create_task(look_ups.look(BAD, hang, give_back)) for _ in range(2)]
    for _ in first:
        assert await asyncio.to_thread(begun.acquire, timeout=20)
    for task in first:
        task.cancel()
    waiting = asyncio.create_task(look_ups.look(BAD, lambda: "its turn"))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    answers.set()
    assert await waiting == "its turn"
    await until_async(lambda: not look_ups._models)
    for _ in first:  # a thread gives back after it has ended its turn
        assert await asyncio.to_thread(back.acquire, timeout=20)
    assert given_back == [True, True]
    look_ups.close()
