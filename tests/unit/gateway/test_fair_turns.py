"""Requests that wait for their turn: who leaves leaves nothing, who waits too long is told when to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from endpoint_entries import entry

from pilotlight_gateway.priorities.asked_priority import priority_of
from pilotlight_gateway.priorities.fair_turns import FairTurns
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.request_steps import NO_TURN, Asked, Caller, GatewayRequest, Place, PriorityClass, Turn
from pilotlight_protocol.endpoint_directory import RequestBounds
from pilotlight_protocol.errors import InvalidInput, PilotlightError, TooManyRequests, Unavailable
from pilotlight_protocol.request_priority import PRIORITY_HEADER
from pilotlight_wire.handlers import RequestContext

PATH = "/v1/chat/completions"
ENDPOINT = entry("chat", bounds=RequestBounds(max_batch=1))


def request(
    tenant: str = "team", path: str = PATH, cap: PriorityClass = "normal", tier: str | None = None, **headers: str
) -> GatewayRequest:
    context = RequestContext("r1", {name.replace("_", "-"): value for name, value in headers.items()}, b"{}" * 20)
    place = Place("POST", path, path, path, path, None)
    asked = Asked("chat", max_tokens=20, service_tier=tier)
    return GatewayRequest(context, place, asked, Caller(tenant, priority=cap), ENDPOINT, "chat")


class World:
    def __init__(self, **settings: Any) -> None:
        self.turns = FairTurns(lambda: QueueSettings(**settings), lambda: asyncio.get_running_loop().time())

    async def waits(self, *given: Any, **more: Any) -> asyncio.Task[Turn]:
        task = asyncio.create_task(self.turns.take(request(*given, **more)))
        await asyncio.sleep(0)
        return task

    @property
    def waiting(self) -> int:
        return len(self.turns._waiting)

    async def check_nothing_is_left(self) -> None:
        """Whoever comes goes at once."""
        assert not self.waiting
        (endpoint,) = self.turns._endpoints.values()
        assert endpoint.is_unused
        goes_at_once(self.turns, request()).end()


def goes_at_once(turns: FairTurns, asked: GatewayRequest) -> Turn:
    with pytest.raises(StopIteration) as ended:
        turns.take(asked).send(None)
    turn: Turn = ended.value.value
    return turn


@pytest.mark.parametrize(
    ("cap", "header", "tier", "has"),
    [
        ("normal", None, None, "normal"),
        ("high", None, None, "high"),
        ("low", None, None, "low"),
        ("high", "low", None, "low"),
        ("normal", "high", None, "normal"),
        ("low", "normal", None, "low"),
        ("low", "idle", None, "idle"),
        ("high", " Normal ", None, "normal"),
        ("high", None, "flex", "low"),
        ("high", None, "priority", "high"),
        ("normal", None, "auto", "normal"),
        ("high", "high", "flex", "high"),
    ],
)
def test_a_request_has_the_class_it_asks_for_and_no_more_than_its_key(
    cap: PriorityClass, header: str | None, tier: str | None, has: str
) -> None:
    headers = {} if header is None else {PRIORITY_HEADER: header}
    assert priority_of(cap, headers, tier) == has


def test_a_class_that_there_is_not() -> None:
    with pytest.raises(InvalidInput, match="high, normal, low, idle"):
        priority_of("high", {PRIORITY_HEADER: "urgent"}, None)


async def test_where_there_is_room_nothing_is_awaited_and_the_class_goes_on() -> None:
    world = World()
    asked = request(cap="high", x_pilotlight_priority="low")
    turn = goes_at_once(world.turns, asked)
    assert asked.context.headers[PRIORITY_HEADER] == "low"
    turn.end()
    await world.check_nothing_is_left()


async def test_what_needs_no_engine_takes_no_turn() -> None:
    world = World()
    goes_at_once(world.turns, request())
    assert goes_at_once(world.turns, request(path="/tokenize")) is NO_TURN


@pytest.mark.looptime
async def test_who_waits_goes_when_another_has_ended() -> None:
    world = World()
    first = goes_at_once(world.turns, request())
    low, high = await world.waits(cap="high", x_pilotlight_priority="low"), await world.waits(cap="high")
    first.end()
    turn = await high
    assert not low.done()
    turn.end()
    (await low).end()
    await world.check_nothing_is_left()


@pytest.mark.looptime
async def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    world = World(longest_wait_s=7)
    first = goes_at_once(world.turns, request())
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as told:
        await world.turns.take(request())
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(7)
    assert told.value.retry_after_s >= 1
    first.end()
    await world.check_nothing_is_left()


async def test_a_full_queue() -> None:
    world = World(waiting=2, waiting_of_tenant=1)
    first = goes_at_once(world.turns, request())
    mine = await world.waits("a", x_pilotlight_priority="low")
    told: list[PilotlightError] = []
    for tenant, error in (("a", TooManyRequests), ("b", None), ("c", Unavailable)):
        task = await world.waits(tenant, x_pilotlight_priority="low")
        if error is not None:
            with pytest.raises(error) as raised:
                await task
            told.append(raised.value)
        else:
            others = task
    urgent = await world.waits("c")
    done, left = await asyncio.wait({mine, others}, return_when=asyncio.FIRST_COMPLETED)
    (gone,), (stays,) = done, left
    with pytest.raises(Unavailable):
        await gone
    assert {each.retry_after_header for each in told} == {"5"}
    first.end()
    (await urgent).end()
    (await stays).end()
    await world.check_nothing_is_left()


@pytest.mark.parametrize("when", ["while it waits", "just as it is its turn", "just as it has to leave"])
async def test_a_client_that_leaves_leaves_nothing(when: str) -> None:
    world = World(waiting=1)
    first = goes_at_once(world.turns, request())
    waiting = await world.waits("a", x_pilotlight_priority="low")
    urgent = None
    if when == "just as it is its turn":
        first.end()
    elif when == "just as it has to leave":
        urgent = await world.waits("b")
    waiting.cancel()
    await asyncio.wait({waiting})
    if when != "just as it is its turn":
        first.end()
    if urgent is not None:
        (await urgent).end()
    await world.check_nothing_is_left()


async def test_an_upstream_without_room_is_given_less() -> None:
    world = World(in_flight=16)
    turns = [goes_at_once(world.turns, request()) for _ in range(16)]
    turns[0].refused()
    turns[0].end()
    waiting = await world.waits()
    assert not waiting.done()
    for turn in turns[1:]:
        turn.end()
    (await waiting).end()
    await world.check_nothing_is_left()


async def test_replicas_bring_room() -> None:
    world = World(in_flight=2)
    for _ in range(2):
        goes_at_once(world.turns, request())
    more = request()
    more.entry = entry("chat", pods_ready=2)
    goes_at_once(world.turns, more)
