"""One answer that several may read while it is made, and for a while after: its readers, its events, its end.

An event-stream's events are numbered by `id:` lines, so that a reader who lost its connection asks for the rest by
`Last-Event-ID`. What there is no room to keep goes on to those who read it, as fast as the slowest of them does. It
must not know whose it is, or how it is made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pilotlight_gateway.idempotency.last_event import LastEvent, event_id, last_event_asked
from pilotlight_gateway.stream_record import Passed, StreamRecord
from pilotlight_protocol.errors import Conflict, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext, Stream

LONGEST_ANSWER_BYTES = 16 * 1024 * 1024
_EVENT_STREAM = "text/event-stream"
_BETWEEN_EVENTS = re.compile(rb"\r?\n\r?\n")
FIRST_FAILURE = 400


class Room(Protocol):
    """What may be kept of answers."""

    def count(self, more_bytes: int) -> None: ...

    def is_left(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class News:
    """What there is of a stream behind what is kept elsewhere. `events`: None where they are not kept here. `passed`:
    with those events; `told`: of all that passed, and maybe more, None where nobody can go on with it."""

    events: Sequence[bytes] | None
    passed: Passed | None = None
    told: bytes | None = None


class KeptAnswer:
    """`fingerprint`: of the request. `abandoned` is called when the last reader has left before the end. `record`: what
    the stream is made of, where that is kept elsewhere. `is_out_of_its_askers_time`: it came to nothing because who
    asked first waits no longer; who joined may ask in its own time."""

    def __init__(
        self, fingerprint: bytes, abandoned: Callable[[], None], room: Room, record: StreamRecord | None = None
    ) -> None:
        self._record = record
        self._cuts: Sequence[int] = ()
        self._passed: Passed | None = None
        self._shown: int | None = None  # None for all
        self.fingerprint = fingerprint
        self.size_bytes = 0
        self.ended = self.is_out_of_its_askers_time = False
        self.is_kept = True
        self._abandoned = abandoned
        self._room = room
        self._changed = asyncio.Event()
        self._readers: set[_Reader] = set()
        self._reply: Reply | None = None
        self._status = 0
        self._has_begun = False
        self._content_type = ""
        self._events: list[bytes] = []
        self._dropped = 0  # events before those
        self._continued = 0
        self._part = b""
        self._error: BaseException | None = None
        self._headers: dict[str, str] = {}
        self._phases_ms: dict[str, float] = {}

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def is_stream(self) -> bool:
        return bool(self._content_type)

    @property
    def has_more(self) -> bool:
        """Than it had where it was continued from."""
        return self._dropped + len(self._events) > self._continued

    def news(self, events: int, told_bytes: int) -> News:
        """Behind so many events, and so much of what is told."""
        if self.is_stream and not self.is_kept:
            return News(None)
        told = None if self._record is None else self._record.told_from(told_bytes)
        return News(self._events[events:], self._passed, told)

    def show(self, events: int | None) -> None:
        """So many at most from now on, None for all."""
        self._shown = events
        self._wake()

    async def news_behind(self, events: int) -> None:
        """Return when there are more, or it keeps none any more."""
        while self._dropped + len(self._events) <= events and (self.is_kept or not self.is_stream):
            await self._changed.wait()

    @property
    def failed(self) -> bool:
        """It is a refusal or a failure that came as an answer."""
        return self._status >= FIRST_FAILURE

    # The side of who makes it

    def continue_from(
        self,
        content_type: str,
        headers: dict[str, str],
        phases_ms: dict[str, float],
        events: list[bytes],
        cuts: Sequence[int],
    ) -> None:
        """As if it had begun here, and these had come. What is taken then is the rest. `cuts`: how many events there
        were each time that somebody else went on with it."""
        self._cuts = cuts
        self._content_type, self._headers, self._phases_ms = content_type, headers, phases_ms
        self._has_begun = True
        self._passed = None if self._record is None or self._record.left_off is None else self._record.left_off.passed
        self._events += events
        self._continued = len(events)
        self._grow(sum(map(len, events)))

    async def take(
        self, result: Reply | Stream, context: RequestContext, before_end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """All of it, as it comes. Raises what the stream does. `before_end`: all is here, and nothing was closed."""
        if not self._has_begun:
            self._headers, self._phases_ms = dict(context.response_headers), dict(context.server_timing)
            self._has_begun = True
        if isinstance(result, Reply):
            self._reply, self._status = result, result.status
            self._grow(len(result.body))
            self._wake()
            return
        self._content_type = result.content_type
        self._wake()
        try:
            async for piece in result.events:
                self._add(piece)
                while self._events and not self.is_kept:
                    await self._changed.wait()
            self._end_part()
            if before_end is not None:
                await before_end()
        finally:
            await close_events(result.events)

    def _add(self, piece: bytes) -> None:
        whole, part = [piece], b""
        if self._content_type.startswith(_EVENT_STREAM):
            *whole, part = _BETWEEN_EVENTS.split(self._part + piece)
            first = self._dropped + len(self._events) + 1
            cuts = len(self._cuts)
            whole = [b"%b%b\n\n" % (event_id(number, cuts), event) for number, event in enumerate(whole, first)]
        more_bytes = sum(map(len, whole)) + len(part) - len(self._part)
        self._events += whole
        self._part = part
        self._passed = None if self._record is None else self._record.position
        self._grow(more_bytes)
        self._wake()
        if len(part) > LONGEST_ANSWER_BYTES:
            raise Unavailable(f"an event of the answer is longer than {LONGEST_ANSWER_BYTES >> 20} MiB")

    def _grow(self, more_bytes: int) -> None:
        self.size_bytes += more_bytes
        self._room.count(more_bytes)
        if self.is_kept and (self.size_bytes > LONGEST_ANSWER_BYTES or not self._room.is_left()):
            self.stop_keeping()

    def stop_keeping(self) -> None:
        """Who reads it gets all the same what there is of it, and is to come."""
        self.is_kept = False
        self._drop_read()

    def _drop_read(self) -> None:
        before_bytes = self.size_bytes
        if self._reply is not None:
            if not self._readers:
                self._reply, self.size_bytes = None, 0
        else:
            made = self._dropped + len(self._events)
            read = min((reader.position for reader in self._readers), default=made) - self._dropped
            self.size_bytes -= sum(map(len, self._events[:read]))
            self._dropped += len(self._events[:read])
            del self._events[:read]
        if self.size_bytes != before_bytes:
            self._room.count(self.size_bytes - before_bytes)
            self._wake()

    def _end_part(self) -> None:
        if self._part:
            self._events.append(self._part)
            self._part = b""

    def end(self, error: BaseException | None = None) -> None:
        self._end_part()
        self._error, self.ended = error, True
        if not self.is_kept:
            self._drop_read()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The side of those who read it

    async def follow(self, context: RequestContext) -> Reply | Stream:
        """Raises what the making of it raised, and Conflict for what was not kept."""
        reader = self.events(last_event_asked(context))
        try:
            while not self._has_begun and not self.ended:
                await self._changed.wait()
            if not self._has_begun:
                assert self._error is not None
                raise self._error
        except BaseException:
            self.leave(reader)
            raise
        context.response_headers.update(self._headers)
        context.server_timing.update(self._phases_ms)
        if self._reply is not None:
            reply = self._reply
            self.leave(reader)
            return Reply(reply.body, reply.status, reply.content_type, dict(reply.headers))
        return Stream(reader, self._content_type)

    def events(self, last: LastEvent) -> _Reader:
        """Those behind that one. Raises Conflict for what was not kept."""
        last.check(self._cuts)
        if self._is_gone(last.number):
            raise _not_kept()
        reader = _Reader(self, last.number)
        self._readers.add(reader)
        return reader

    def _is_gone(self, position: int) -> bool:
        if self.is_kept or not self._has_begun:
            return False
        return position < self._dropped if self.is_stream else self._reply is None

    async def event(self, reader: _Reader) -> bytes | None:
        """The next one; None behind the last. Raises what ended it."""
        while not self._is_shown(at := reader.position - self._dropped):
            if self.ended and (self._shown is None or self._error is not None):
                if self._error is not None:
                    raise self._error
                return None
            await self._changed.wait()
        event = self._events[at]
        reader.position += 1
        if not self.is_kept:
            self._drop_read()
        return event

    def _is_shown(self, at: int) -> bool:
        return at < len(self._events) and (self._shown is None or at + self._dropped < self._shown)

    def leave(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self.is_kept:
            self._drop_read()
        if not self._readers and not self.ended:
            self._abandoned()


class _Reader:
    """`position`: so many events it has."""

    def __init__(self, answer: KeptAnswer, position: int) -> None:
        self.position = position
        self._answer = answer
        self._reading = True

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        event = await self._answer.event(self)
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        if self._reading:
            self._reading = False
            self._answer.leave(self)


def _not_kept() -> Conflict:
    return Conflict("this request was answered, at too great a length to be kept; ask anew, with another id")
