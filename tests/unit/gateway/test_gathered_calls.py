"""Calls that come together go together; each has its own answer, and a failure is of all that went with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pilotlight_gateway.idempotency.gathered_calls import MOST_TOGETHER, GatheredCalls
from pilotlight_gateway.redis_calls import RedisAway, Script, ScriptCall

SCRIPT = Script("return 1")


class Link:
    there = True

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def on_return(self, returned: Callable[[], None]) -> None:
        return

    async def call(self, call: ScriptCall) -> Any:
        raise AssertionError

    async def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.sent.append(len(calls))
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return [call.arguments[0] for call in calls]


def asked(gathered: GatheredCalls, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(gathered.call(ScriptCall(SCRIPT, ["k"], [number]))) for number in range(count)]


async def test_those_of_one_moment_are_one_round_trip_and_have_each_its_answer() -> None:
    link = Link()
    gathered = GatheredCalls(link)
    assert await asyncio.gather(*asked(gathered, 5)) == list(range(5))
    assert link.sent == [5]
    assert await asyncio.gather(*asked(gathered, MOST_TOGETHER + 3)) == list(range(MOST_TOGETHER + 3))
    assert link.sent[1:] == [MOST_TOGETHER, 3]


@pytest.mark.parametrize("error", [RedisAway("away"), ValueError("a bug")])
async def test_a_failure_is_told_to_all_and_ends_with_it(error: Exception) -> None:
    link = Link()
    gathered = GatheredCalls(link)
    link.fails = error
    assert await asyncio.gather(*asked(gathered, 3), return_exceptions=True) == [error] * 3
    link.fails = None
    assert await asyncio.gather(*asked(gathered, 2)) == [0, 1]


async def test_who_leaves_takes_nobody_along() -> None:
    link = Link()
    gathered = GatheredCalls(link)
    link.gate.clear()
    left, stays = asked(gathered, 2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    left.cancel()
    link.gate.set()
    assert await stays == 1
    assert left.cancelled()
