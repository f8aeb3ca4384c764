"""What a request passes in the gateway, as seams: each step is an object that `__main__` passes in.

    authenticate ▶ which endpoints ▶ once ▶ reserve ▶ turn ▶ which way ▶ short | pods ▶ commit

No I/O is done here. Beside each seam stands its simplest implementation: no keys, no limits, no idempotency.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from pilotlight_gateway.cascade.cascade_spec import CascadeSpec
from pilotlight_gateway.stream_record import Began, StreamRecord
from pilotlight_gateway.ways import ChosenWay, WayName
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import Unauthorized
from pilotlight_wire.handlers import Reply, RequestContext, Stream

Role = Literal["admin", "tenant", "metrics"]
"""`metrics`: reads `/metrics`, and nothing else."""

PriorityClass = Literal["high", "normal", "low"]
Run = Callable[[], Awaitable[Reply | Stream]]
Answering = Callable[["GatewayRequest"], Awaitable[Reply | Stream]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `namespaces`: whose endpoints it may use, None for all; its own, `tenant`, always. The first one's it
    may ask for by short names (`endpoint_table`).

    `allowed_models`: what it may ask for is what these names mean to it, in any spelling; None for all it may use.
    """

    tenant: str
    key_id: str = ""
    role: Role = "tenant"
    priority: PriorityClass = "normal"
    namespaces: tuple[str, ...] | None = ()
    allowed_models: frozenset[str] | None = None

    def may_use(self, namespace: str) -> bool:
        return self.namespaces is None or namespace == self.tenant or namespace in self.namespaces


class Asked(msgspec.Struct):
    """What the pipeline reads of a body, and nothing else; the surface that answers refuses what is wrong in it."""

    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    service_tier: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The most that one choice may take, where the request says so."""
        for most in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if most is not None:
                return most
        return None


@dataclass(slots=True)
class TokenUsage:
    """What a request has taken so far, counted where its tokens pass. `cached_tokens`: of the prompt's. `uncounted`:
    somebody works for it who tells what it took only at the end."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    uncounted: bool = False

    @property
    def total(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request was sent. `target`: path and query as the client wrote them; `component_path`: the path as a
    component of one model has it. `route`: without names, for metrics. `model`: of the path, None where the body names
    it."""

    method: str
    target: str
    path: str
    component_path: str
    route: str
    model: str | None


class Choice(msgspec.Struct, frozen=True):
    """One endpoint that may answer. `why`: what in a route chose it, in words that name no endpoint. `place`: how many
    targets stand before it, also those that there are not. `is_cold`: it had to start, when it was chosen."""

    entry: EndpointEntry
    model_name: str
    why: str
    place: int = 0
    is_cold: bool = False


class Attempted(msgspec.Struct, frozen=True):
    """How it went with one of a route's choices. `failed`: by the endpoint's fault. `first_event_s`: until a stream
    began, None where that tells nothing: no stream, or an engine that had to be got first. `start_s`: how long that
    was waited for by a choice that was cold, `eta_s`: how long it will be, as one says that could not answer."""

    choice: Choice
    failed: bool
    first_event_s: float | None = None
    start_s: float | None = None
    eta_s: float | None = None


class Cascade(msgspec.Struct, frozen=True):
    """`first`: who answers before the route's choices, which answer where that is not good enough."""

    spec: CascadeSpec
    first: tuple[Choice, ...]


class Routed(msgspec.Struct, frozen=True):
    """What the route `name` comes to for one request: the first of `choices` answers, another one where those before
    it cannot. `label`: what metrics may call the route. `place`: the request's, where the route changed it. `note`: why
    the first target is not the first choice, "" where it is. `said`: what the request says
    beside its body that the route depends on: the version, and the headers of its rules.

    `behind`: in which order those are asked that are left when one could not answer, by what is known then.
    `observe` is told of every attempt, `ended` when the answer has ended, and `began` when it has begun; that one gets
    what else would answer a request, past limits and idempotency.
    """

    name: str
    label: str
    choices: tuple[Choice, ...]
    place: Place
    cascade: Cascade | None = None
    note: str = ""
    said: Mapping[str, str] = {}
    behind: Callable[[Sequence[Choice]], Sequence[Choice]] = lambda choices: choices
    observe: Callable[[Attempted], None] = lambda attempted: None
    ended: Callable[[GatewayRequest], None] = lambda request: None
    began: Callable[[GatewayRequest, Answering], None] = lambda request, answering: None


@dataclass(slots=True)
class GatewayRequest:
    """One request whose endpoint is known. `model_name`: as the endpoint's components call the model or adapter.
    `routed`: where a route chose the endpoint; then it may become another one before the answer has begun, as
    `choice` says. `elsewhere`: another endpoint would answer now, so that there is nothing to wait for.
    `answers_as`: what the answer calls the model, "" for its `model_name`. `usage`: of the endpoint that is asked now.
    `first_byte_s`: until the answer began. `record`: where another gateway may have to go on with the answer, or this
    one goes on with another's."""

    context: RequestContext
    place: Place
    asked: Asked
    caller: Caller
    entry: EndpointEntry
    model_name: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    routed: Routed | None = None
    choice: Choice | None = None
    elsewhere: bool = False
    answers_as: str = ""
    first_byte_s: float | None = None
    record: StreamRecord | None = None

    @property
    def may_stream(self) -> bool:
        return bool(self.asked.stream) or self.place.component_path.rstrip("/").endswith("/generate_stream")

    def begun_by(self, way: WayName, record: StreamRecord) -> Began:
        entry = self.entry
        return Began(
            way,
            entry.namespace,
            entry.name,
            entry.spec_digest,
            self.model_name,
            record.seed.header,
            self.context.request_id,
            record.reservation,
        )


class Authenticator(Protocol):
    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Whose request it is. Raises Unauthorized, Forbidden; no message says more than that."""
        ...


class Router(Protocol):
    def find(self, caller: Caller, name: str, place: Place, context: RequestContext) -> Routed | None:
        """None where no route of that name is for this caller: then it is an endpoint's, or nothing. Raises
        ModelNotFound for a version that the route has not."""
        ...

    def check_time(self, entry: EndpointEntry, context: RequestContext) -> None:
        """Of a request by no route. Raises Unavailable, with the time, where the endpoint is known to start later than
        the sender waits."""
        ...


class Reservation(Protocol):
    @property
    def headers(self) -> Mapping[str, str]:
        """`x-ratelimit-*`, as of the reservation."""
        ...

    async def commit(self, usage: TokenUsage) -> None:
        """Called once, when the answer has ended in whatever way, with what was really taken."""
        ...


class Limits(Protocol):
    async def reserve(self, request: GatewayRequest) -> Reservation:
        """Raises TooManyRequests with the time to wait."""
        ...

    async def count(self, caller: Caller, context: RequestContext) -> None:
        """One request that takes no token, and is over as soon as it is counted. Raises as `reserve`."""
        ...


class Turn(Protocol):
    def refused(self) -> None:
        """The upstream had no room for it."""
        ...

    def end(self) -> None:
        """Called once, when the answer has ended in whatever way."""
        ...


class Turns(Protocol):
    async def take(self, request: GatewayRequest) -> Turn:
        """Returns when it is this request's turn. Raises InvalidInput, TooManyRequests, Unavailable."""
        ...


class Later(Protocol):
    """`place`: as its client sent it."""

    def wanted(self, context: RequestContext, place: Place) -> bool:
        """Whether it is to run later, and not now."""
        ...

    async def accept(self, request: GatewayRequest, place: Place) -> Reply:
        """The answer to one that is `wanted`. Raises Forbidden, TooManyRequests."""
        ...


class Once(Protocol):
    async def answer(self, request: GatewayRequest, run: Run) -> Reply | Stream:
        """What `run` answers, or what an equal request is or was answered. Raises Conflict."""
        ...


class Way(Protocol):
    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        """Counts tokens in `request.usage` as they pass. Cancelled, or its stream closed, it ends the work upstream."""
        ...

    async def close(self) -> None: ...


class WayChooser(Protocol):
    def choose(self, request: GatewayRequest) -> ChosenWay: ...


class Records(Protocol):
    """What is kept of requests, in a few microseconds."""

    def begun(self, request: GatewayRequest, first_s: float) -> None:
        """The first part of the answer is there, `first_s` after the request came."""
        ...

    def ended(self, request: GatewayRequest, status: int) -> None:
        """Called once, when the answer has ended in whatever way."""
        ...


class OpenDoor:
    """Everybody is the tenant `default`, and may use all there is: one person's machine."""

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        return Caller("default", namespaces=None)

    def caller_again(self, tenant: str, key_id: str) -> Caller:
        """Of who asked for something that is done now. Raises Unauthorized."""
        if tenant != "default" or key_id:
            raise Unauthorized("this was asked for with an API key, and keys are not known here any more")
        return Caller("default", namespaces=None)


class NoRoutes:
    def find(self, caller: Caller, name: str, place: Place, context: RequestContext) -> Routed | None:
        return None

    def check_time(self, entry: EndpointEntry, context: RequestContext) -> None:
        return


class NoReservation:
    headers: Mapping[str, str] = {}

    async def commit(self, usage: TokenUsage) -> None:
        return


class NoLimits:
    async def reserve(self, request: GatewayRequest) -> Reservation:
        return NoReservation()

    async def count(self, caller: Caller, context: RequestContext) -> None:
        return


class _NoTurn:
    def refused(self) -> None:
        return

    def end(self) -> None:
        return


NO_TURN = _NoTurn()


class NoTurns:
    async def take(self, request: GatewayRequest) -> Turn:
        return NO_TURN


NO_TURNS = NoTurns()


class NoRecords:
    def begun(self, request: GatewayRequest, first_s: float) -> None:
        return

    def ended(self, request: GatewayRequest, status: int) -> None:
        return


NO_RECORDS = NoRecords()
