"""The steps of one request, in their order; what each of them does is its own affair.

authenticate ▶ which endpoints ▶ once ▶ reserve ▶ turn ▶ which way ▶ short | pods ▶ commit
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from pilotlight_gateway.directory.endpoint_table import EndpointTable, Target
from pilotlight_gateway.errors import no_such_model, nothing_known_yet
from pilotlight_gateway.held_events import Held, HeldEvents
from pilotlight_gateway.metering import USAGE, count_anew
from pilotlight_gateway.metrics import OUTPUT_TOKENS, PROMPT_TOKENS, WENT, first_byte, requests, seconds
from pilotlight_gateway.request_steps import (
    NO_RECORDS,
    NO_TURN,
    NO_TURNS,
    Asked,
    Attempted,
    Authenticator,
    Caller,
    Choice,
    GatewayRequest,
    Later,
    Limits,
    NoRoutes,
    Once,
    Place,
    Records,
    Reservation,
    Routed,
    Router,
    Turn,
    Turns,
    Way,
    WayChooser,
)
from pilotlight_gateway.routing.fallbacks import by_route
from pilotlight_gateway.stream_record import Began, NobodyGoesOn
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_gateway.ways import WAY_HEADER, ChosenWay, WayName
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    PilotlightError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import TENANT, of_client, traced
from pilotlight_wire.request_time import in_senders_time, left_s
from pilotlight_wire.shared_timer import SharedTimeouts

_CLIENT_GONE = 499
_NO_ROOM = (TooManyRequests.http_status, Unavailable.http_status)
_asked = msgspec.json.Decoder(Asked)


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)


@dataclass(frozen=True, slots=True)
class Steps:
    """`wake`: starts the pods of an endpoint beside the request. `later`: who takes what its client does not wait for,
    asked where a request says what it prefers."""

    authenticator: Authenticator
    table: EndpointTable
    limits: Limits
    once: Once
    chooser: WayChooser
    ways: Mapping[WayName, Way]
    wake: Callable[[EndpointEntry], None]
    turns: Turns = NO_TURNS
    router: Router = field(default_factory=NoRoutes)
    records: Records = NO_RECORDS
    later: Later | None = None


class Pipeline:
    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._timeouts = SharedTimeouts()

    async def answer(self, place: Place, context: RequestContext) -> Reply | Stream:
        started_s = time.perf_counter()
        return await self._answer(await self.caller(context), place, context, started_s)

    async def answer_as(self, caller: Caller, place: Place, context: RequestContext) -> Reply | Stream:
        """A request of the gateway's own, for a caller that is known."""
        headers = context.headers = {**context.headers, TENANT: caller.tenant}
        traced(headers, random.getrandbits)
        return await self._answer(caller, place, context, time.perf_counter())

    async def _answer(self, caller: Caller, place: Place, context: RequestContext, started_s: float) -> Reply | Stream:
        asked = asked_of(context.body) if place.model is None else Asked(place.model)
        routed = None if not asked.model else self._steps.router.find(caller, asked.model, place, context)
        target = self._target(caller, asked.model, routed)
        request = GatewayRequest(context, place, asked, caller, target.entry, target.model_name)
        if routed is not None:
            request.routed, request.place = routed, routed.place
        context.about = request
        return await self._steps.once.answer(request, lambda: self._run(request, place, started_s))

    async def _run(self, request: GatewayRequest, asked_at: Place, started_s: float) -> Reply | Stream:
        context = request.context
        if request.record is not None and request.record.left_off is not None:
            _as_it_began(request, request.record.left_off.began)
        later = self._steps.later
        if later is not None and "prefer" in context.headers and later.wanted(context, asked_at):
            await self._steps.limits.count(request.caller, context)
            return await later.accept(request, asked_at)
        reservation = await self._steps.limits.reserve(request)
        context.response_headers.update(reservation.headers)
        outcome = _Outcome(started_s, request, reservation, self._steps.records)
        USAGE.set(request.usage)
        try:
            result = await self._in_time(request, started_s, outcome)
        except BaseException as error:
            outcome.status = error.http_status if isinstance(error, PilotlightError) else _CLIENT_GONE
            if request.record is not None and request.record.may_try_elsewhere(error):
                count_anew(request)  # whoever goes on with it is billed for the beginning, too
            await outcome.aclose()
            raise
        if isinstance(result, Reply):
            outcome.status = result.status
            await outcome.aclose()
        return result

    async def admit(self, context: RequestContext) -> None:
        """Refuse who may not ask before anything of a large body is taken. Raises Unauthorized, Forbidden."""
        await self.caller(context)

    async def caller(self, context: RequestContext) -> Caller:
        """Whose request it is. Its headers are those of the client from here on, and what the gateway says."""
        caller = await self._known(context)
        if caller.role == "metrics":
            raise Forbidden("this key reads /metrics and nothing else; ask for one that may do more")
        return caller

    async def metrics_reader(self, context: RequestContext) -> Caller:
        """Who may know what all tenants together do. Raises Unauthorized, Forbidden."""
        caller = await self._known(context)
        if caller.key_id and caller.role == "tenant":
            raise Forbidden("this needs a key for metrics; `pilotlight key create TENANT --role metrics` makes one")
        return caller

    async def _known(self, context: RequestContext) -> Caller:
        try:
            caller = await self._steps.authenticator.caller(context.headers)
        except Unauthorized:
            context.response_headers["www-authenticate"] = "Bearer"
            raise
        headers = context.headers = of_client(context.headers)
        headers[TENANT] = caller.tenant
        traced(headers, random.getrandbits)
        return caller

    async def counted_caller(self, context: RequestContext) -> Caller:
        """Of a request that asks for no model: it is one of its tenant's too."""
        caller = await self.caller(context)
        await self._steps.limits.count(caller, context)
        return caller

    def _target(self, caller: Caller, name: str | None, routed: Routed | None) -> Target | Choice:
        if not name:
            raise InvalidInput("'model' is required: GET /v1/models lists what there is", param="model")
        if routed is not None and routed.choices:
            return routed.choices[0]
        target = None if routed is not None else self._steps.table.find(caller, name)
        if target is not None:
            return target
        if not self._steps.table.known:
            raise nothing_known_yet()
        # Where there is a route of the name, that it answers nothing now is no reason to name other models.
        raise no_such_model(name, full_names=() if routed is not None else self._steps.table.full_names(caller, name))

    async def _in_time(self, request: GatewayRequest, started_s: float, outcome: _Outcome) -> Reply | Stream:
        """The answer, or its beginning: a stream's first event has come, and the end of it ends what is held."""
        timeout_s, waits_s = request.entry.timeout_s, left_s(request.context)
        if waits_s is not None and waits_s < timeout_s:
            return await self._while_waited_for(request, started_s, outcome)
        try:
            with self._timeouts.of(timeout_s):
                return await self._by_its_route(request, started_s, outcome)
        except TimeoutError as error:
            if request.routed is not None and request.choice is not None:
                request.routed.observe(Attempted(request.choice, failed=True))
            raise DeadlineExceeded(f"nothing came within the endpoint's timeout of {timeout_s:g} s") from error

    async def _while_waited_for(self, request: GatewayRequest, started_s: float, outcome: _Outcome) -> Reply | Stream:
        """In the client's own time, which is less than the endpoint's; that it is over is no fault of the endpoint."""
        if request.routed is None and makes_tokens(request.place.method, request.place.component_path):
            self._steps.router.check_time(request.entry, request.context)
        async with in_senders_time(request.context):
            return await self._by_its_route(request, started_s, outcome)

    async def _by_its_route(self, request: GatewayRequest, started_s: float, outcome: _Outcome) -> Reply | Stream:
        if request.routed is None:
            result = await self._begun(request, started_s, outcome, outcome)
        else:
            result = await self._routed(request, request.routed, started_s, outcome)
        request.first_byte_s = time.perf_counter() - started_s
        self._steps.records.begun(request, request.first_byte_s)
        return result

    async def _routed(
        self, request: GatewayRequest, routed: Routed, started_s: float, outcome: _Outcome
    ) -> Reply | Stream:
        result = await by_route(request, routed, lambda request: self._begun(request, started_s, outcome))
        routed.began(request, lambda copy: self._by_a_way(copy, time.perf_counter()))
        if isinstance(result, Stream):
            result.events = HeldEvents(result.events, outcome)
        return result

    async def _begun(self, request: GatewayRequest, started_s: float, outcome: _Outcome, *held: Held) -> Reply | Stream:
        """One endpoint's answer, whose stream has begun; the end of that ends what is held."""
        result = await self._in_turn(request, started_s, outcome)
        if isinstance(result, Stream):
            result.events = await _begun(result.events, *held)
        return result

    async def _in_turn(self, request: GatewayRequest, started_s: float, outcome: _Outcome) -> Reply | Stream:
        outcome.turn.end()  # of an endpoint that could not answer
        outcome.turn = NO_TURN
        turn = outcome.turn = await self._steps.turns.take(request)
        try:
            result = await self._by_a_way(request, started_s)
        except (TooManyRequests, Unavailable):
            turn.refused()
            raise
        if isinstance(result, Reply) and result.status in _NO_ROOM:
            turn.refused()
        return result

    async def _by_a_way(self, request: GatewayRequest, started_s: float) -> Reply | Stream:
        left_off = None if request.record is None else request.record.left_off
        if left_off is None:
            chosen = self._steps.chooser.choose(request)
        else:
            chosen = ChosenWay(left_off.began.way, "the answer began there")
        WENT[chosen.name].inc()
        if chosen.wakes_pods:
            self._steps.wake(request.entry)
        context = request.context
        context.response_headers[WAY_HEADER] = chosen.header
        context.server_timing["gateway"] = (time.perf_counter() - started_s) * 1000
        return await self._steps.ways[chosen.name].answer(request)


def _as_it_began(request: GatewayRequest, began: Began) -> None:
    """Whoever made its beginning makes the rest. Raises NobodyGoesOn."""
    choices = [Choice(request.entry, request.model_name, "")] if request.routed is None else request.routed.choices
    for choice in choices:
        entry = choice.entry
        if entry.key == (began.namespace, began.name) and choice.model_name == began.model_name:
            if entry.spec_digest != began.spec_digest or entry.is_split:
                break
            if request.routed is not None:
                request.routed = msgspec.structs.replace(request.routed, choices=(choice,), cascade=None)
            request.entry, request.model_name = entry, choice.model_name
            request.context.request_id = began.request_id
            return
    raise NobodyGoesOn("the endpoint's model may be another one by now; ask anew, with another id")


def asked_of(body: bytes) -> Asked:
    """What the pipeline reads of a body. A field of another kind than it should be is left to the surface, which says
    what is wrong with it; so is a body that is no JSON object, which asks for no model."""
    try:
        return _asked.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        pass
    try:
        return Asked(_named.decode(body).model)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is no JSON object with a 'model' that is text: {error}", param="model") from error


async def _begun(events: AsyncIterator[bytes], *held: Held) -> HeldEvents:
    try:
        first = await anext(events, None)
        begun = events if isinstance(events, HeldEvents) else HeldEvents(events)
        return begun.begun(first, *held)
    except BaseException:
        await close_events(events)
        raise


@dataclass(slots=True)
class _Outcome:
    """Closing it, once, ends the request's turn, and tells how it went and what it took."""

    started_s: float
    request: GatewayRequest
    reservation: Reservation
    records: Records
    turn: Turn = NO_TURN
    status: int = 200
    open: bool = True

    async def aclose(self) -> None:
        if not self.open:
            return
        self.open = False
        if self.request.record is not None and self.request.record.is_left:
            self.turn.end()
            return  # whoever goes on with it takes over the reservation, too
        try:
            self.turn.end()
            self._observe()
            if self.request.routed is not None:
                self.request.routed.ended(self.request)
        finally:
            await self.reservation.commit(self.request.usage)

    def _observe(self) -> None:
        route, priority, usage = self.request.place.route, self.request.caller.priority, self.request.usage
        requests(route, priority, self.status).inc()
        seconds(route, priority).observe(time.perf_counter() - self.started_s)
        if self.request.first_byte_s is not None:
            first_byte(route, priority).observe(self.request.first_byte_s)
        if usage.total:
            PROMPT_TOKENS.inc(usage.prompt_tokens)
            OUTPUT_TOKENS.inc(usage.output_tokens)
        self.records.ended(self.request, self.status)
