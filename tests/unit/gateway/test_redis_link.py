"""When Redis counts as away: what a call that is late, a PING that is, and a refused connection mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pilotlight_gateway.redis_calls import RedisAway, Script, ScriptCall
from pilotlight_gateway.redis_link import DEADLINE_S, PROBE_S, RedisLink

pytestmark = pytest.mark.looptime
CALL = ScriptCall(Script("return 1"), [], [])
LATE = TimeoutError()
"""Stands for what is never answered."""


class Scripted:
    """A client whose answer to everything is `says`."""

    def __init__(self) -> None:
        self.says: Any = b"1"
        self.asked: list[str] = []
        self.closed = False

    async def execute_command(self, *words: Any) -> Any:
        self.asked.append(words[0])
        if self.says is LATE:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def aclose(self) -> None:
        self.closed = True


class World:
    def __init__(self) -> None:
        self.calls, self.pings = Scripted(), Scripted()
        self.link = RedisLink("", DEADLINE_S, lambda url, deadline_s, most: self.pings if most == 1 else self.calls)
        self.returned = 0
        self.link.on_return(self._returned)

    def _returned(self) -> None:
        self.returned += 1

    async def fails(self) -> float:
        """How long it takes."""
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(RedisAway):
            await self.link.call(CALL)
        return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("late", [LATE, RedisTimeoutError("connecting"), OSError(110, "timed out")])
async def test_a_late_call_is_away_for_its_request_alone_where_a_ping_is_answered(late: Exception) -> None:
    world = World()
    await world.link.start()
    world.calls.says = late
    await asyncio.gather(*(world.fails() for _ in range(40)))
    await asyncio.sleep(DEADLINE_S)
    assert world.link.there
    assert world.pings.asked == ["PING", "PING"], "one asks for all"
    world.calls.says = b"1"
    assert await world.link.call(CALL) == b"1"
    assert world.returned == 1
    await world.link.close()
    assert world.calls.closed
    assert world.pings.closed


async def test_nobody_waits_once_a_ping_is_late_too() -> None:
    world = World()
    await world.link.start()
    world.calls.says = world.pings.says = LATE
    await world.fails()
    await asyncio.sleep(DEADLINE_S + 0.01)
    assert not world.link.there
    assert await world.fails() == 0
    world.calls.says = world.pings.says = b"1"
    await asyncio.sleep(PROBE_S + DEADLINE_S + 0.01)
    assert world.link.there
    assert await world.link.call(CALL) == b"1"
    assert world.returned == 2
    await world.link.close()


async def test_a_refused_connection_is_away_at_once() -> None:
    world = World()
    await world.link.start()
    world.calls.says = RedisConnectionError("refused")
    assert await world.fails() == 0
    assert not world.link.there
    await world.link.close()


async def test_who_says_no_is_there() -> None:
    world = World()
    await world.link.start()
    world.calls.says = ResponseError("OOM")
    await world.fails()
    assert world.link.there
    await world.link.close()


async def test_nothing_is_left_of_a_link_that_is_closed_while_it_asks() -> None:
    world = World()
    await world.link.start()
    world.calls.says = world.pings.says = LATE
    await world.fails()
    before = asyncio.all_tasks()
    await world.link.close()
    assert len(before) == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}
