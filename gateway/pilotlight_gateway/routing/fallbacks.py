"""One request over several endpoints: the next one where those before it cannot, as long as nothing has been answered.

    it is gone (404), busy, broken or left alone (502, 503)    the next one, if running it twice does no harm
    anything else                                              is the answer

The answer bears the name that was asked for, and is all that is billed. Must not: know what endpoints are, or in which
order they come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from pilotlight_gateway.metering import count_anew, count_unbilled
from pilotlight_gateway.metrics import routed
from pilotlight_gateway.request_steps import Answering, Attempted, Choice, GatewayRequest, Routed
from pilotlight_gateway.resilience.retries import is_repeatable
from pilotlight_gateway.routing.asked_name import AskedName
from pilotlight_gateway.routing.target_waits import start_s
from pilotlight_protocol.errors import ModelNotFound, PilotlightError, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, Stream
from pilotlight_wire.poured_events import ChangedSink, Sink, pour

ROUTE_HEADER = "x-pilotlight-route"
UNLABELLED = "other"
_ELSEWHERE = frozenset((404, 502, 503))
GOT_AT_ONCE_S = 0.05
_log = logging.getLogger("pilotlight.gateway.routing")


async def by_route(request: GatewayRequest, route: Routed, attempt: Answering) -> Reply | Stream:
    """As `answered`, by a cascade where the route has one."""
    if route.cascade is None:
        return await answered(request, route, attempt)
    from pilotlight_gateway.cascade.cascades import answered_in_cascade

    return await answered_in_cascade(request, route, route.cascade, attempt)


async def answered(request: GatewayRequest, route: Routed, attempt: Answering) -> Reply | Stream:
    """`attempt` answers the request as it is then; a stream has begun when it returns. Raises what the last one did."""
    context, body, headers = request.context, request.context.body, dict(request.context.response_headers)
    failed = route.note or ("404" if route.choices[0].place else "")
    left: Sequence[Choice] = route.choices
    while True:
        choice, *behind = left
        shown = f"fallback {choice.place}" if choice.place else choice.why
        context.response_headers = {**headers, ROUTE_HEADER: f"{shown}; {failed}" if failed else shown}
        may_go_on = bool(behind) and is_repeatable(request.place.method, request.place.path)
        request.entry, request.model_name, request.choice = choice.entry, choice.model_name, choice
        request.elsewhere, request.answers_as, context.body = may_go_on, "", body
        count_unbilled(request.usage)  # of one that could not answer
        count_anew(request)
        began_s = time.perf_counter()
        try:
            result = await attempt(request)
        except PilotlightError as error:
            eta_s = error.retry_after_s if isinstance(error, Unavailable) else None
            route.observe(Attempted(choice, error.http_status >= 500, eta_s=eta_s))
            if not (may_go_on and isinstance(error, Unavailable | ModelNotFound)):
                raise
            failed = str(error.http_status)
        else:
            if not (may_go_on and isinstance(result, Reply) and result.status in _ELSEWHERE):
                routed(route.label or UNLABELLED, shown).inc()
                return _watched(result, request, route, choice, time.perf_counter() - began_s)
            route.observe(Attempted(choice, result.status >= 500))
            failed = str(result.status)
        _log.info(
            "request %s: target %d of its route answers %s, the next", context.request_id, choice.place + 1, failed
        )
        left = route.behind(behind)
        context.server_timing.clear()  # which is in the next one's `gateway`


def _watched(
    result: Reply | Stream, request: GatewayRequest, route: Routed, choice: Choice, first_event_s: float
) -> Reply | Stream:
    own_name = request.answers_as or choice.model_name
    of_metadata = request.place.method == "GET" and request.place.model is not None
    name = None if own_name == route.name else AskedName(route.name, of_metadata=of_metadata)
    waited_s = start_s(request)
    was_got = choice.is_cold and (isinstance(result, Stream) or result.status < 400)
    started_s = waited_s if was_got else None
    if isinstance(result, Reply):
        route.observe(Attempted(choice, result.status >= 500, start_s=started_s))
        return result if name is None else name.in_reply(result)

    def ended(failed: bool) -> None:
        route.observe(Attempted(choice, failed, None if waited_s > GOT_AT_ONCE_S else first_event_s, started_s))

    result.events = _RoutedEvents(result.events, name, ended)
    return result


class _RoutedEvents:
    """The same events by the name that was asked for, and word of how they ended; none where the client left."""

    def __init__(self, events: AsyncIterator[bytes], name: AskedName | None, ended: Callable[[bool], None]) -> None:
        self._events = events
        self._name = name
        self._ended = ended

    def __aiter__(self) -> _RoutedEvents:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._events)
        except StopAsyncIteration:
            self._ended(False)
            raise
        except PilotlightError:
            self._ended(True)
            raise
        return piece if self._name is None else self._name.in_events(piece)

    async def pour(self, sink: Sink) -> None:
        """`poured_events`'."""
        try:
            await pour(self._events, sink if self._name is None else ChangedSink(sink, self._name.in_events))
        except PilotlightError:
            self._ended(True)
            raise
        self._ended(False)

    async def aclose(self) -> None:
        await close_events(self._events)
