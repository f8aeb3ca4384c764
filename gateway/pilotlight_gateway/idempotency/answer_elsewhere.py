"""An answer that another replica makes or has made: read as it comes, and gone on with where that replica is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from pilotlight_gateway.idempotency.last_event import ALL_CUTS, LastEvent, lost
from pilotlight_gateway.idempotency.redis_answers import Head, Key, Read, RedisAnswers
from pilotlight_gateway.redis_calls import RedisAway
from pilotlight_protocol.errors import Conflict, InternalError, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext, Stream

LOOK_S = 0.1
"""How often another replica's answer is looked at while it is made."""
REDIS_BACK_WITHIN_S = 30.0
BROKEN = "the gateway that made this answer is gone, and with it the rest; ask anew, with another id"

GoOn = Callable[[LastEvent], Awaitable[AsyncIterator[bytes] | None]]
"""The events behind that one, made here from now on; None where another replica makes them. Raises PilotlightError."""


class AnswerElsewhere:
    """One that another replica makes or has made."""

    def __init__(self, records: RedisAnswers, key: Key, fingerprint: bytes) -> None:
        self._records = records
        self._key = key
        self._fingerprint = fingerprint

    async def follow(self, context: RequestContext, last: LastEvent, go_on: GoOn) -> Reply | Stream:
        """Raises Unavailable where it comes to nothing."""
        while True:
            what, told, events = await self.read(LastEvent(0, ALL_CUTS))
            if told:
                head = kept(told)
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
        return Stream(_Reader(self, last, go_on), head.content_type)

    async def read(self, last: LastEvent) -> tuple[Read, bytes, list[bytes]]:
        return await self._records.read(self._key, self._fingerprint, last)


class _Reader:
    """What is kept, as it comes; where its owner is gone, what is made here from then on."""

    def __init__(self, answer: AnswerElsewhere, last: LastEvent, go_on: GoOn) -> None:
        self._answer = answer
        self._last = last
        self._go_on = go_on
        self._here: AsyncIterator[bytes] | None = None
        self._is_over = False

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        while not self._is_over:
            if self._here is not None:
                return await anext(self._here)
            what, head, events = await self._looked()
            if what == "broken":
                with contextlib.suppress(RedisAway):
                    self._here = await self._go_on(self._last)
                if self._here is None:
                    await asyncio.sleep(LOOK_S)
                continue
            if what == "beyond":
                raise lost()
            if what == "gone":
                raise Unavailable(BROKEN)
            kept(head)
            self._is_over = what == "finished"
            if events:
                # What is kept from here on is what it has.
                self._last = LastEvent(self._last.number + len(events), ALL_CUTS)
                return b"".join(events)
            if not self._is_over:
                await asyncio.sleep(LOOK_S)
        raise StopAsyncIteration

    async def _looked(self) -> tuple[Read, bytes, list[bytes]]:
        """A Redis that is started again has what it had."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + REDIS_BACK_WITHIN_S
        while True:
            try:
                return await self._answer.read(self._last)
            except RedisAway:
                if loop.time() > until_s:
                    raise
                await asyncio.sleep(LOOK_S)

    async def aclose(self) -> None:
        self._is_over = True
        if self._here is not None:
            await close_events(self._here)


def kept(head: bytes) -> Head:
    """Raises Conflict for an answer that was too long to be kept."""
    told = msgspec.json.decode(head, type=Head)
    if not told.kept:
        raise Conflict("this request was answered by another gateway, at too great a length to be kept; ask anew")
    return told
