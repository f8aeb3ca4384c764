"""Responses that replicas share, while Redis goes away and comes back: a fake of it, whose scripts are done by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pilotlight_gateway.redis_calls import RedisAway, ScriptCall
from pilotlight_gateway.responses.shared_responses import CHAIN, FORGET, PUT, SharedResponses
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import ResponseNotFound, StoredResponse

RESPONSE = StoredResponse("a", "m", "resp_1", None, b"[]", b"[]", b"{}")


class FakeRedis:
    """Implements RedisCalls, for responses that continue none. `fails`: it is away for that script."""

    def __init__(self) -> None:
        self.there = True
        self.fails: set[object] = set()
        self._records: dict[object, bytes] = {}

    def on_return(self, returned: Callable[[], None]) -> None:
        raise NotImplementedError

    async def call(self, call: ScriptCall) -> Any:
        if not self.there or call.script in self.fails:
            raise RedisAway("away", retry_after_s=2.0)
        name = call.arguments[0]
        if call.script is PUT:
            record = call.arguments[1]
            assert isinstance(record, bytes)
            self._records[name] = record.partition(b"\n")[2]
        elif call.script is FORGET:
            self._records[name] = b""
        else:
            assert call.script is CHAIN
            kept = self._records.get(name)
            return [b"unknown"] if kept is None else [b"found", kept] if kept else [b"forgotten"]
        return 1

    async def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        return [await self.call(call) for call in calls]


@pytest.mark.parametrize("goes", ["before", "while it is forgotten"])
@pytest.mark.parametrize("asked", [0, 1])
async def test_what_cannot_be_forgotten_at_all_replicas_is_forgotten_at_none_and_said_to_be_so(
    goes: str, asked: int
) -> None:
    redis = FakeRedis()
    replicas = [SharedResponses(redis, KeptHere()) for _ in range(2)]
    await replicas[0].put(RESPONSE)
    redis.there, redis.fails = goes != "before", {FORGET}
    with pytest.raises(RedisAway) as refused:
        await replicas[asked].delete("resp_1", "a")
    assert (refused.value.http_status, refused.value.retry_after_s) == (503, 2.0)
    assert await replicas[0].get("resp_1", "a") == RESPONSE
    redis.there, redis.fails = True, set()
    for each in replicas:
        assert await each.get("resp_1", "a") == RESPONSE
    await replicas[asked].delete("resp_1", "a")
    for each in replicas:
        with pytest.raises(ResponseNotFound):
            await each.get("resp_1", "a")
    redis.there = False
    with pytest.raises(ResponseNotFound):
        await replicas[asked].get("resp_1", "a")


async def test_what_one_replica_alone_has_is_forgotten_when_redis_is_back() -> None:
    redis = FakeRedis()
    store = SharedResponses(redis, KeptHere())
    redis.there = False
    await store.put(RESPONSE)
    with pytest.raises(RedisAway):
        await store.delete("resp_1", "a")
    redis.there = True
    await store.delete("resp_1", "a")
    with pytest.raises(ResponseNotFound):
        await store.get("resp_1", "a")
