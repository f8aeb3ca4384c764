"""Streams whose replica died are taken over by one that somebody asks, and by one only, through a real redis-server."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from endpoint_entries import entry
from redis_server import RedisServer
from waiting import until_async

from pilotlight_gateway.idempotency import redis_answers, told_answer
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.idempotency.shared_answers import SharedAnswers
from pilotlight_gateway.redis_link import RedisLink
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place
from pilotlight_gateway.stream_record import Passed
from pilotlight_protocol.errors import Conflict, TooManyRequests, Unavailable
from pilotlight_wire.handlers import RequestContext, Stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

EVENTS = 8


def event(number: int, cuts: int = 0) -> bytes:
    said = f"{number}.{cuts}" if cuts else f"{number}"
    return f"id: {said}\ndata: {number}\n\n".encode()


class Replica:
    """Makes events 1 to 8, as many as `gate` lets it, behind those that somebody else made."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self.link = link
        self.once = AnswersOnce(shared=SharedAnswers(link, "local", name))
        self.gate = asyncio.Semaphore(0)
        self.runs = 0
        self.refuses: Exception | None = None
        self.shown = b""

    # What is told of the stream that it makes: what was shown itself.
    @property
    def position(self) -> Passed:
        return Passed(len(self.shown), zlib.crc32(self.shown))

    def told_from(self, place: int) -> bytes:
        return self.shown[place:]

    async def ask(self, last: str | None = None, tenant: str = "team", body: bytes = b"{}") -> Any:
        headers = {"x-request-id": "a", **({} if last is None else {"last-event-id": last})}
        place = Place("POST", "/x", "/x", "/x", "/x", None)
        context = RequestContext("r", headers, body)
        request = GatewayRequest(context, place, Asked(stream=True), Caller(tenant), entry("chat"), "chat")
        return await self.once.answer(request, lambda: self._run(request))

    async def _run(self, request: GatewayRequest) -> Stream:
        if self.refuses is not None:
            raise self.refuses
        self.runs += 1
        assert request.record is not None
        left_off = request.record.left_off
        self.shown = b"" if left_off is None else left_off.told
        assert left_off is None or left_off.passed == self.position
        request.record.make(request.begun_by("pods", request.record), self)
        return Stream(self._events(self.shown.count(b"\n\n")))

    async def _events(self, made: int) -> AsyncIterator[bytes]:
        for number in range(made + 1, EVENTS + 1):
            await self.gate.acquire()
            piece = b"data: %d\n\n" % number
            self.shown += piece
            yield piece

    def open(self, events: int = EVENTS) -> None:
        for _ in range(events):
            self.gate.release()

    async def die(self) -> None:
        """As one that was killed: nobody hears of its end."""
        await self.link.close()
        self.link._gone.set()
        for task in self.once._running.values():
            task.cancel()


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_answers, "LEASE_S", 1)


@contextlib.asynccontextmanager
async def replicas(server: RedisServer, count: int) -> AsyncIterator[list[Replica]]:
    await server.command("FLUSHALL")
    made: list[Replica] = []
    try:
        for number in range(count):
            link = RedisLink(server.url, deadline_s=5.0)
            await link.start()
            made.append(Replica(link, str(number)))
        yield made
    finally:
        for each in made:
            await each.once.close()
            await each.link.close()


async def read(result: Any, most: int = 99) -> bytes:
    pieces = b""
    try:
        async for piece in result.events:
            pieces += piece
            if pieces.count(b"\n\n") >= most:
                break
    finally:
        await result.events.aclose()
    return pieces


async def cut(first: Replica, events: int = 4) -> None:
    """It has shown so many, and died."""
    first.open(events)
    assert await read(await first.ask(), events) == b"".join(map(event, range(1, events + 1)))
    await first.die()


def rest(behind: int, kept: int = 4, cuts: int = 1) -> bytes:
    return b"".join(event(number, cuts if number > kept else 0) for number in range(behind + 1, EVENTS + 1))


async def test_one_goes_on_for_all_who_ask_anywhere(redis: RedisServer) -> None:
    async with replicas(redis, 3) as (first, second, third):
        await cut(first)
        asked = [asyncio.create_task(read_from(each, last)) for each in (second, third) for last in (None, "2", "4")]
        await until_async(lambda: second.runs + third.runs == 1)
        second.open()
        third.open()
        for at, told in enumerate(await asyncio.gather(*asked)):
            assert told == rest((0, 2, 4)[at % 3])
        assert second.runs + third.runs == 1
        with pytest.raises(Conflict):
            await second.ask("4", body=b"other")
        with pytest.raises(Conflict, match="not kept"):
            await third.ask("4", tenant="other")


async def read_from(replica: Replica, last: str | None) -> bytes:
    return await read(await replica.ask(last))


async def test_who_lives_is_not_taken_for_dead(redis: RedisServer) -> None:
    async with replicas(redis, 2) as (first, second):
        first.open(2)
        making = asyncio.create_task(read_from(first, None))
        await until_async(lambda: first.runs == 1)
        joining = asyncio.create_task(read_from(second, None))
        await asyncio.sleep(2.5)
        first.open()
        assert await making == await joining == b"".join(map(event, range(1, EVENTS + 1)))
        assert second.runs == 0


async def test_whose_answer_was_taken_shows_nothing_that_the_other_does_not_have(redis: RedisServer) -> None:
    async with replicas(redis, 1) as (first,):
        first.open(4)
        result = await first.ask()
        shown = b"".join([await anext(result.events) for _ in range(4)])
        assert shown == b"".join(map(event, range(1, 5)))
        (events,) = await redis.command("KEYS", "pilotlight:once:{team}:*:e")
        await redis.command("HSET", events[: -len(":e")], "owner", "another")
        first.open(2)
        with pytest.raises(Unavailable, match="another gateway"):
            await anext(result.events)
        await result.events.aclose()


async def test_nobody_gets_other_events_than_those_it_saw(redis: RedisServer) -> None:
    """The sixth was shown while Redis was away, and died with who had made it."""
    async with replicas(redis, 2) as (first, second):
        await cut(first)
        beyond = asyncio.create_task(read_from(second, "6"))
        with pytest.raises(Conflict, match="lost with its gateway"):
            await beyond
        second.open()
        assert await read_from(second, "3") == rest(3)
        # There is a sixth by now, and it is another one.
        with pytest.raises(Conflict, match="lost with its gateway"):
            await second.ask("6")
        assert await read_from(second, "6.1") == rest(6)


async def test_one_without_room_leaves_it_to_the_next(redis: RedisServer) -> None:
    async with replicas(redis, 3) as (first, second, third):
        await cut(first)
        second.refuses = TooManyRequests("no room", retry_after_s=1)
        with pytest.raises(TooManyRequests):
            await read_from(second, "4")
        third.open()
        assert await read_from(third, "4") == rest(4, cuts=2)


async def test_a_request_that_kills_gateways_does_not_kill_all(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "MOST_TAKEN", 1)
    async with replicas(redis, 3) as (first, second, third):
        await cut(first)
        second.open(2)
        assert await read(await second.ask("4"), 2) == event(5, 1) + event(6, 1)
        await asyncio.sleep(told_answer.TELL_S * 4)
        await second.die()
        with pytest.raises(Unavailable, match="ask anew"):
            await read_from(third, "6.1")
        assert third.runs == 0
