"""Answers of named requests as all replicas know them, in Redis: who makes one, and who goes on with it.

One replica makes an answer and holds a lease on it. Its beginning is told before the client sees anything of it, so a
record without one may be run again by whoever comes when its replica is gone. With one, whoever comes takes it over,
gives what was kept, and goes on behind that; where nobody can, an error says so. Must not: know how an answer is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from dataclasses import dataclass

from pilotlight_gateway.idempotency import redis_answers
from pilotlight_gateway.idempotency.answer_elsewhere import BROKEN, AnswerElsewhere
from pilotlight_gateway.idempotency.last_event import ALL_CUTS, LastEvent, lost
from pilotlight_gateway.idempotency.owned_answer import OwnedAnswer
from pilotlight_gateway.idempotency.redis_answers import Head, Key, RedisAnswers, Taken
from pilotlight_gateway.redis_calls import RedisAway, RedisCalls
from pilotlight_gateway.settings import WithoutRedis
from pilotlight_gateway.stream_record import LeftOff
from pilotlight_protocol.errors import Conflict, Unavailable


@dataclass(frozen=True, slots=True)
class TakenAnswer:
    """One that this replica goes on with, and what was kept of it."""

    owned: OwnedAnswer
    head: Head
    left_off: LeftOff
    events: list[bytes]
    cuts: tuple[int, ...]


class SharedAnswers:
    """`process`: of no other replica, at no other time. Who makes an answer has a name of its own for it."""

    def __init__(self, link: RedisCalls, without: WithoutRedis, process: str) -> None:
        self._records = RedisAnswers(link)
        self._without = without
        self._process = process
        self._numbers = itertools.count()
        self._returned_s = -math.inf
        self._forgetting: set[asyncio.Task[None]] = set()
        link.on_return(self._returned)

    def _returned(self) -> None:
        self._returned_s = asyncio.get_running_loop().time()

    async def claim(self, key: Key, fingerprint: bytes, *, resumes: bool) -> OwnedAnswer | AnswerElsewhere | None:
        """This replica's to make, or another's to read; None where Redis is away and each replica is for itself. Raises
        Conflict, Unavailable."""
        owner = self._new_owner()
        try:
            claimed = await self._records.claim(key, owner, fingerprint, resumes=resumes)
        except RedisAway:
            # It may have come there all the same, where others would wait until it expires.
            forgetting = asyncio.create_task(self._forget(key, owner), name="forgetting a claim")
            self._forgetting.add(forgetting)
            forgetting.add_done_callback(self._forgetting.discard)
            if self._without == "local":
                return None
            raise
        match claimed:
            case "mine":
                return OwnedAnswer(self._records, key, owner)
            case "other":
                raise Conflict(f"another request had the id {key[1]!r} within the last minutes; take a new one")
            case "gone":
                raise Conflict(f"what the id {key[1]!r} was answered is not kept any more; ask anew, with another id")
        return AnswerElsewhere(self._records, key, fingerprint)

    async def _forget(self, key: Key, owner: str) -> None:
        with contextlib.suppress(RedisAway):
            await self._records.forget(key, owner)

    async def take_over(self, key: Key, fingerprint: bytes, last: LastEvent) -> TakenAnswer | None:
        """Where its owner is gone, it is this replica's to go on with; None where it is somebody's. `last`: what
        somebody has of it who wants the rest. Raises Conflict, Unavailable."""
        # Just after Redis has come back its owner may have had no way to say that it lives.
        is_back = asyncio.get_running_loop().time() - self._returned_s < redis_answers.LEASE_S
        owner = self._new_owner()
        taken = await self._records.take(key, owner, fingerprint, last, only_left=is_back)
        if isinstance(taken, Taken):
            owned = OwnedAnswer(self._records, key, owner, taken.head, taken.left_off)
            events = await self._events(key, fingerprint, taken.events)
            owned.has(events)
            return TakenAnswer(owned, taken.head, taken.left_off, events, taken.cuts)
        if taken == "running":
            return None
        if taken == "beyond":
            raise lost()
        raise Unavailable(BROKEN)

    async def _events(self, key: Key, fingerprint: bytes, most: int) -> list[bytes]:
        kept: list[bytes] = []
        while len(kept) < most:
            _, _, more = await self._records.read(key, fingerprint, LastEvent(len(kept), ALL_CUTS))
            if not more:
                raise Unavailable(BROKEN)
            kept += more
        return kept

    def _new_owner(self) -> str:
        return f"{self._process}-{next(self._numbers)}"
