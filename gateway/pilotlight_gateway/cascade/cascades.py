"""One request over a cascade: the first answer, what is thought of it, and the other one where that is needed.

The first answer's stream goes on to exist while the other one begins: where that cannot, the first one is the answer.
Whoever gets an answer is billed for that one; what the other took is told in `x-pilotlight-escalation`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from pilotlight_gateway.cascade.asked_logprobs import (
    events_without_logprobs,
    wants_json,
    with_logprobs,
    without_logprobs,
)
from pilotlight_gateway.cascade.cascade_spec import CascadeSpec
from pilotlight_gateway.cascade.first_answer import FirstAnswer, why_not_good
from pilotlight_gateway.metering import USAGE, count_anew, count_unbilled
from pilotlight_gateway.metrics import cascaded
from pilotlight_gateway.request_steps import Answering, Cascade, GatewayRequest, Routed
from pilotlight_gateway.routing.fallbacks import ROUTE_HEADER, answered
from pilotlight_protocol.errors import PilotlightError
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, Stream
from pilotlight_wire.poured_events import ChangedSink, Sink, pour

ESCALATION_HEADER = "x-pilotlight-escalation"
_CHAT, _TEXT = "/chat/completions", "/completions"
_OK = 200
_MOST_HELD_BYTES = 1 << 20


def is_judged(request: GatewayRequest) -> bool:
    return request.place.method == "POST" and request.place.path.endswith(_TEXT)


async def answered_in_cascade(
    request: GatewayRequest, route: Routed, cascade: Cascade, attempt: Answering
) -> Reply | Stream:
    """As `answered` does."""
    if not is_judged(request):
        return await answered(request, route, attempt)
    context, body = request.context, request.context.body
    asks = with_logprobs(body, request.place.path.endswith(_CHAT))
    if cascade.spec.mean_logprob_below is not None and asks is not None:
        context.body = asks
    try:
        result = await answered(request, msgspec.structs.replace(route, choices=cascade.first), attempt)
    except PilotlightError as error:
        # Also what it says of the request may be true of itself alone, as a context that is too long.
        context.body = body
        cascaded(f"{error.http_status}").inc()
        return await answered(request, route, attempt)
    context.body = body
    first = _First(result, strips=asks is not None)
    try:
        why, told = await first.judged(cascade.spec, wants_json(body))
        if not why:
            cascaded("kept").inc()
            context.response_headers[ROUTE_HEADER] = f"cascade; {told}"
            return first.answer()
        return await _escalated(request, route, attempt, first, why)
    except BaseException:
        await first.close()
        raise


async def _escalated(
    request: GatewayRequest, route: Routed, attempt: Answering, first: _First, why: str
) -> Reply | Stream:
    headers, spent = request.context.response_headers, request.usage
    of_first = request.entry, request.model_name, request.choice
    count_anew(request)
    try:
        result = await answered(request, route, attempt)
    except PilotlightError as error:
        if first.broken:
            count_unbilled(spent)
            raise
        count_unbilled(request.usage)
        # There is an answer, and nobody has a better one.
        request.usage, request.context.response_headers = spent, headers
        request.entry, request.model_name, request.choice = of_first
        USAGE.set(spent)
        headers[ROUTE_HEADER] = f"cascade; {why}, but {error.http_status}"
        cascaded("kept, as the other failed").inc()
        return first.answer()
    await first.close()
    cascaded(why).inc()
    count_unbilled(spent)
    told = request.context.response_headers
    told[ROUTE_HEADER] = f"escalated; {why}"
    told[ESCALATION_HEADER] = f"unbilled; prompt_tokens={spent.prompt_tokens}, output_tokens={spent.output_tokens}"
    return result


class _First:
    """The first answer: read as far as it takes to judge it, and then given on whole."""

    def __init__(self, result: Reply | Stream, *, strips: bool) -> None:
        self._result = result
        self._strips = strips
        self._held: list[bytes] = []
        self.broken = False

    async def judged(self, spec: CascadeSpec, wants_json: bool) -> tuple[str, str]:
        """Why it is not good, "" where it is; and what was looked at."""
        seen = FirstAnswer()
        if isinstance(self._result, Reply):
            if self._result.status != _OK:
                return f"{self._result.status}", "an error"
            seen.take(self._result.body)
            seen.is_whole = True
            return why_not_good(spec, seen, wants_json), "whole"
        held_bytes = 0
        while seen.tokens < spec.hold_tokens and held_bytes < _MOST_HELD_BYTES:
            try:
                piece = await anext(self._result.events, None)
            except PilotlightError as error:
                self.broken = True
                return f"{error.http_status}", "an error"
            if piece is None:
                seen.is_whole = True
                break
            self._held.append(piece)
            held_bytes += len(piece)
            seen.take_events(piece)
        return why_not_good(spec, seen, wants_json), f"held {seen.tokens} tokens"

    def answer(self) -> Reply | Stream:
        result = self._result
        if isinstance(result, Reply):
            return replace(result, body=without_logprobs(result.body)) if self._strips else result
        result.events = _Released(self._held, result.events, strips=self._strips)
        return result

    async def close(self) -> None:
        if isinstance(self._result, Stream):
            await close_events(self._result.events)


class _Released:
    """Events that were held, and those that follow."""

    def __init__(self, held: list[bytes], events: AsyncIterator[bytes], *, strips: bool) -> None:
        self._held = held[::-1]
        self._events = events
        self._strips = strips

    def __aiter__(self) -> _Released:
        return self

    async def __anext__(self) -> bytes:
        piece = self._held.pop() if self._held else await anext(self._events)
        return events_without_logprobs(piece) if self._strips else piece

    async def pour(self, sink: Sink) -> None:
        """`poured_events`'."""
        into = ChangedSink(sink, events_without_logprobs) if self._strips else sink
        while self._held:
            into.write(self._held.pop())
        if into.is_full:
            await into.drained()
        await pour(self._events, into)

    async def aclose(self) -> None:
        await close_events(self._events)
