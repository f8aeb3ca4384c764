"""Responses as all replicas of the gateway know them, in Redis; each keeps what passes it beside that, for when Redis
is away. What was forgotten at one replica is found at none.

It must not know who makes responses, or how.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from pilotlight_gateway.redis_calls import RedisAway, RedisCalls, Script, ScriptCall
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import (
    MAX_AGE_S,
    MAX_BYTES,
    MAX_CHAIN,
    MAX_RESPONSES,
    ResponseNotFound,
    StoredResponse,
    items_of,
    not_found,
    previous_not_found,
)

_encode = msgspec.msgpack.Encoder().encode
_stored = msgspec.msgpack.Decoder(StoredResponse)

# Of one tenant, whose keys share a hash tag:
#   pilotlight:responses:{tenant}          a sorted set: ids by when they were last used
#   pilotlight:responses:{tenant}:r        a hash: by id the id of what it continues, a line break, the response; '' for
#                                          one that was forgotten
#   pilotlight:responses:{tenant}:bytes    of all of them
_COMMON = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local index, records, bytes, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local function drop(old)
  local size = redis.call('HSTRLEN', records, old)
  redis.call('HDEL', records, old)
  redis.call('ZREM', index, old)
  return redis.call('DECRBY', bytes, size)
end
local function used(name, max_age_s)
  redis.call('ZADD', index, now, name)
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, max_age_s) end
end
"""

# ARGV: id, record, seconds, most responses, most bytes.
PUT = Script(
    _COMMON
    + """
local max_age_s = tonumber(ARGV[3])
drop(id)
redis.call('HSET', records, id, ARGV[2])
local total = redis.call('INCRBY', bytes, #ARGV[2])
used(id, max_age_s)
local old = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
while #old > 0 and (total > tonumber(ARGV[5]) or redis.call('ZCARD', index) > tonumber(ARGV[4])
    or tonumber(old[2]) < now - max_age_s) do
  total = drop(old[1])
  old = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
end
return 1
"""
)

# ARGV: id, seconds, most responses of a chain. Answers what became of the last one asked for (found, forgotten,
# unknown, long: the chain is) and the records, the latest first.
CHAIN = Script(
    _COMMON
    + """
local max_age_s, found = tonumber(ARGV[2]), {'found'}
while id ~= '' do
  if #found > tonumber(ARGV[3]) then found[1] = 'long' break end
  local record = redis.call('HGET', records, id)
  if not record then found[1] = 'unknown' break end
  if record == '' then found[1] = 'forgotten' break end
  used(id, max_age_s)
  local line = string.find(record, '\\n', 1, true)
  found[#found + 1] = string.sub(record, line + 1)
  id = string.sub(record, 1, line - 1)
end
return found
"""
)

# ARGV: id, seconds. Answers 1 where there was one.
FORGET = Script(
    _COMMON
    + """
local size = redis.call('HSTRLEN', records, id)
redis.call('HSET', records, id, '')
redis.call('DECRBY', bytes, size)
used(id, tonumber(ARGV[2]))
return size > 0 and 1 or 0
"""
)


class SharedResponses:
    """Implements `ResponseStore`. `here`: what is known without Redis."""

    def __init__(self, link: RedisCalls, here: KeptHere) -> None:
        self._link = link
        self._here = here

    async def put(self, response: StoredResponse) -> None:
        await self._here.put(response)
        record = (response.previous_id or "").encode() + b"\n" + _encode(response)
        if len(record) > MAX_BYTES:
            return
        arguments = (response.response_id, record, int(MAX_AGE_S), MAX_RESPONSES, MAX_BYTES)
        try:
            await self._link.call(ScriptCall(PUT, _keys(response.tenant), arguments))
        except RedisAway:
            return  # which makes it this replica's alone

    async def get(self, response_id: str, tenant: str) -> StoredResponse:
        found = await self._chain_if_there(response_id, tenant, 1)
        return (
            await self._here.get(response_id, tenant) if found is None else await self._one(found, response_id, tenant)
        )

    async def delete(self, response_id: str, tenant: str) -> None:
        """Raises RedisAway, too: what was forgotten at one replica alone would still be found at the others."""
        await self._one(await self._chain(response_id, tenant, 1), response_id, tenant)
        await self._link.call(ScriptCall(FORGET, _keys(tenant), (response_id, int(MAX_AGE_S))))
        with contextlib.suppress(ResponseNotFound):
            await self._here.delete(response_id, tenant)

    async def history(self, previous_id: str, tenant: str, model: str) -> bytes:
        found = await self._chain_if_there(previous_id, tenant, MAX_CHAIN)
        if found is None or (not found.is_whole and not found.was_forgotten):
            # Redis was away when one of them was made, and it is this replica's alone.
            return await self._here.history(previous_id, tenant, model)
        if not found.is_whole or any(each.model != model for each in found.records):
            raise previous_not_found(previous_id)
        return items_of(found.records)

    async def _one(self, found: _Chain, response_id: str, tenant: str) -> StoredResponse:
        if found.was_forgotten:
            raise not_found(response_id)
        return found.records[0] if found.records else await self._here.get(response_id, tenant)

    async def _chain_if_there(self, response_id: str, tenant: str, most: int) -> _Chain | None:
        """None while Redis is away."""
        try:
            return await self._chain(response_id, tenant, most)
        except RedisAway:
            return None

    async def _chain(self, response_id: str, tenant: str, most: int) -> _Chain:
        arguments = (response_id, int(MAX_AGE_S), most)
        ended, *records = await self._link.call(ScriptCall(CHAIN, _keys(tenant), arguments))
        return _Chain([_stored.decode(record) for record in records], bytes(ended).decode())


@dataclass(frozen=True, slots=True)
class _Chain:
    """`records`: the latest first. `ended`: what became of the last one that was asked for."""

    records: list[StoredResponse]
    ended: str

    @property
    def is_whole(self) -> bool:
        return self.ended == "found"

    @property
    def was_forgotten(self) -> bool:
        return self.ended == "forgotten"


def _keys(tenant: str) -> tuple[str, ...]:
    index = f"pilotlight:responses:{{{quote(tenant, safe='')}}}"
    return index, f"{index}:r", f"{index}:bytes"
