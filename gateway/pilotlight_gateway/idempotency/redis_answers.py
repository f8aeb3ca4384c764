"""The records of named answers in Redis: one call for each thing that is asked of them, and what comes back.

Must not: decide who makes an answer, or what is done where Redis is away; RedisAway passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from pilotlight_gateway.idempotency.gathered_calls import GatheredCalls
from pilotlight_gateway.idempotency.last_event import LastEvent
from pilotlight_gateway.idempotency.shared_scripts import APPEND, CLAIM, FOLLOWED, FORGET, LEAVE, READ, TAKE
from pilotlight_gateway.redis_calls import RedisCalls, Script, ScriptCall
from pilotlight_gateway.stream_record import Began, LeftOff, Passed

LEASE_S = 5
"""How long the rest of an answer is waited for whose gateway died."""
KEPT_S = 300
MOST_BYTES_OF_TENANT = 32 * 1024 * 1024
MOST_ANSWERS_OF_TENANT = 1024
READING_S = 5.0
MOST_TAKEN = 3
"""A request that kills gateways does not kill all of them."""
_EVENTS_A_READ = 256
_began = msgspec.json.Decoder(Began)
_passed = msgspec.json.Decoder(Passed)

Key = tuple[str, str]
Read = Literal["finished", "running", "broken", "gone", "beyond"]
Claimed = Literal["mine", "other", "gone", "elsewhere"]
NotTaken = Literal["running", "gone", "lost", "beyond"]


class Head(msgspec.Struct, frozen=True):
    """`status`: of a whole answer, whose body is the one event; None for a stream. `kept`: there is something to read,
    and not only that it was answered."""

    content_type: str
    headers: dict[str, str]
    phases_ms: dict[str, float]
    status: int | None = None
    reply_headers: dict[str, str] = msgspec.field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True, slots=True)
class GoingOn:
    """`told`: what stands behind `told_before` bytes of it. `began`: b"" where it is told already."""

    told_before: int
    told: bytes = b""
    began: bytes = b""
    passed: bytes = b""


NOBODY = GoingOn(-1)
"""can go on with it."""
AS_IT_WAS = GoingOn(-2)


@dataclass(frozen=True, slots=True)
class Appended:
    """`head`: b"" where it is told already. `before`: so many events are."""

    head: bytes
    events: Sequence[bytes]
    before: int
    finished: bool
    going_on: GoingOn


@dataclass(frozen=True, slots=True)
class Taken:
    """What was kept of an answer that is somebody else's from now on: so many `events`, read by `read`. `cuts`: how
    many there were each time, this one the last."""

    head: Head
    left_off: LeftOff
    events: int
    cuts: tuple[int, ...]


class RedisAnswers:
    """`link`: its deadline is long enough for some megabytes. All raise RedisAway, and may be called again then."""

    def __init__(self, link: RedisCalls) -> None:
        self._link = link
        self._appends = GatheredCalls(link)

    @property
    def there(self) -> bool:
        return self._link.there

    async def claim(self, key: Key, owner: str, fingerprint: bytes, *, resumes: bool) -> Claimed:
        bounds = (LEASE_S, KEPT_S, MOST_ANSWERS_OF_TENANT, int(resumes))
        claimed: Claimed = (await self._run(CLAIM, key, fingerprint, owner, *bounds)).decode()
        return claimed

    async def append(self, key: Key, owner: str, more: Appended) -> int:
        """1; 0 where it is not kept any more; -1 where it is somebody else's."""
        bounds, rest = (LEASE_S, KEPT_S, MOST_BYTES_OF_TENANT), more.going_on
        told = (rest.began, rest.passed, rest.told_before, rest.told)
        said = (more.head, int(more.finished), *told, more.before, *more.events)
        return int(await self._appends.call(_call(APPEND, key, owner, *bounds, *said)))

    async def take(
        self, key: Key, owner: str, fingerprint: bytes, last: LastEvent, *, only_left: bool
    ) -> Taken | NotTaken:
        """`only_left`: by an owner who said so; that a lease has expired means nothing now."""
        said = (LEASE_S, KEPT_S, fingerprint, last.number, last.cuts, MOST_TAKEN, int(only_left))
        what, *told = await self._run(TAKE, key, owner, *said)
        if what != b"taken":
            return what.decode()  # type: ignore[no-any-return]
        head, began, passed, lines, events, cuts = told
        left_off = LeftOff(_began.decode(began), lines, _passed.decode(passed))
        return Taken(msgspec.json.decode(head, type=Head), left_off, events, tuple(map(int, cuts.split())))

    async def leave(self, key: Key, owner: str) -> None:
        await self._run(LEAVE, key, owner)

    async def forget(self, key: Key, owner: str) -> None:
        await self._run(FORGET, key, owner)

    async def is_followed(self, key: Key) -> bool:
        return bool(await self._run(FOLLOWED, key))

    async def read(self, key: Key, fingerprint: bytes, last: LastEvent) -> tuple[Read, bytes, list[bytes]]:
        said = (last.number, last.cuts, _EVENTS_A_READ, READING_S, fingerprint)
        what, head, *events = await self._run(READ, key, *said)
        return what.decode(), head, events

    async def _run(self, script: Script, key: Key, *arguments: Any) -> Any:
        return await self._link.call(_call(script, key, *arguments))


def _call(script: Script, key: Key, *arguments: Any) -> ScriptCall:
    tenant, named = key
    index = f"pilotlight:once:{{{quote(tenant, safe='')}}}"
    return ScriptCall(script, [index], [hashlib.sha256(named.encode()).hexdigest(), *arguments])
