"""Deadlines that share a timer, in virtual time: they keep their times, and a task's is told from a cancellation."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from pilotlight_wire.shared_timer import SharedTimeouts, SharedTimer

pytestmark = pytest.mark.looptime


async def test_each_is_late_when_its_own_time_is_over() -> None:
    loop, timer, late = asyncio.get_running_loop(), SharedTimer(10.0), dict[str, float]()
    begun_s = loop.time()

    def start(who: str) -> None:
        timer.start(who, lambda: late.setdefault(who, round(loop.time() - begun_s)))

    for who in ("a", "b", "c", "d"):
        start(who)
        await asyncio.sleep(1)
    timer.stop("b")
    start("c")
    await asyncio.sleep(30)
    assert late == {"a": 10, "d": 13, "c": 14}


async def test_one_that_fails_holds_nobody_up() -> None:
    loop, timer, late, told = asyncio.get_running_loop(), SharedTimer(1.0), list[str](), list[object]()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail() -> None:
        raise ValueError("a bug")

    timer.start("first", fail)
    timer.start("second", lambda: late.append("second"))
    await asyncio.sleep(2)
    timer.start("third", lambda: late.append("third"))
    await asyncio.sleep(2)
    assert late == ["second", "third"]
    assert [str(each) for each in told] == ["a bug"]


async def test_a_late_one_may_start_again_and_stop_others() -> None:
    timer, seen = SharedTimer(1.0), list[str]()

    def first() -> None:
        seen.append("first")
        timer.stop("second")
        if len(seen) < 3:
            timer.start("first", first)

    timer.start("first", first)
    timer.start("second", lambda: seen.append("second"))
    await asyncio.sleep(10)
    assert seen == ["first", "first", "first"]


async def test_a_timeout_ends_what_takes_too_long_and_nothing_else() -> None:
    timeouts = SharedTimeouts()
    with pytest.raises(TimeoutError), timeouts.of(5.0):
        await asyncio.sleep(6)
    with timeouts.of(5.0):
        await asyncio.sleep(4)
    await asyncio.sleep(10)
    with pytest.raises(TimeoutError), timeouts.of(5.0), timeouts.of(60.0):
        await asyncio.sleep(6)


async def test_a_cancellation_is_no_timeout() -> None:
    timeouts, ended = SharedTimeouts(), list[str]()

    async def work() -> None:
        try:
            with timeouts.of(5.0):
                await asyncio.sleep(100)
        except TimeoutError:
            ended.append("timeout")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    for after_s, end in ((1.0, "cancelled"), (5.0, "cancelled")):
        task = asyncio.create_task(work())
        await asyncio.sleep(after_s)
        task.cancel()  # the second in the very round in which the time is over
        await asyncio.wait({task})
        assert ended.pop() == end
        assert task.cancelled()


@pytest.mark.parametrize("seed", range(10))
async def test_any_order_of_starts_and_stops_is_late_as_a_timer_each_would_be(seed: int) -> None:
    chance, loop, timer = random.Random(seed), asyncio.get_running_loop(), SharedTimer(7.0)
    begun_s, due, late, expected = loop.time(), dict[int, float](), list[tuple[int, int]](), list[tuple[int, int]]()

    def note(who: int) -> None:
        late.append((who, round(loop.time() - begun_s)))

    for second in range(60):
        expected += [(who, second) for who in [who for who, at in due.items() if at == second] if due.pop(who)]
        who = chance.randrange(5)
        if chance.random() < 0.6:
            due[who] = second + 7
            timer.start(who, partial(note, who))
        else:
            due.pop(who, None)
            timer.stop(who)
        await asyncio.sleep(1)
    assert [each for each in late if each[1] < 60] == expected
