"""An answer that this replica makes, as the others learn of it: each telling brings what they do not have yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from pilotlight_gateway.idempotency import redis_answers
from pilotlight_gateway.idempotency.kept_answer import News
from pilotlight_gateway.idempotency.redis_answers import (
    AS_IT_WAS,
    NOBODY,
    Appended,
    GoingOn,
    Head,
    Key,
    RedisAnswers,
)
from pilotlight_gateway.redis_calls import RedisAway
from pilotlight_gateway.stream_record import Began, LeftOff, Passed, StreamRecord
from pilotlight_protocol.errors import Unavailable

LONGEST_ANSWER_BYTES = 4 * 1024 * 1024


class OwnedAnswer:
    """One that this replica makes. Where Redis is away, or has no room for it, it is made all the same.

    `is_taken`: another replica makes it by now. `is_finishing`: all of it is here, and about to be told. `left_off`:
    what this one goes on with. `record`: what it is made of."""

    def __init__(
        self, records: RedisAnswers, key: Key, owner: str, head: Head | None = None, left_off: LeftOff | None = None
    ) -> None:
        self.is_taken = False
        self.is_finishing = False
        self.left_off = left_off
        self.record: StreamRecord | None = None
        self._records = records
        self._key = key
        self._owner = owner
        self._telling = asyncio.Lock()
        self._head = head
        self._told_head = head
        self._told_began: Began | None = None if left_off is None else left_off.began
        self._may_go_on = left_off is not None
        self._told = 0
        self._told_bytes = 0 if left_off is None else len(left_off.told)
        self._size_bytes = 0
        self._is_shared = True
        self._mine_until_s = asyncio.get_running_loop().time() + redis_answers.LEASE_S

    def has(self, events: Sequence[bytes]) -> None:
        """So much of it is kept already."""
        self._told, self._size_bytes = len(events), sum(map(len, events))

    async def begin(self, head: Head, body: bytes | None = None) -> None:
        """Before anything of it is shown; `body`: all of it. Raises Unavailable where another replica makes it."""
        record = self.record if body is None else None
        told = None if record is None or record.began is None or record.told_from(0) is None else b""
        news = News(() if body is None else (body,), Passed(0, 0), told)
        async with self._telling:
            self._head = head
            with contextlib.suppress(RedisAway):
                await self._append(news, finished=body is not None)
        if self.is_taken:
            raise taken_over()

    @property
    def told(self) -> int:
        """So many events are."""
        return self._told

    @property
    def is_shared(self) -> bool:
        return self._is_shared

    async def tell(self, news: Callable[[int, int], News], *, finished: bool = False) -> None:
        """What there is behind what is told, and that it is still made. Raises RedisAway; then, as where it is
        cancelled, it may be called again."""
        self.is_finishing |= finished
        async with self._telling:
            await self._append(news(self._told, self._told_bytes), finished=finished)

    @property
    def is_mine_alone(self) -> bool:
        """As far as anybody can know here: nobody takes an answer whose lease runs, or while Redis is away."""
        return not self._records.there or asyncio.get_running_loop().time() < self._mine_until_s

    async def forget(self) -> None:
        with contextlib.suppress(RedisAway):
            await self._records.forget(self._key, self._owner)

    def will_be_left(self) -> None:
        """This replica ends before it. Who cannot be told, or has nobody to go on, ends it here."""
        can_be = self._may_go_on and self._is_shared and not self.is_taken and self._records.there
        if self.record is not None and not self.record.is_last and can_be and not self.is_finishing:
            self.record.is_left = True

    async def leave(self) -> None:
        """This replica ends: another one may go on at once."""
        with contextlib.suppress(RedisAway):
            await self._records.leave(self._key, self._owner)

    async def is_followed(self) -> bool:
        try:
            return self._is_shared and await self._records.is_followed(self._key)
        except RedisAway:
            return False

    async def _append(self, news: News, *, finished: bool) -> None:
        if self.is_taken or not self._is_shared:
            return
        events, told = news.events, news.told
        size_bytes = self._size_bytes + sum(map(len, events or ()))
        if (events is None or size_bytes > LONGEST_ANSWER_BYTES) and self._head is not None:
            self._head, events, finished = msgspec.structs.replace(self._head, kept=False), (), True
        events, asked_s = events or (), asyncio.get_running_loop().time()
        began = None if self.record is None else self.record.began
        going_on = self._more(news, began)
        written = await self._records.append(
            self._key, self._owner, Appended(self._new_head(), events, self._told, finished, going_on)
        )
        self.is_taken = written < 0
        if self.is_taken:
            return
        self._told_head = self._head
        self._told += len(events)
        self._size_bytes = size_bytes
        self._told_bytes += len(told or b"")
        if going_on.told_before >= 0:
            self._told_began = began
        self._may_go_on = going_on is not NOBODY and (self._may_go_on or going_on is not AS_IT_WAS)
        self._mine_until_s = asked_s + redis_answers.LEASE_S
        if written < 1 or finished:
            self._is_shared = False

    def _new_head(self) -> bytes:
        return b"" if self._head is self._told_head else msgspec.json.encode(self._head)

    def _more(self, news: News, began: Began | None) -> GoingOn:
        if news.told is None:
            return NOBODY
        if news.passed is None:
            return AS_IT_WAS
        # Who takes it over has a reservation of its own.
        told_began = b"" if began is None or began is self._told_began else msgspec.json.encode(began)
        return GoingOn(self._told_bytes, news.told, told_began, msgspec.json.encode(news.passed))


def taken_over() -> Unavailable:
    return Unavailable("another gateway goes on with this answer; ask for the rest of it again", retry_after_s=1)
