"""One answer that several may read while it is made, and for a while after: its readers, its events, its end.

An event-stream's events are numbered by `id:` lines, so that a reader who lost its connection asks for the rest by
`Last-Event-ID`. It must not know whose it is, or how it is made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext, Stream

LONGEST_ANSWER_BYTES = 16 * 1024 * 1024
_EVENT_STREAM = "text/event-stream"
_BETWEEN_EVENTS = re.compile(rb"\r?\n\r?\n")
FIRST_FAILURE = 400


class KeptAnswer:
    """`fingerprint`: of the request. `abandoned` is called when the last reader has left before the end."""

    def __init__(self, fingerprint: bytes, abandoned: Callable[[], None]) -> None:
        self.fingerprint = fingerprint
        self.readers = 0
        self.size_bytes = 0
        self.ended = False
        self._abandoned = abandoned
        self._changed = asyncio.Event()
        self._reply: Reply | None = None
        self._content_type = ""
        self._events: list[bytes] = []
        self._part = b""
        self._error: BaseException | None = None
        self._headers: dict[str, str] = {}
        self._phases_ms: dict[str, float] = {}

    @property
    def is_stream(self) -> bool:
        return bool(self._content_type)

    def events_from(self, position: int) -> list[bytes]:
        return self._events[position:]

    @property
    def failed(self) -> bool:
        """It is a refusal or a failure that came as an answer."""
        return self._reply is not None and self._reply.status >= FIRST_FAILURE

    # The side of who makes it

    async def take(self, result: Reply | Stream, context: RequestContext) -> None:
        """Keep all of it, as it comes. Raises what the stream does."""
        self._headers, self._phases_ms = dict(context.response_headers), dict(context.server_timing)
        if isinstance(result, Reply):
            self._reply, self.size_bytes = result, len(result.body)
            self._wake()
            return
        self._content_type = result.content_type
        self._wake()
        try:
            async for piece in result.events:
                self._add(piece)
        finally:
            await close_events(result.events)

    def _add(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes > LONGEST_ANSWER_BYTES:
            raise Unavailable(f"the answer is longer than the {LONGEST_ANSWER_BYTES >> 20} MiB that are kept of one")
        if not self._content_type.startswith(_EVENT_STREAM):
            self._events.append(piece)
        else:
            *whole, self._part = _BETWEEN_EVENTS.split(self._part + piece)
            for event in whole:
                self._events.append(b"id: %d\n%b\n\n" % (len(self._events) + 1, event))
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        if self._part:
            self._events.append(self._part)
        self._error, self.ended = error, True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # The side of those who read it

    async def follow(self, context: RequestContext) -> Reply | Stream:
        """Raises what the making of it raised."""
        position = position_asked(context)
        self.readers += 1
        try:
            while self._reply is None and not self._content_type and not self.ended:
                await self._changed.wait()
            if self._reply is None and not self._content_type:
                assert self._error is not None
                raise self._error
        except BaseException:
            self.leave()
            raise
        context.response_headers.update(self._headers)
        context.server_timing.update(self._phases_ms)
        if self._reply is not None:
            self.leave()
            reply = self._reply
            return Reply(reply.body, reply.status, reply.content_type, dict(reply.headers))
        return Stream(_Reader(self, position), self._content_type)

    async def event(self, position: int) -> bytes | None:
        """None behind the last one. Raises what ended it."""
        while position >= len(self._events):
            if self.ended:
                if self._error is not None:
                    raise self._error
                return None
            await self._changed.wait()
        return self._events[position]

    def leave(self) -> None:
        self.readers -= 1
        if not self.readers and not self.ended:
            self._abandoned()


class _Reader:
    def __init__(self, answer: KeptAnswer, position: int) -> None:
        self._answer = answer
        self._position = position
        self._reading = True

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        event = await self._answer.event(self._position)
        if event is None:
            raise StopAsyncIteration
        self._position += 1
        return event

    async def aclose(self) -> None:
        if self._reading:
            self._reading = False
            self._answer.leave()


def position_asked(context: RequestContext) -> int:
    """So many events the client has. Raises InvalidInput."""
    given = context.headers.get("last-event-id")
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise InvalidInput("Last-Event-ID must be the number of an event of this answer", param="Last-Event-ID")
    return int(given)
