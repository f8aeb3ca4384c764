"""Answers of named requests as all replicas know them, in Redis: who makes one, what there is of it, who reads it.

One replica makes an answer and holds a lease on it. Its beginning is told before the client sees anything of it, so a
record without one may be run again by whoever comes when its replica is gone; with one it may not: what was kept is
given, and then an error. Must not: know how an answer is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from pilotlight_gateway.idempotency.shared_scripts import APPEND, CLAIM, FOLLOWED, FORGET, READ
from pilotlight_gateway.redis_calls import RedisAway, RedisCalls, Script, ScriptCall
from pilotlight_gateway.settings import WithoutRedis
from pilotlight_protocol.errors import Conflict, InternalError, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

LEASE_S = 15
KEPT_S = 300
MOST_BYTES_OF_TENANT = 32 * 1024 * 1024
MOST_ANSWERS_OF_TENANT = 1024
LONGEST_ANSWER_BYTES = 4 * 1024 * 1024
LOOK_S = 0.1
"""How often another replica's answer is looked at while it is made."""
READING_S = 5.0
_EVENTS_A_READ = 256
_BROKEN = "the gateway that made this answer is gone, and with it the rest; ask anew, with another id"

Key = tuple[str, str]


class Head(msgspec.Struct, frozen=True):
    """`status`: of a whole answer, whose body is the one event; None for a stream. `kept`: there is something to read,
    and not only that it was answered."""

    content_type: str
    headers: dict[str, str]
    phases_ms: dict[str, float]
    status: int | None = None
    reply_headers: dict[str, str] = msgspec.field(default_factory=dict)
    kept: bool = True


class SharedAnswers:
    """`process`: of no other replica, at no other time. Who makes an answer has a name of its own for it."""

    def __init__(self, link: RedisCalls, without: WithoutRedis, process: str) -> None:
        self._link = link
        self._without = without
        self._process = process
        self._numbers = itertools.count()

    async def claim(self, key: Key, fingerprint: bytes, *, resumes: bool) -> OwnedAnswer | AnswerElsewhere | None:
        """This replica's to make, or another's to read; None where Redis is away and each replica is for itself. Raises
        Conflict, Unavailable."""
        owner = f"{self._process}-{next(self._numbers)}"
        bounds = (LEASE_S, KEPT_S, MOST_ANSWERS_OF_TENANT, int(resumes))
        try:
            what = await self._run(CLAIM, key, fingerprint, owner, *bounds)
        except RedisAway:
            if self._without == "local":
                return None
            raise
        match what:
            case b"mine":
                return OwnedAnswer(self, key, owner)
            case b"other":
                raise Conflict(f"another request had the id {key[1]!r} within the last minutes; take a new one")
            case b"gone":
                raise Conflict(f"what the id {key[1]!r} was answered is not kept any more; ask anew, with another id")
        return AnswerElsewhere(self, key, fingerprint)

    async def append(
        self, key: Key, owner: str, head: bytes, events: Sequence[bytes], before: int, *, finished: bool
    ) -> int:
        """Raises RedisAway."""
        bounds = (LEASE_S, KEPT_S, MOST_BYTES_OF_TENANT)
        return int(await self._run(APPEND, key, owner, *bounds, head, int(finished), before, *events))

    async def forget(self, key: Key, owner: str) -> None:
        await self._run(FORGET, key, owner)

    async def is_followed(self, key: Key) -> bool:
        return bool(await self._run(FOLLOWED, key))

    async def read(self, key: Key, fingerprint: bytes, position: int) -> tuple[Read, bytes, list[bytes]]:
        what, head, *events = await self._run(READ, key, position, _EVENTS_A_READ, READING_S, fingerprint)
        return what.decode(), head, events

    async def _run(self, script: Script, key: Key, *arguments: Any) -> Any:
        tenant, named = key
        index = f"pilotlight:once:{{{quote(tenant, safe='')}}}"
        record_id = hashlib.sha256(named.encode()).hexdigest()
        return await self._link.call(ScriptCall(script, [index], [record_id, *arguments]))


Read = Literal["finished", "running", "broken", "gone"]


class OwnedAnswer:
    """One that this replica makes. Where Redis is away, or has no room for it, it is made all the same."""

    def __init__(self, shared: SharedAnswers, key: Key, owner: str) -> None:
        self._shared = shared
        self._key = key
        self._owner = owner
        self._telling = asyncio.Lock()
        self._head: Head | None = None
        self._told = 0
        self._size_bytes = 0
        self._is_shared = True
        self._is_taken = False

    async def begin(self, head: Head, events: Sequence[bytes] = (), *, finished: bool = False) -> None:
        """Before anything of it is shown. Raises Unavailable where another replica makes it by now."""
        async with self._telling:
            self._head = head
            written = await self._append(events, finished=finished)
        if written < 0:
            raise Unavailable("another gateway answers this request by now; send it again", retry_after_s=1)

    @property
    def told(self) -> int:
        """So many events are."""
        return self._told

    async def tell(self, events_from: Callable[[int], Sequence[bytes] | None], *, finished: bool = False) -> None:
        """The events behind those that are told, and that it is still made. May be cancelled, and then called again."""
        async with self._telling:
            if await self._append(events_from(self._told), finished=finished) != 1:
                self._is_shared = False

    async def forget(self) -> None:
        with contextlib.suppress(RedisAway):
            await self._shared.forget(self._key, self._owner)

    async def is_followed(self) -> bool:
        try:
            return self._is_shared and await self._shared.is_followed(self._key)
        except RedisAway:
            return False

    async def _append(self, events: Sequence[bytes] | None, *, finished: bool) -> int:
        """`events`: None where they are not kept."""
        if self._is_taken:
            return -1
        if not self._is_shared:
            return 0
        self._size_bytes += sum(map(len, events or ()))
        if (events is None or self._size_bytes > LONGEST_ANSWER_BYTES) and self._head is not None:
            self._head, events, finished = msgspec.structs.replace(self._head, kept=False), (), True
        events = events or ()
        head = b"" if self._head is None else msgspec.json.encode(self._head)
        try:
            written = await self._shared.append(self._key, self._owner, head, events, self._told, finished=finished)
        except RedisAway:
            # It may have been written, or not: nobody else may take the rest for the whole.
            self._is_shared = False
            return 0
        self._told += len(events)
        self._is_taken = written < 0
        if self._head is not None and not self._head.kept:
            self._is_shared = False
        return written


class AnswerElsewhere:
    """One that another replica makes or has made."""

    def __init__(self, shared: SharedAnswers, key: Key, fingerprint: bytes) -> None:
        self._shared = shared
        self._key = key
        self._fingerprint = fingerprint

    async def follow(self, context: RequestContext, position: int) -> Reply | Stream:
        """Raises Unavailable where it comes to nothing."""
        while True:
            what, told, events = await self.read(0)
            if told:
                head = _kept(told)
                if head.status is None:
                    break
                if what == "finished":
                    context.response_headers.update(head.headers)
                    return Reply(b"".join(events), head.status, head.content_type, dict(head.reply_headers))
            if what in ("broken", "gone"):
                raise Unavailable("the gateway that answered this request failed; send it again", retry_after_s=1)
            if what == "finished":
                raise InternalError("a kept answer has no beginning")
            await asyncio.sleep(LOOK_S)
        context.response_headers.update(head.headers)
        context.server_timing.update(head.phases_ms)
        return Stream(_Reader(self, position), head.content_type)

    async def read(self, position: int) -> tuple[Read, bytes, list[bytes]]:
        return await self._shared.read(self._key, self._fingerprint, position)


class _Reader:
    def __init__(self, answer: AnswerElsewhere, position: int) -> None:
        self._answer = answer
        self._position = position
        self._is_over = False

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        while not self._is_over:
            what, head, events = await self._answer.read(self._position)
            if what in ("broken", "gone"):
                raise Unavailable(_BROKEN)
            _kept(head)
            self._is_over = what == "finished"
            self._position += len(events)
            if events:
                return b"".join(events)
            if not self._is_over:
                await asyncio.sleep(LOOK_S)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._is_over = True


def _kept(head: bytes) -> Head:
    """Raises Conflict for an answer that was too long to be kept."""
    told = msgspec.json.decode(head, type=Head)
    if not told.kept:
        raise Conflict("this request was answered by another gateway, at too great a length to be kept; ask anew")
    return told
