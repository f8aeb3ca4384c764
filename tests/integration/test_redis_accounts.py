"""Accounts in a real redis-server are those in memory: the same answers to the same steps, by a clock the test turns;
and what is told twice, too late, or to a Redis that lost everything, counts once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer
from waiting import until_async

from pilotlight_gateway.limits import redis_accounts
from pilotlight_gateway.limits.accounts import MemoryAccounts
from pilotlight_gateway.limits.limit_terms import Granted, LimitTerms, Refused
from pilotlight_gateway.limits.redis_accounts import RedisAccounts, account_key
from pilotlight_gateway.limits.redis_scripts import RENEW, RESERVE, SETTLE
from pilotlight_gateway.limits.tenant_account import TenantAccount
from pilotlight_gateway.redis_calls import RedisAway, Script, ScriptCall
from pilotlight_gateway.redis_link import MOST_CONNECTIONS, RedisLink
from pilotlight_gateway.settings import WithoutRedis
from pilotlight_protocol.errors import InvalidInput

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

# 30 November 2026, 23:58:20 UTC: a minute, a day and a month end soon.
START_S = 1_796_083_100.0
CLOCK = "clock"


@contextlib.asynccontextmanager
async def linked(server: RedisServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(server.url, deadline_s=5.0)
    await link.start()
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def replica(
    server: RedisServer, name: str, without: WithoutRedis = "refuse"
) -> AsyncIterator[tuple[RedisAccounts, RedisLink]]:
    async with linked(server) as link:
        accounts = RedisAccounts(link, MemoryAccounts(), without, name)
        await accounts.start()
        try:
            yield accounts, link
        finally:
            await accounts.close()


def by_the_tests_clock(script: Script) -> Script:
    turned = script.text.replace("redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, 1)")
    assert turned != script.text
    return Script(turned)


class Turned:
    """The scripts under a clock that the test turns."""

    def __init__(self, link: RedisLink, server: RedisServer) -> None:
        self._link = link
        self._server = server
        self._reserve, self._settle, self._renew = map(by_the_tests_clock, (RESERVE, SETTLE, RENEW))

    async def at(self, now_s: float) -> None:
        whole = int(now_s)
        await self._server.command("DEL", CLOCK)
        await self._server.command("RPUSH", CLOCK, whole, round((now_s - whole) * 1e6))

    async def reserve(self, terms: LimitTerms, name: str, tokens: int, place_s: float = 7200) -> tuple[str, float, Any]:
        limits = [
            -1 if limit is None else limit
            for limit in (terms.requests_per_minute, terms.tokens_per_minute, terms.concurrency)
            + (terms.tokens_per_day, terms.tokens_per_month)
        ]
        answer = await self._link.call(ScriptCall(self._reserve, _keys(name), [name, tokens, place_s, 7200, *limits]))
        return answer[0].decode(), answer[1] / 1000, [*answer[2:4], answer[4] / 1000, answer[5] / 1000]

    async def settle(self, name: str, tokens: int, second: int = 0) -> bool:
        return bool(await self._link.call(ScriptCall(self._settle, _keys(name), [name, tokens, 120, second])))

    async def renew(self, name: str, second: int, tokens: int, place_s: float = 7200) -> None:
        await self._link.call(ScriptCall(self._renew, _keys(name), [place_s, 7200, name, second, tokens]))


def _keys(name: str) -> list[str]:
    account = account_key("team")
    return [account, f"{account}:running", f"{account}:r:{name}"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle"]),
        st.integers(0, 9),
        st.integers(0, 60),
        st.one_of(st.floats(0, 3), st.floats(0, 90), st.sampled_from([61.0, 86_400.0, 31 * 86_400.0])),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=STEPS,
    terms=st.builds(
        LimitTerms,
        st.none() | st.integers(1, 6),
        st.none() | st.integers(50, 150),
        st.none() | st.integers(1, 4),
        st.none() | st.integers(100, 400),
        st.none() | st.integers(100, 600),
    ),
)
def test_redis_and_memory_give_the_same_answers(redis: RedisServer, steps: Any, terms: LimitTerms) -> None:
    async def compare() -> None:
        async with linked(redis) as link:
            await redis.command("FLUSHALL")
            scripts, account, now_s = Turned(link, redis), TenantAccount(keep_s=1e9), START_S
            running: dict[str, int] = {}
            for step, (what, number, tokens, pause_s) in enumerate(steps):
                now_s = round(now_s + pause_s, 3)
                await scripts.at(now_s)
                if what == "reserve":
                    told = account.reserve(terms, str(step), tokens, now_s)
                    why, retry_s, standing = await scripts.reserve(terms, str(step), tokens, place_s=1e9)
                    assert why == (told.spent if isinstance(told, Refused) else "")
                    if isinstance(told, Refused):
                        assert retry_s == pytest.approx(told.retry_after_s, abs=0.002)
                    else:
                        running[str(step)] = tokens
                    expected = told.standing
                    assert standing[:2] == [expected.requests, expected.tokens]
                    assert standing[2:] == pytest.approx(
                        [expected.requests_reset_s, expected.tokens_reset_s], abs=0.002
                    )
                elif running:
                    name = sorted(running)[number % len(running)]
                    del running[name]
                    assert account.settle(name, tokens, now_s)
                    assert await scripts.settle(name, tokens)
                    assert not await scripts.settle(name, 99)

    asyncio.run(compare())


@pytest.fixture
def whole_minute() -> LimitTerms:
    return LimitTerms(requests_per_minute=2, tokens_per_minute=100, concurrency=2)


async def test_a_place_expires_unless_it_is_renewed(redis: RedisServer, whole_minute: LimitTerms) -> None:
    async with linked(redis) as link:
        await redis.command("FLUSHALL")
        scripts, terms = Turned(link, redis), LimitTerms(concurrency=2)
        await scripts.at(START_S)
        for name in "ab":
            assert (await scripts.reserve(terms, name, 1, place_s=15))[0] == ""
        await scripts.at(START_S + 10)
        await scripts.renew("a", int(START_S), 1, place_s=15)
        assert (await scripts.reserve(terms, "c", 1, place_s=15))[0] == "concurrency"
        await scripts.at(START_S + 16)
        assert (await scripts.reserve(terms, "c", 1, place_s=15))[0] == ""
        assert (await scripts.reserve(terms, "d", 1, place_s=15))[0] == "concurrency"


async def test_what_arrives_twice_or_too_late_changes_nothing(redis: RedisServer, whole_minute: LimitTerms) -> None:
    async with linked(redis) as link:
        await redis.command("FLUSHALL")
        scripts = Turned(link, redis)
        await scripts.at(START_S)
        for _ in range(2):
            assert await scripts.reserve(whole_minute, "a", 60) == ("", 0, [1, 60, 61.0, 61.0])
        # Its holder heard no answer and gave it back; the reservation comes after that.
        assert await scripts.settle("late", -1, int(START_S))
        assert (await scripts.reserve(whole_minute, "late", 40))[2][:2] == [1, 60]
        assert await scripts.settle("a", 10)
        await scripts.renew("a", int(START_S), 60)
        for name in ("b", "c"):
            told = await scripts.reserve(whole_minute, name, 40)
        assert told[0] == "requests_per_minute"
        assert told[2][:2] == [2, 50]


async def test_a_redis_that_lost_everything_learns_what_runs_and_what_it_took(
    redis: RedisServer, whole_minute: LimitTerms
) -> None:
    async with linked(redis) as link:
        scripts = Turned(link, redis)
        await redis.command("FLUSHALL")
        await scripts.at(START_S)
        await scripts.renew("a", int(START_S), 60)
        assert await scripts.settle("b", 30, int(START_S))
        refused = await scripts.reserve(whole_minute, "c", 1)
        assert (refused[0], refused[2][:2]) == ("requests_per_minute", [2, 90])
        await scripts.settle("a", 5)
        assert (await scripts.reserve(LimitTerms(tokens_per_day=36), "d", 2))[0] == "tokens_per_day"
        assert (await scripts.reserve(LimitTerms(tokens_per_month=37), "d", 2))[0] == ""


@pytest.mark.parametrize("name", ["a", "a}:r:x", "{a", "a:running", "ä", ""])
async def test_no_name_reaches_another_tenants_account(redis: RedisServer, name: str) -> None:
    terms, others = LimitTerms(requests_per_minute=1), [name, *(other for other in ("b", "a:r:b") if other != name)]
    async with replica(redis, f"names-{name}") as (accounts, _):
        await redis.command("FLUSHALL")
        for tenant in others:
            assert isinstance(await accounts.reserve(tenant, terms, "1", 1), Granted)
            assert isinstance(await accounts.reserve(tenant, terms, "2", 1), Refused)


async def test_a_huge_answer_is_no_fault_of_redis(redis: RedisServer) -> None:
    async with replica(redis, "huge") as (accounts, link):
        for number, tokens in enumerate((10**30, 2**63, 10**18)):
            assert isinstance(await accounts.reserve("team", LimitTerms(concurrency=9), f"h{number}", tokens), Granted)
            accounts.settle("team", f"h{number}", tokens)
        assert link.there


async def test_places_survive_a_redis_that_kept_nothing(tmp_path: Path) -> None:
    server, terms = RedisServer(tmp_path, kept=False), LimitTerms(concurrency=3)
    server.start()
    try:
        async with replica(server, "one") as (one, _), replica(server, "two") as (two, second_link):
            for number in range(3):
                assert isinstance(await one.reserve("team", terms, f"one-{number}", 1), Granted)
            server.kill()
            with pytest.raises(RedisAway):
                await two.reserve("team", terms, "two-0", 1)
            server.start()
            await until_async(lambda: second_link.there)

            names = (f"two-{number}" for number in itertools.count(1))

            async def granted() -> bool:
                name = next(names)
                told = await two.reserve("team", terms, name, 1)
                two.settle("team", name, 0)
                return isinstance(told, Granted)

            # The one that holds them tells so with its next renewal.
            await until_async(granted, holds=lambda was_granted: not was_granted)
            one.settle("team", "one-0", 1)
            await until_async(granted)
    finally:
        server.end()


async def test_counted_here_while_it_is_away_and_told_when_it_is_back(tmp_path: Path) -> None:
    server, terms = RedisServer(tmp_path), LimitTerms(requests_per_minute=6, tokens_per_day=1000)
    async with replica(server, "one", "local") as (one, link), replica(server, "two", "local") as (two, second_link):
        assert not link.there
        for number in range(3):
            assert isinstance(await one.reserve("team", terms, f"one-{number}", 100), Granted)
            one.settle("team", f"one-{number}", 50)
        for number in range(3):
            assert isinstance(await two.reserve("team", terms, f"two-{number}", 100), Granted)
        server.start()
        try:
            await until_async(lambda: link.there and second_link.there)

            async def taken() -> Any:
                return await server.command("HGETALL", account_key("team"))

            def is_all(fields: Any) -> bool:
                days = [int(amount) for name, amount in fields.items() if name.startswith(b"d")]
                return days == [3 * 50 + 3 * 100]

            await until_async(taken, holds=is_all)
            told = await one.reserve("team", terms, "one-more", 1)
            assert isinstance(told, Refused)
            assert told.spent == "requests_per_minute"
            # What it let in itself is known while Redis is away.
            server.end()
            for number in range(3):
                assert isinstance(await one.reserve("team", terms, f"one-again-{number}", 1), Granted)
            assert isinstance(await one.reserve("team", terms, "one-too-many", 1), Refused)
        finally:
            server.end()


async def test_who_leaves_while_it_is_asked_takes_nothing(redis: RedisServer) -> None:
    terms = LimitTerms(concurrency=1)
    async with replica(redis, "left") as (accounts, _):
        await redis.command("FLUSHALL")
        asking = asyncio.create_task(accounts.reserve("team", terms, "left-1", 1))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

        async def granted() -> bool:
            return isinstance(await accounts.reserve("team", terms, "left-2", 1), Granted)

        await until_async(granted, deadline_s=redis_accounts.PLACE_S / 2)


async def test_a_redis_that_refuses_to_write_is_no_reason_to_wait_for_it(redis: RedisServer) -> None:
    terms = LimitTerms(concurrency=9)
    async with replica(redis, "full") as (accounts, link), replica(redis, "full-local", "local") as (local, _):
        await redis.command("REPLICAOF", "127.0.0.1", "9")
        try:
            with pytest.raises(RedisAway):
                await accounts.reserve("team", terms, "full-1", 1)
            assert isinstance(await local.reserve("team", terms, "full-2", 1), Granted)
            assert link.there
        finally:
            await redis.command("REPLICAOF", "NO", "ONE")
        assert isinstance(await accounts.reserve("team", terms, "full-3", 1), Granted)


@pytest.mark.parametrize("url", ["http://user:secret@x", "redis://x:secret@host:port/0", "secret"])
def test_a_wrong_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RedisLink(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_who_waits_for_a_connection_waits_for_no_redis_that_is_away(redis: RedisServer) -> None:
    link = RedisLink(redis.url)
    await link.start()
    holding = [asyncio.create_task(link._client.blpop("nothing", timeout=60)) for _ in range(MOST_CONNECTIONS)]
    try:
        await until_async(lambda: len(link._client.connection_pool._in_use_connections) == MOST_CONNECTIONS)
        for _ in range(3):
            with pytest.raises(RedisAway):
                await link.call(ScriptCall(Script("return 1"), [], []))
            assert link.there
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    assert await link.call(ScriptCall(Script("return 1"), [], [])) == 1
    assert link.there
    await link.close()
