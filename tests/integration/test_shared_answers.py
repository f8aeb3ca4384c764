"""One execution for each id over replicas that share a real redis-server: joined, given again, resumed, run again only
where nobody saw anything of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from endpoint_entries import entry
from redis_server import RedisServer
from waiting import until_async

from pilotlight_gateway.idempotency import answers_once, kept_answer, owned_answer, redis_answers, told_answer
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.idempotency.shared_answers import SharedAnswers
from pilotlight_gateway.redis_link import RedisLink
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place
from pilotlight_gateway.settings import WithoutRedis
from pilotlight_protocol.errors import Conflict, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

EVENTS = [b"id: %d\ndata: %d\n\n" % (number, number) for number in range(1, 9)]


class Work:
    """What is behind all replicas. `gate`: events go on as long as it is open; `runs`: executions."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.gate = asyncio.Semaphore(0)
        self.reply: Reply | None = None
        self.fails = False

    async def run(self, context: RequestContext) -> Reply | Stream:
        self.runs += 1
        context.response_headers["x-run"] = str(self.runs)
        if self.reply is not None:
            await self.gate.acquire()
            return self.reply
        return Stream(self._events())

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            for number in range(1, 9):
                await self.gate.acquire()
                if self.fails and number == 5:
                    raise Unavailable("it broke")
                yield b"data: %d\n\n" % number
        finally:
            self.ended += 1

    def open(self, events: int = 99) -> None:
        for _ in range(events):
            self.gate.release()


class Replica:
    def __init__(self, link: RedisLink, work: Work, name: str, without: WithoutRedis) -> None:
        self.link = link
        self.once = AnswersOnce(shared=SharedAnswers(link, without, name))
        self._work = work

    async def ask(self, request_id: str = "a", tenant: str = "team", body: bytes = b"{}", **headers: str) -> Any:
        given = {"x-request-id": request_id, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.context = RequestContext("r", given, body)
        place = Place("POST", "/x", "/x", "/x", "/x", None)
        request = GatewayRequest(self.context, place, Asked(), Caller(tenant), entry("chat"), "chat")
        context = self.context
        return await self.once.answer(request, lambda: self._work.run(context))

    async def died(self) -> None:
        """As one that was killed: nobody hears of its end."""
        await self.link.close()
        self.link._gone.set()
        for task in self.once._running.values():
            task.cancel()


@pytest.fixture
def work() -> Work:
    return Work()


@contextlib.asynccontextmanager
async def replica(redis: RedisServer, work: Work, name: str, without: WithoutRedis = "local") -> AsyncIterator[Replica]:
    link = RedisLink(redis.url, deadline_s=5.0)
    await link.start()
    made = Replica(link, work, name, without)
    try:
        yield made
    finally:
        await made.once.close()
        await link.close()


@contextlib.asynccontextmanager
async def two(redis: RedisServer, work: Work) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica(redis, work, "one") as one, replica(redis, work, "two") as other:
        await redis.command("FLUSHALL")
        yield one, other


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


async def test_who_asks_at_another_replica_joins_and_a_later_one_gets_it_again(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):
        first = asyncio.create_task(read(await one.ask()))
        joined = await other.ask()
        assert other.context.response_headers["x-run"] == "1"
        joining = asyncio.create_task(read(joined))
        work.open(3)
        await asyncio.sleep(0.2)
        work.open()
        assert (await first, await joining) == (b"".join(EVENTS), b"".join(EVENTS))
        for seen in (0, 3, 8):
            again = await other.ask(last_event_id=str(seen))
            assert await read(again) == b"".join(EVENTS[seen:])
        assert work.runs == 1


async def test_a_whole_answer_is_given_again_as_it_was(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):
        work.reply = Reply(b'{"a": 1}', 200, "application/json", {"x-kept": "1"})
        asked = [asyncio.create_task(each.ask()) for each in (one, other)]
        await until_async(lambda: work.runs == 1)
        await asyncio.sleep(0.2)
        work.open()
        for told in await asyncio.gather(*asked):
            assert (told.status, told.body, told.headers) == (200, b'{"a": 1}', {"x-kept": "1"})
        assert work.runs == 1


async def test_another_body_is_a_conflict_and_another_tenants_id_is_not(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):
        work.open(50)
        await read(await one.ask())
        with pytest.raises(Conflict):
            await other.ask(body=b"other")
        await read(await other.ask(tenant="team2", body=b"other"))
        await read(await other.ask(tenant="team}:x", body=b"other"))
        with pytest.raises(Conflict, match="not kept"):
            await other.ask("unknown", last_event_id="3")
        assert work.runs == 3


async def test_many_at_once_at_both_replicas_are_one_execution(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):

        async def whole(replica: Replica) -> bytes:
            return await read(await replica.ask())

        asked = [asyncio.create_task(whole(replica)) for replica in (one, other) * 10]
        await until_async(lambda: work.runs > 0)
        work.open()
        assert set(await asyncio.gather(*asked)) == {b"".join(EVENTS)}
        assert work.runs == 1


async def test_who_takes_long_to_begin_is_not_taken_for_dead(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "LEASE_S", 1)
    async with two(redis, work) as (one, other):
        work.reply = Reply(b"{}")
        first = asyncio.create_task(one.ask())
        await until_async(lambda: work.runs == 1)
        await asyncio.sleep(1.5)
        second = asyncio.create_task(other.ask())
        await asyncio.sleep(1.0)
        work.open()
        assert [(await each).body for each in (first, second)] == [b"{}", b"{}"]
        assert work.runs == 1


async def test_a_failure_may_be_tried_again_at_once(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):
        work.open(1000)
        for number in range(10):
            work.fails = True
            with pytest.raises(Unavailable):
                await read(await one.ask(str(number)))
            work.fails = False
            await until_async(lambda: not one.once._running)
            assert await read(await one.ask(str(number))) == b"".join(EVENTS)
            assert await read(await other.ask(str(number))) == b"".join(EVENTS)
        assert work.runs == 20


async def test_who_was_taken_for_dead_shows_nothing_of_its_own(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(redis, work) as (one, other):
        work.reply = Reply(b"{}")
        slow = asyncio.create_task(one.ask())
        await until_async(lambda: work.runs == 1)
        # It stood still for longer than its lease: another one took over, and it comes back before it has an answer.
        (record,) = await redis.command("KEYS", "pilotlight:once:{team}:????????????????*")
        await redis.command("HSET", record, "until", "1")
        second = asyncio.create_task(other.ask())
        await until_async(lambda: work.runs == 2)
        monkeypatch.setattr(redis_answers, "LEASE_S", 0)
        await asyncio.sleep(told_answer.TELL_S * 4)
        monkeypatch.undo()
        work.open()
        with pytest.raises(Unavailable, match="another gateway"):
            await slow
        assert (await second).body == b"{}"


async def test_what_is_too_long_to_be_kept_is_not_run_again(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_answer, "LONGEST_ANSWER_BYTES", 3 * len(EVENTS[0]))
    async with two(redis, work) as (one, other):
        first, joined = await one.ask(), await other.ask()
        work.open()
        assert await read(first) == b"".join(EVENTS)
        with pytest.raises(Conflict, match="too great a length"):
            await read(joined)
        work.reply = Reply(b"x" * 1000)
        assert (await one.ask("b")).body == b"x" * 1000
        for named in "ab":
            with pytest.raises(Conflict, match="too great a length"):
                await other.ask(named)
        assert work.runs == 2


async def test_what_nobody_saw_is_run_again_when_its_replica_is_gone(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "LEASE_S", 1)
    async with two(redis, work) as (one, other):
        work.reply = Reply(b"{}")
        lost = asyncio.create_task(one.ask())
        await until_async(lambda: work.runs == 1)
        await one.died()
        with contextlib.suppress(asyncio.CancelledError):
            await lost
        waiting = asyncio.create_task(other.ask())
        with pytest.raises(Unavailable, match="send it again"):
            await waiting
        work.open()
        assert (await other.ask()).body == b"{}"
        assert work.runs == 2


async def test_what_somebody_saw_is_not_run_again_when_its_replica_is_gone(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "LEASE_S", 1)
    async with two(redis, work) as (one, other):
        seen = await one.ask()
        work.open(4)
        assert await read(seen, most=4) == b"".join(EVENTS[:4])
        await asyncio.sleep(told_answer.TELL_S * 4)
        await one.died()
        for position in (0, 2, 4):
            resumed = await other.ask(last_event_id=str(position))
            if position < 4:
                assert await anext(resumed.events) == b"".join(EVENTS[position:4])
            with pytest.raises(Unavailable, match="ask anew"):
                await anext(resumed.events)
        assert work.runs == 1


async def test_a_failure_is_not_kept(redis: RedisServer, work: Work) -> None:
    async with two(redis, work) as (one, other):
        work.fails = True
        first, joined = await one.ask(), await other.ask()
        work.open(5)
        for each in (first, joined):
            with pytest.raises(Unavailable):
                await read(each)
        work.fails = False
        work.open(8)
        assert await read(await other.ask()) == b"".join(EVENTS)
        assert work.runs == 2


async def test_work_goes_on_while_somebody_reads_it_elsewhere(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_once, "RETURN_WITHIN_S", 0.2)
    monkeypatch.setattr(redis_answers, "READING_S", 0.5)
    async with two(redis, work) as (one, other):
        work.open(1)
        await read(await one.ask(), most=1)
        joined = asyncio.create_task(read(await other.ask()))
        await asyncio.sleep(0.8)
        assert work.ended == 0
        work.open()
        assert await joined == b"".join(EVENTS)
        # Nobody reads this one: it is ended, and forgotten.
        work.gate = asyncio.Semaphore(1)
        await read(await one.ask("b"), most=1)
        await until_async(lambda: work.ended, holds=lambda ended: ended == 2)
        work.open()
        assert await read(await other.ask("b")) == b"".join(EVENTS)
        assert work.runs == 3


@pytest.mark.parametrize("without", ["local", "refuse"])
async def test_without_redis_each_is_for_itself_or_refuses(
    tmp_path_factory: pytest.TempPathFactory, work: Work, without: WithoutRedis
) -> None:
    nobody = RedisServer(tmp_path_factory.mktemp("none"))
    async with replica(nobody, work, "one", without) as one:
        work.open()
        if without == "refuse":
            with pytest.raises(Unavailable):
                await one.ask()
            return
        for _ in range(2):
            assert await read(await one.ask()) == b"".join(EVENTS)
        with pytest.raises(Conflict):
            await one.ask("unknown", last_event_id="1")
        assert work.runs == 1


async def test_what_redis_keeps_of_a_tenant_is_bounded(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "MOST_ANSWERS_OF_TENANT", 6)
    monkeypatch.setattr(redis_answers, "MOST_BYTES_OF_TENANT", 3 * len(b"".join(EVENTS)))
    async with two(redis, work) as (one, other):
        work.open(1000)
        for number in range(12):
            await read(await one.ask(str(number)))
            await until_async(lambda: not one.once._running)
        keys = await redis.command("KEYS", "*:e")
        assert 1 <= len(keys) <= 3
        sizes = await redis.command("HGETALL", "pilotlight:once:{team}:bytes")
        assert int(sizes.pop(b"")) == sum(map(int, sizes.values())) <= 3 * len(b"".join(EVENTS))
        assert await read(await other.ask("11")) == b"".join(EVENTS)
        assert work.runs == 12
        await read(await other.ask("0"))
        assert work.runs == 13


async def test_what_one_replica_has_no_room_to_keep_is_whole_there_and_refused_elsewhere(
    redis: RedisServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_answer, "LONGEST_ANSWER_BYTES", 40)
    async with two(redis, work) as (one, other):
        work.open()
        assert await read(await one.ask()) == b"".join(EVENTS)
        await until_async(lambda: not one.once._running, 10)
        for replica in (one, other):
            with pytest.raises(Conflict, match="too great a length"):
                await replica.ask()
        assert work.runs == 1
