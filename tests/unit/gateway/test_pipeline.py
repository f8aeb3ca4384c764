"""One request through the pipeline, with fakes for its steps: what is asked of whom, and that everything ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest
from endpoint_entries import entry, whole
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.gateway_app import GatewayRouter, OwnRoute
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.pipeline import Pipeline, Steps, asked_of
from pilotlight_gateway.pods_way.pods_request import pods_request
from pilotlight_gateway.priorities.fair_turns import FairTurns
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.request_steps import Caller, Choice, GatewayRequest, NoRoutes, Place, Routed, TokenUsage
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.routing.target_waits import EndpointFacts, TargetWaits
from pilotlight_gateway.short_way.endpoint_routes import any_endpoints_routes
from pilotlight_gateway.ways import ChosenWay
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.http_app import RouteTable
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import ResponseNotFound
from pilotlight_wire.handlers import Reply, RequestContext, Route, Stream
from pilotlight_wire.hop_headers import trace_id
from pilotlight_wire.request_time import keep_time

PATH = "/v1/chat/completions"
DEEP = b'{"model": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
CHAT = Place("POST", f"{PATH}?x=1", PATH, PATH, PATH, None)


class World:
    """Every step of a pipeline, and what became of it."""

    def __init__(self) -> None:
        self.table = EndpointTable()
        self.table.apply(whole(entry("chat", timeout_s=5.0), entry("chat", "other")))
        self.callers: Mapping[str, Caller] = {"k": Caller("team")}
        self.committed: list[TokenUsage] = []
        self.counted: list[str] = []
        self.accepted: list[GatewayRequest] = []
        self.woken: list[EndpointEntry] = []
        self.wakes = False
        self.refuses: Exception | None = None
        self.events: list[bytes | Exception] = [b"one", b"two"]
        self.replies: Reply | None = None
        self.silent = self.closed = False
        self.seen: list[GatewayRequest] = []
        self.headers = {"x-ratelimit-remaining-requests": "3"}

    def steps(self) -> Steps:
        return Steps(self, self.table, self, AnswersOnce(), self, {"short": self}, self.woken.append, later=self)

    def pipeline(self) -> Pipeline:
        return Pipeline(self.steps())

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        try:
            return self.callers[headers.get("x-api-key", "")]
        except KeyError:
            raise Unauthorized("no such key") from None

    async def reserve(self, request: GatewayRequest) -> World:
        if self.refuses is not None:
            raise self.refuses
        return self

    async def count(self, caller: Caller, context: RequestContext) -> None:
        self.counted.append(caller.tenant)
        if self.refuses is not None:
            raise self.refuses

    async def commit(self, usage: TokenUsage) -> None:
        self.committed.append(usage)

    def choose(self, request: GatewayRequest) -> ChosenWay:
        return ChosenWay("short", "a test", self.wakes)

    def wanted(self, context: RequestContext, place: Place) -> bool:
        return context.headers["prefer"] == "respond-async"

    async def accept(self, request: GatewayRequest, place: Place) -> Reply:
        self.accepted.append(request)
        return Reply(b"{}", 202)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        self.seen.append(request)
        if self.replies is not None:
            usage_now().output_tokens += 4
            return self.replies
        return Stream(self._events())

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            for event in self.events:
                if self.silent:
                    await asyncio.Event().wait()
                if isinstance(event, Exception):
                    raise event
                usage_now().output_tokens += 1
                yield event
        finally:
            self.closed = True

    async def close(self) -> None:
        return


@pytest.fixture
def world() -> World:
    return World()


def request(key: str = "k", **headers: str) -> RequestContext:
    body = json.dumps({"model": "chat", "stream": True, "max_tokens": 9}).encode()
    context = RequestContext("r1", {"x-api-key": key, **headers}, body)
    keep_time(context)
    return context


async def read(result: Reply | Stream) -> list[bytes]:
    assert isinstance(result, Stream)
    try:
        return [event async for event in result.events]
    finally:
        await result.events.aclose()  # type: ignore[attr-defined]


async def test_a_stream_passes_and_is_committed_when_it_has_ended(world: World) -> None:
    context = request()
    result = await world.pipeline().answer(CHAT, context)
    assert not world.committed
    assert await read(result) == [b"one", b"two"]
    assert world.committed == [TokenUsage(0, 2)]
    (seen,) = world.seen
    assert (seen.entry.key, seen.model_name, seen.asked.most_tokens, seen.place.target) == (
        ("team", "chat"),
        "chat",
        9,
        CHAT.target,
    )
    assert context.response_headers == {"x-ratelimit-remaining-requests": "3", "x-pilotlight-way": "short; a test"}
    assert "gateway" in context.server_timing


@pytest.mark.parametrize("said", ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense", ""])
@pytest.mark.parametrize("of_its_own", [False, True])
async def test_every_request_has_a_trace_that_its_log_and_its_pods_share(
    world: World, said: str, of_its_own: bool
) -> None:
    """Also one that the gateway sends itself: a job's, a batch's."""
    context = request(**({"traceparent": said} if said else {}))
    if of_its_own:
        result = await world.pipeline().answer_as(Caller("team"), CHAT, context)
    else:
        result = await world.pipeline().answer(CHAT, context)
    await read(result)
    told = pods_request(world.seen[0]).headers["traceparent"]
    assert trace_id({"traceparent": told}) == trace_id(context.headers) != ""
    assert (told == said) == said.startswith("00-")


async def test_a_client_that_leaves_is_committed_with_what_it_had(world: World) -> None:
    result = await world.pipeline().answer(CHAT, request())
    assert isinstance(result, Stream)
    assert await anext(result.events) == b"one"
    await result.events.aclose()  # type: ignore[attr-defined]
    assert world.committed == [TokenUsage(0, 1)]
    assert world.closed


async def test_a_whole_answer_is_committed_at_once(world: World) -> None:
    world.replies = Reply(b"{}")
    assert await world.pipeline().answer(CHAT, request()) is world.replies
    assert world.committed == [TokenUsage(0, 4)]


async def test_what_a_target_took_that_died_is_nobodys(world: World) -> None:
    endpoints = [entry("one"), entry("two")]
    choices = tuple(Choice(each, each.name, "target", place) for place, each in enumerate(endpoints))

    class Smart(NoRoutes):
        def find(self, caller: Caller, name: str, place: Place, context: RequestContext) -> Routed:
            return Routed(name, "", choices, place)

    class Dying:
        async def answer(self, request: GatewayRequest) -> Reply | Stream:
            usage_now().output_tokens += 900
            if request.entry.name == "one":
                raise Unavailable("died")
            return Reply(b"{}")

        async def close(self) -> None:
            return

    steps = Steps(
        world, world.table, world, AnswersOnce(), world, {"short": Dying()}, world.woken.append, router=Smart()
    )
    await Pipeline(steps).answer(CHAT, request())
    assert world.committed == [TokenUsage(0, 900)]


@pytest.mark.parametrize("after", [0, 1])
async def test_what_fails_is_committed_too(world: World, after: int) -> None:
    world.events = [*[b"one"] * after, Unavailable("gone")]
    with pytest.raises(Unavailable):
        await read(await world.pipeline().answer(CHAT, request()))
    assert world.committed == [TokenUsage(0, after)]
    assert world.closed


@pytest.mark.looptime
async def test_an_answer_that_does_not_begin_in_the_endpoints_time(world: World) -> None:
    world.silent = True
    with pytest.raises(DeadlineExceeded, match="timeout of 5 s"):
        await world.pipeline().answer(CHAT, request())
    assert world.closed
    assert world.committed == [TokenUsage()]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("said", "words"),
    [("2", "2 s of x-request-timeout"), ("9", "timeout of 5 s"), ("x", "timeout of 5 s"), ("0", "0 s of")],
)
async def test_an_answer_that_does_not_begin_while_its_client_waits(world: World, said: str, words: str) -> None:
    world.silent = True
    started_s = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match=words):
        await world.pipeline().answer(CHAT, request(**{"x-request-timeout": said}))
    took_s = asyncio.get_running_loop().time() - started_s
    assert took_s == pytest.approx({"2": 2, "0": 0}.get(said, 5), abs=0.5)
    assert world.committed == [TokenUsage()]


@pytest.mark.parametrize(
    ("said", "told_s"), [((None, "0.2"), (0.6, 0.2)), (("0.2", "0.5"), (0.2, 0.5)), (("0.2", None), (0.2, 0.8))]
)
async def test_who_joins_a_named_request_waits_as_long_as_it_says_itself(
    world: World, said: tuple[str | None, str | None], told_s: tuple[float, float]
) -> None:
    """Neither longer, nor only as long as the first one: then it is asked anew."""
    world.table.apply(whole(entry("chat", timeout_s=0.6)))
    world.silent = True
    pipeline = world.pipeline()

    async def ask(waits: str | None) -> float:
        named = {"x-request-id": "a"} if waits is None else {"x-request-id": "a", "x-request-timeout": waits}
        began_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await pipeline.answer(CHAT, request(**named))
        return time.monotonic() - began_s

    assert await asyncio.gather(*map(ask, said)) == pytest.approx(told_s, abs=0.15)
    assert len(world.seen) == (1 if said[0] is None else 2)


class NeverInTime(NoRoutes):
    def check_time(self, entry: EndpointEntry, context: RequestContext) -> None:
        raise Unavailable("it takes 9 s to start", retry_after_s=9)


async def test_what_is_known_to_begin_too_late_is_refused_at_once(world: World) -> None:
    pipeline = Pipeline(replace(world.steps(), router=NeverInTime()))
    with pytest.raises(Unavailable, match="9 s to start"):
        await pipeline.answer(CHAT, request(**{"x-request-timeout": "2"}))
    assert world.committed == [TokenUsage()]
    for headers in ({}, {"x-request-timeout": "60"}):  # which is longer than the endpoint's own time
        assert await read(await pipeline.answer(CHAT, request(**headers)))


async def handled(*_: object) -> Reply:
    return Reply(b"{}")


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", f"{PATH}?x=1", "/v1/own"])
async def test_every_route_with_a_body_admits_by_the_head(world: World, path: str) -> None:
    routes = RouteTable([Route("POST", PATH, handled)])
    own = [OwnRoute("POST", "/v1/own", handled)]
    router = GatewayRouter(world.pipeline(), world.table, None, routes, ConcurrencyLimiter(1), own)  # type: ignore[arg-type]
    raw, _, query = path.partition("?")
    scope = {"method": "POST", "raw_path": raw.encode(), "query_string": query.encode()}
    admit = router.route(scope, RequestContext("r1", {})).admit
    assert admit is not None
    await admit(RequestContext("r1", {"x-api-key": "k"}))
    with pytest.raises(Unauthorized):
        await admit(RequestContext("r1", {}))


@pytest.mark.parametrize("wakes", [False, True])
async def test_pods_are_woken_beside_the_request(world: World, wakes: bool) -> None:
    world.wakes = wakes
    await read(await world.pipeline().answer(CHAT, request()))
    assert [entry.key for entry in world.woken] == [("team", "chat")] * wakes


async def test_who_is_refused_leaves_nothing(world: World) -> None:
    world.refuses = TooManyRequests("later", retry_after_s=3)
    with pytest.raises(TooManyRequests):
        await world.pipeline().answer(CHAT, request())
    with pytest.raises(Unauthorized):
        await world.pipeline().answer(CHAT, request("another"))
    assert (world.seen, world.committed) == ([], [])


async def test_a_foreign_endpoint_is_told_from_none_in_nothing(world: World) -> None:
    said = []
    for name in ("other/chat", "other/none"):
        context = request()
        context.body = json.dumps({"model": name}).encode()
        with pytest.raises(ModelNotFound) as refused:
            await world.pipeline().answer(CHAT, context)
        said.append((refused.value.message.replace(name, "NAME"), refused.value.http_status, context.response_headers))
    assert said[0] == said[1]


async def test_what_needs_its_namespace_is_told_how_it_is_named(world: World) -> None:
    world.table.apply(whole(entry("llama", "b"), entry("llama", "c"), entry("llama", "not-mine")))
    world.callers = {"k": Caller("team", namespaces=("shared", "b", "c"))}
    context = request()
    context.body = json.dumps({"model": "llama"}).encode()
    with pytest.raises(ModelNotFound, match=r"write 'b/llama' or 'c/llama'$"):
        await world.pipeline().answer(CHAT, context)


async def test_only_the_gateway_says_whose_a_request_is(world: World) -> None:
    context = request(**{"x-pilotlight-tenant": "other", "x-pilotlight-elsewhere": "1"})
    await world.pipeline().answer(CHAT, context)
    assert context.headers["x-pilotlight-tenant"] == "team"
    assert "x-pilotlight-elsewhere" not in context.headers


@given(st.sets(st.sampled_from(["X-Pilotlight-Tenant", "x-pilotlight-priority", "x-request-id", "x-own", "close"])))
async def test_what_the_gateway_says_is_named_away_by_nobody(named: set[str]) -> None:
    world, context = World(), request(**{"x-pilotlight-priority": "high", "x-own": "1", "connection": ", ".join(named)})
    turns = FairTurns(QueueSettings)
    await Pipeline(replace(world.steps(), turns=turns)).answer(CHAT, context)
    sent = pods_request(world.seen[0]).headers
    assert (sent["x-pilotlight-tenant"], sent["x-pilotlight-priority"], sent["x-request-id"]) == (
        "team",
        "normal",
        "r1",
    )
    assert "connection" not in sent
    assert ("x-own" in sent) == ("x-own" not in named)


async def test_before_the_platform_has_told_anything(world: World) -> None:
    world.table = EndpointTable()
    with pytest.raises(Unavailable, match="not heard"):
        await world.pipeline().answer(CHAT, request())


@pytest.mark.parametrize("body", [b"", b"[1", b"[]", b'"a"', b'{"model": 7}', b'{"model": ["a"]}', DEEP])
def test_a_body_that_asks_for_no_model(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        asked_of(body)


@pytest.mark.parametrize(
    "body", [b'{"model": "a", "max_tokens": "many"}', b'{"n": {}, "model": "a"}', b'{"model": "a", "stream": 3}']
)
def test_what_is_wrong_beside_the_model_is_left_to_the_surface(body: bytes) -> None:
    assert asked_of(body).model == "a"


async def test_what_is_kept_for_later_is_a_request_of_its_tenants_before_it_is_kept(world: World) -> None:
    kept = await world.pipeline().answer(CHAT, request(prefer="respond-async"))
    assert isinstance(kept, Reply)
    assert (kept.status, world.counted, len(world.accepted)) == (202, ["team"], 1)
    await read(await world.pipeline().answer(CHAT, request(prefer="wait=3")))
    assert (world.counted, len(world.committed)) == (["team"], 1)
    world.refuses = TooManyRequests("later", retry_after_s=3)
    with pytest.raises(TooManyRequests):
        await world.pipeline().answer(CHAT, request(prefer="respond-async"))
    assert len(world.accepted) == 1


async def test_a_route_of_the_gateways_own_counts_and_one_that_is_free_does_not(world: World) -> None:
    async def handler(context: RequestContext, caller: Caller) -> Reply:
        return Reply(caller.tenant.encode())

    facts = EndpointFacts(lambda key: False, lambda key: 0.0, lambda entry, way, woken: None)
    own = [OwnRoute("GET", "/v1/own", handler), OwnRoute("DELETE", "/v1/free", handler, is_free=True)]
    routes = Routes(world.table, Mirrors(lambda: False), Rollouts(), TargetWaits(facts))
    stored = any_endpoints_routes(KeptHere())
    router = GatewayRouter(world.pipeline(), world.table, routes, stored, ConcurrencyLimiter(1), own)

    async def asked(method: str, path: str) -> Reply | Stream:
        context = request()
        return await router.route({"method": method, "raw_path": path.encode()}, context).handler(context)

    await asked("DELETE", "/v1/free")
    assert world.counted == []
    await asked("GET", "/v1/own")
    assert world.counted == ["team"]
    with pytest.raises(ResponseNotFound):
        await asked("GET", "/v1/responses/resp_1")
    assert world.counted == ["team"] * 2
    world.refuses = TooManyRequests("later", retry_after_s=3)
    with pytest.raises(TooManyRequests):
        await asked("GET", "/v1/own")
    await asked("DELETE", "/v1/free")
