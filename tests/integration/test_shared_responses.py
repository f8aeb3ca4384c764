"""Responses over replicas of the gateway that share a real redis-server: continued and forgotten at any of them,
bounded for each tenant, and still its own while Redis is away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from pilotlight_gateway.redis_link import RedisLink
from pilotlight_gateway.responses import shared_responses
from pilotlight_gateway.responses.shared_responses import SharedResponses
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import (
    PreviousResponseNotFound,
    ResponseNotFound,
    StoredResponse,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


def stored(
    name: str, previous: str | None = None, tenant: str = "a", model: str = "m", size: int = 0
) -> StoredResponse:
    items = b'[{"id": "%s"}]' % name.encode()
    return StoredResponse(tenant, model, name, previous, items, b"[]", b"x" * size)


async def names(store: SharedResponses, previous: str, tenant: str = "a", model: str = "m") -> list[str]:
    return [item["id"] for item in json.loads(await store.history(previous, tenant, model))]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")), kept=False)
    server.start()
    yield server
    server.end()


@contextlib.asynccontextmanager
async def replica(redis: RedisServer) -> AsyncIterator[SharedResponses]:
    link = RedisLink(redis.url, deadline_s=5.0)
    await link.start()
    try:
        yield SharedResponses(link, KeptHere())
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def two(redis: RedisServer) -> AsyncIterator[tuple[SharedResponses, SharedResponses]]:
    async with replica(redis) as one, replica(redis) as other:
        await redis.command("FLUSHALL")
        yield one, other


async def test_a_conversation_goes_on_at_any_replica(redis: RedisServer) -> None:
    async with two(redis) as replicas:
        for number in range(6):
            await replicas[number % 2].put(stored(str(number), str(number - 1) if number else None))
        for each in replicas:
            assert await names(each, "5") == [str(number) for number in range(6)]
            assert await each.get("3", "a") == stored("3", "2")
            for tenant, model in (("b", "m"), ("a", "other")):
                with pytest.raises(PreviousResponseNotFound):
                    await names(each, "5", tenant, model)
            with pytest.raises(ResponseNotFound):
                await each.get("3", "b")


async def test_what_was_forgotten_at_one_is_found_at_none(redis: RedisServer) -> None:
    async with two(redis) as (one, other):
        for name, previous in (("1", None), ("2", "1"), ("3", "2")):
            await one.put(stored(name, previous))
        await other.delete("2", "a")
        for each in (one, other):
            with pytest.raises(PreviousResponseNotFound):
                await names(each, "3")
            for refused in (each.get("2", "a"), each.delete("2", "a")):
                with pytest.raises(ResponseNotFound):
                    await refused
            assert await names(each, "1") == ["1"]


async def test_the_tenant_that_keeps_too_much_forgets_what_it_used_longest_ago(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_responses, "MAX_RESPONSES", 4)
    monkeypatch.setattr(shared_responses, "MAX_BYTES", 10_000)
    async with two(redis) as (one, other):
        await one.put(stored("theirs", tenant="b"))
        for number in range(4):
            await one.put(stored(str(number), size=1000))
        await other.get("0", "a")
        await one.put(stored("4", size=1000))
        kept = await redis.command("ZRANGE", "pilotlight:responses:{a}", 0, -1)
        assert kept == [b"2", b"3", b"0", b"4"]
        await one.put(stored("large", size=8000))
        kept = await redis.command("ZRANGE", "pilotlight:responses:{a}", 0, -1)
        assert kept[-2:] == [b"4", b"large"]
        sizes = [await redis.command("HSTRLEN", "pilotlight:responses:{a}:r", name) for name in kept]
        assert int(await redis.command("GET", "pilotlight:responses:{a}:bytes")) == sum(sizes) <= 10_000
        await one.put(stored("too large", size=11_000))
        with pytest.raises(ResponseNotFound):
            await other.get("too large", "a")
        assert await other.get("theirs", "b")


async def test_while_redis_is_away_a_replica_knows_what_passed_it(redis: RedisServer) -> None:
    async with two(redis) as (one, other):
        await one.put(stored("1"))
        redis.kill()
        await one.put(stored("2", "1"))
        assert await names(one, "2") == ["1", "2"]
        with pytest.raises(PreviousResponseNotFound):
            await names(other, "2")
        redis.start()
    async with replica(redis) as third:
        await third.put(stored("3"))
        assert await names(third, "3") == ["3"]
