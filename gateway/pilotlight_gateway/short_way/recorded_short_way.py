"""The short way for answers that another gateway may have to go on with, or that this one goes on with for another.

Responsible for what is told of a stream made in this process, which `pods_way` reads where pods make it. Tokens are
counted where they are told, all that the answer has, whoever made them. Any other request is the short way's, as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from pilotlight_gateway.metering import USAGE
from pilotlight_gateway.pods_way.event_feed import EventFeed
from pilotlight_gateway.request_steps import GatewayRequest, TokenUsage, Way
from pilotlight_gateway.stream_record import NobodyGoesOn, StreamRecord
from pilotlight_protocol.answer_record import RESUME, TELL
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, Stream


class RecordedShortWay:
    """Implements `request_steps.Way` over one."""

    def __init__(self, short: Way) -> None:
        self._short = short

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        record = request.record
        if record is None or not request.may_stream:
            return await self._short.answer(request)
        return await self._recorded(request, record)

    async def _recorded(self, request: GatewayRequest, record: StreamRecord) -> Reply | Stream:
        context, feed = request.context, EventFeed(request.usage, ())
        context.headers = {**context.headers, TELL: record.seed.header}
        if record.left_off is not None:
            feed.continue_from(record.left_off)
            resumption, context.body = feed.go_on(context.body)
            if resumption is not None:
                context.headers = {**context.headers, RESUME: resumption.header}
        counted = TokenUsage()
        outer = USAGE.set(counted)
        try:
            result = await self._short.answer(request)
        finally:
            USAGE.reset(outer)
        if isinstance(result, Stream):
            record.make(request.begun_by("short", record), feed)
            return replace(result, events=_Told(result.events, feed, request.usage, counted))
        if record.left_off is not None:
            raise NobodyGoesOn("the answer that had begun is no stream any more; ask anew, with another id")
        _count(request.usage, counted)
        return result

    async def close(self) -> None:
        await self._short.close()


class _Told:
    """The events without what is told between them. `counted`: of the engine here, which tells nothing of what others
    made of the answer."""

    def __init__(self, events: AsyncIterator[bytes], feed: EventFeed, usage: TokenUsage, counted: TokenUsage) -> None:
        self._events = events
        self._feed = feed
        self._usage = usage
        self._counted = counted
        self._is_over = False

    def __aiter__(self) -> _Told:
        return self

    async def __anext__(self) -> bytes:
        outer = USAGE.set(self._counted)
        try:
            while not self._is_over:
                piece = await anext(self._events, b"")
                self._is_over = not piece
                if events := self._feed.feed(piece) if piece else self._feed.rest():
                    return events
                if self._feed.lost is not None:
                    raise NobodyGoesOn(self._feed.lost)
        finally:
            USAGE.reset(outer)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if not self._feed.is_told:
            _count(self._usage, self._counted)
        await close_events(self._events)


def _count(usage: TokenUsage, counted: TokenUsage) -> None:
    usage.prompt_tokens, usage.output_tokens = counted.prompt_tokens, counted.output_tokens
    usage.cached_tokens = counted.cached_tokens
