"""The rest of a stream that pods began, made by this process: the same request, and what was told of it so far.

Its tokens are counted where what is told of them passes, and not a second time here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pilotlight_gateway.metering import USAGE
from pilotlight_gateway.pods_way.pods_request import PodsRequest
from pilotlight_gateway.request_steps import Asked, GatewayRequest, TokenUsage, Way
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import DeadlineExceeded, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import RequestContext, Stream
from pilotlight_wire.poured_events import Sink


def goes_short(entry: EndpointEntry) -> bool:
    """Whether the endpoint may be answered in this process when its pods fail."""
    return (
        entry.lease is not None
        and entry.text is not None
        and entry.front != "pods"
        and entry.lease.isolation != "dedicated"
    )


async def short_source(short: Way, request: GatewayRequest, asked: PodsRequest, within_s: float) -> ShortSource:
    """Raises PilotlightError."""
    context = RequestContext(request.context.request_id, dict(asked.headers), asked.body)
    again = GatewayRequest(
        context,
        request.place,
        Asked(request.model_name),
        request.caller,
        request.entry,
        request.model_name,
        TokenUsage(),
    )
    counted = USAGE.set(again.usage)
    try:
        async with asyncio.timeout(within_s):
            result = await short.answer(again)
            if not isinstance(result, Stream):
                raise Unavailable("the answer is no stream of events there")
            try:
                return ShortSource(result.events, await anext(result.events, b""))
            except BaseException:
                await close_events(result.events)
                raise
    except TimeoutError as error:
        raise DeadlineExceeded(f"no engine had the rest within {within_s:g} s") from error
    finally:
        USAGE.reset(counted)


class ShortSource:
    """Implements `pods_stream.Source`. A stalled engine is noticed by who leases it."""

    def __init__(self, events: AsyncIterator[bytes], first: bytes) -> None:
        self._events = events
        self._first: bytes | None = first

    async def read(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._events, b"")

    async def pour(self, take: Callable[[bytes], None], sink: Sink) -> None:
        while piece := await self.read():
            take(piece)
            if sink.is_full:
                await sink.drained()

    def expect_within(self, patience_s: float) -> None:
        return

    def passed(self, output_tokens: int) -> None:
        return

    def broke(self) -> None:
        return

    async def close(self) -> None:
        await close_events(self._events)
