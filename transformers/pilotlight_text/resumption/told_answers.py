"""Routes whose streams are told, or go on where another process left off; nothing for whoever asks for neither.

Responsible for the lines in a stream, and for leaving out what the client has already. It must not know what the bytes
mean.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import replace

from pilotlight_protocol.answer_record import BEGIN, END, RESUME, TELL, Resumption, Seed, line, lost_line, read_told
from pilotlight_protocol.errors import DeadlineExceeded, InvalidInput, Unavailable
from pilotlight_text.resumption.answer_record import AnswerRecord
from pilotlight_text.resumption.current_record import RECORD
from pilotlight_wire.handlers import Handler, Reply, RequestContext, Stream

_EVENT_STREAM = "text/event-stream"
_NOTHING = Resumption(0, 0, 0)


async def told(handler: Handler, context: RequestContext) -> Reply | Stream:
    """What the handler answers a request that has `TELL`. Raises InvalidInput, Unavailable: it cannot go on here."""
    headers = dict(context.headers)
    seed, resumed = Seed.read(headers.pop(TELL)), headers.pop(RESUME, None)
    context.headers = headers
    resumption, record = _NOTHING, AnswerRecord(seed)
    if resumed is not None:
        resumption = Resumption.read(resumed)
        record = AnswerRecord(seed, read_told(context.body[resumption.body_bytes :]))
        context.body = context.body[: resumption.body_bytes]
    current = RECORD.set(record)
    try:
        result = await handler(context)
    finally:
        RECORD.reset(current)
    if isinstance(result, Stream) and result.content_type.startswith(_EVENT_STREAM):
        return replace(result, events=_ToldEvents(result.events, record, resumption))
    if resumed is not None:
        raise InvalidInput("the request's answer is no stream of events; it cannot go on")
    return result


class _ToldEvents:
    """The pieces of an answer with their lines before them, but for the bytes that the client has."""

    def __init__(self, events: AsyncIterator[bytes], record: AnswerRecord, resumption: Resumption) -> None:
        self._events = events
        self._record = record
        self._owed = resumption
        self._left_out = 0
        self._crc = 0
        self._begun = False
        self._over: Exception | None = None

    def __aiter__(self) -> _ToldEvents:
        return self

    async def __anext__(self) -> bytes:
        if self._over is not None:
            raise self._over
        current = RECORD.set(self._record)
        try:
            piece = await self._piece()
        except Exception as error:
            if not self._begun and not isinstance(error, StopAsyncIteration):
                raise
            self._over = error
            lost = isinstance(error, Unavailable | DeadlineExceeded)
            return self._lines() + (lost_line(str(error)) if lost else line(END))
        finally:
            RECORD.reset(current)
        return self._lines() + piece

    def _lines(self) -> bytes:
        begin = b"" if self._begun else line(BEGIN)
        self._begun = True
        return begin + self._record.drain()

    async def _piece(self) -> bytes:
        """The next one of which the client has not all."""
        while self._left_out < self._owed.sent:
            piece = await anext(self._events, None)
            if piece is None:
                raise Unavailable("the answer ended before the place at which it was to go on; send it again")
            known = piece[: self._owed.sent - self._left_out]
            self._left_out += len(known)
            self._crc = zlib.crc32(known, self._crc)
            if self._left_out == self._owed.sent:
                self._check()
                if len(known) < len(piece):
                    return piece[len(known) :]
        return await anext(self._events)

    def _check(self) -> None:
        if self._crc != self._owed.crc:
            raise Unavailable(
                "the answer is another one than what was sent of it already; send the request again", retry_after_s=0
            )

    async def aclose(self) -> None:
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()
