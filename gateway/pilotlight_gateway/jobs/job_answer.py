"""The answer of one attempt at a job, while it is made: its events for whoever follows, and all of it at its end.

Events are numbered `attempt.number`: another attempt's are others, and nobody is given the rest of one from another.
"""

from __future__ import annotations

import asyncio
import re

from pilotlight_protocol.errors import Conflict, InvalidInput, PayloadTooLarge, TooManyRequests, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, Stream

LONGEST_RESULT_BYTES = 16 << 20
EVENT_STREAM = "text/event-stream"
_BETWEEN_EVENTS = re.compile(rb"\r?\n\r?\n")
_NO_ROOM = (TooManyRequests.http_status, Unavailable.http_status)
_POSITION = re.compile(r"(\d{1,9})\.(\d{1,9})").fullmatch


class JobAnswer:
    """`content_type`, `status`: of the answer, once `take` has seen it."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.status = 0
        self.content_type = ""
        self.retry_after: str | None = None
        self._events: list[bytes] = []
        self._size_bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def found_no_room(self) -> bool:
        """It says to come back later, and is no answer."""
        return self.status in _NO_ROOM

    @property
    def has_begun(self) -> bool:
        return bool(self._events)

    @property
    def body(self) -> bytes:
        return b"".join(self._events)

    async def take(self, answer: Reply | Stream) -> None:
        """All of it, as it comes. Raises what it does, and PayloadTooLarge for one that is too long to be kept."""
        self.content_type = answer.content_type
        if isinstance(answer, Reply):
            self.status, self.retry_after = answer.status, answer.headers.get("retry-after")
            if not self.found_no_room:
                self._add(answer.body)
            return
        self.status = 200
        part = b""
        try:
            async for piece in answer.events:
                if not answer.content_type.startswith(EVENT_STREAM):
                    self._add(piece)
                    continue
                *whole, part = _BETWEEN_EVENTS.split(part + piece)
                for event in whole:
                    self._add(numbered(self.attempt, len(self._events) + 1, event))
                self._check(len(part))
        finally:
            await close_events(answer.events)
        if part:
            self._add(part)

    def _add(self, event: bytes) -> None:
        self._size_bytes += len(event)
        self._check()
        self._events.append(event)
        self._wake()

    def _check(self, more_bytes: int = 0) -> None:
        if self._size_bytes + more_bytes > LONGEST_RESULT_BYTES:
            raise PayloadTooLarge(
                f"the answer is longer than the {LONGEST_RESULT_BYTES >> 20} MiB that are kept of one"
            )

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def event(self, position: int) -> bytes | None:
        """None behind the last one."""
        while position >= len(self._events):
            if self._ended:
                return None
            await self._changed.wait()
        return self._events[position]


def numbered(attempt: int, number: int, event: bytes) -> bytes:
    return b"id: %d.%d\n%b\n\n" % (attempt, number, event)


def as_event(attempt: int, number: int, body: bytes, name: str = "") -> bytes:
    """A whole answer, or an error, as an event."""
    lines = b"\n".join(b"data: " + line for line in body.splitlines() or [b""])
    return numbered(attempt, number, (f"event: {name}\n".encode() if name else b"") + lines)


def events_of(body: bytes) -> list[bytes]:
    """Those of a kept stream."""
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def position_in(given: str | None, attempt: int) -> int:
    """How many events of that attempt a reader has. Raises InvalidInput, Conflict."""
    if given is None:
        return 0
    found = _POSITION(given)
    if found is None:
        raise InvalidInput("Last-Event-ID must be the id of an event of this job", param="Last-Event-ID")
    if int(found[1]) != attempt:
        raise Conflict("the job was begun again since, and its events are others now; read them from the first one")
    return int(found[2])
