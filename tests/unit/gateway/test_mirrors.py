"""Copies of requests: whose they are, how many run, and that nothing of theirs reaches the original."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from endpoint_entries import entry

from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.request_steps import Asked, Caller, Choice, GatewayRequest, Place
from pilotlight_gateway.routing.mirrors import MIRROR_HEADER, Mirrors
from pilotlight_protocol.errors import Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

PATH = "/v1/chat/completions"
SHADOW = Choice(entry("shadow", "prod", timeout_s=5.0), "shadow-model", "mirror")


class World:
    def __init__(self) -> None:
        self.busy = False
        self.mirrors = Mirrors(lambda: self.busy)
        self.seen: list[GatewayRequest] = []
        self.read = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.fails: Exception | None = None
        headers = {"x-pilotlight-tenant": "team", "idempotency-key": "i", "x-request-id": "r1", "x-kept": "1"}
        context = RequestContext("r1", headers, b'{"model": "own", "n": 1}')
        place = Place("POST", PATH, PATH, PATH, PATH, None)
        self.original = GatewayRequest(context, place, Asked("own"), Caller("team"), entry("chat"), "own")

    def begin(self, route: str = "smart", most_running: int = 2) -> None:
        self.mirrors.begin(SHADOW, route, most_running, self.original, self.answer)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        self.seen.append(request)
        await self.goes_on.wait()
        if self.fails is not None:
            raise self.fails
        return Stream(self.events())

    async def events(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            usage_now().output_tokens += 1
            self.read += 1
            yield b"data: {}\n\n"


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_copy_is_marked_is_nobodys_and_is_read_to_its_end() -> None:
    world = World()
    world.begin()
    await settle()
    (seen,) = world.seen
    assert (seen.entry.key, seen.model_name, seen.asked.model) == (("prod", "shadow"), "shadow-model", "shadow-model")
    assert seen.context.headers == {
        "x-pilotlight-tenant": "-mirror",
        "x-pilotlight-priority": "low",
        "x-kept": "1",
        MIRROR_HEADER: "1",
    }
    assert seen.context.body == b'{"model":"shadow-model","n":1}'
    assert (world.read, seen.usage.output_tokens, world.original.usage.output_tokens) == (3, 3, 0)
    assert world.original.context.body == b'{"model": "own", "n": 1}'


@pytest.mark.parametrize("error", [Unavailable("no"), ZeroDivisionError("a bug")])
async def test_what_becomes_of_a_copy_is_nobodys_business(error: Exception) -> None:
    world = World()
    world.fails = error
    world.begin()
    await settle()
    world.fails = None
    world.begin()
    await settle()
    assert (len(world.seen), world.read) == (2, 3)


async def test_copies_are_bounded_and_the_first_to_be_left_out() -> None:
    world = World()
    world.goes_on.clear()
    for _ in range(4):
        world.begin()
    world.begin("other", most_running=1)
    await settle()
    assert len(world.seen) == 3
    world.goes_on.set()
    await settle()
    world.begin()
    await settle()
    assert len(world.seen) == 4
    world.busy = True
    world.begin()
    await settle()
    assert len(world.seen) == 4


@pytest.mark.looptime
async def test_a_copy_ends_with_its_endpoints_time_and_with_the_gateway() -> None:
    world = World()
    world.goes_on.clear()
    world.begin(most_running=1)
    await asyncio.sleep(6)
    world.begin(most_running=1)
    await settle()
    assert len(world.seen) == 2
    await world.mirrors.close()
    assert world.read == 0
