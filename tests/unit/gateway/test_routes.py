"""What a route's name means to whom, and what it comes to over the endpoints that there are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import msgspec
import pytest
from endpoint_entries import entry, whole
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.request_steps import Asked, Attempted, Caller, GatewayRequest, Place, Routed
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.route_list import RouteList
from pilotlight_gateway.routing.route_spec import CanarySpec, HeaderMatch, RouteSpec, RuleSpec, VersionSpec
from pilotlight_gateway.routing.route_table import RouteTable
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.routing.target_waits import EndpointFacts, TargetWaits
from pilotlight_gateway.routing.target_waits import start_s as start_s_of
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import Forbidden, ModelNotFound, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext
from pilotlight_wire.request_time import keep_time

TENANTS = ("team", "other", "third")
NAMES = ("a", "b", "c")
SPECS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | st.sets(st.sampled_from(TENANTS), min_size=1)), max_size=6
).map(
    lambda made: [
        RouteSpec(name=name, targets=(f"ns/{number}",), tenants=None if tenants is None else tuple(sorted(tenants)))
        for number, (name, tenants) in enumerate(made)
    ]
)


@given(SPECS, st.sampled_from(TENANTS), st.none() | st.frozensets(st.sampled_from(NAMES)))
def test_a_tenants_own_route_then_everybodys(
    specs: list[RouteSpec], tenant: str, allowed: frozenset[str] | None
) -> None:
    table, caller = RouteTable(specs), Caller(tenant, allowed_models=allowed)
    for name in NAMES:
        own = [spec for spec in specs if spec.name == name and spec.tenants is not None and tenant in spec.tenants]
        of_all = [spec for spec in specs if spec.name == name and spec.tenants is None]
        expected = own[-1] if own else of_all[-1] if of_all else None
        if allowed is not None and name not in allowed:
            expected = None
        assert table.find(caller, name) == expected
        assert (expected in list(table.visible(caller))) == (expected is not None)


class Warmth:
    """What the gateway's other parts know of endpoints."""

    def __init__(self) -> None:
        self.cold: set[str] = set()
        self.queues: dict[str, float] = {}
        self.woken: list[str] = []
        self.warm_after_s: float | None = None
        self.facts = EndpointFacts(
            lambda key: key[1] not in self.cold,
            lambda key: self.queues.get(key[1], 0.0),
            self.wake,
        )

    def wake(self, entry: EndpointEntry, way: str, woken: Callable[[float], None]) -> None:
        self.woken.append(entry.name)
        if self.warm_after_s is not None:
            woken(self.warm_after_s)


def routes(*specs: RouteSpec, world: Warmth = Warmth()) -> Routes:  # noqa: B008 - everything is warm in it
    endpoints = EndpointTable()
    endpoints.apply(
        whole(entry("chat"), entry("large", "prod", model_names=("org/base", "tuned")), entry("x", "other"))
    )
    made = Routes(endpoints, Mirrors(lambda: False), Rollouts(), TargetWaits(world.facts), lambda: 0.5)
    made.apply(GatewayConfig(routes=specs))
    return made


PATH = "/v1/chat/completions"
CHAT = Place("POST", PATH, PATH, PATH, PATH, None)


def find(known: Routes, name: str, place: Place = CHAT, version: str = "", timeout: str = "") -> Routed | None:
    headers = {"x-model-version": version, "x-request-timeout": timeout}
    context = RequestContext("r1", headers, b'{"model": "a"}')
    keep_time(context)
    return known.find(Caller("team"), name, place, context)


def keys(routed: Routed | None) -> list[tuple[str, str]]:
    assert routed is not None
    return [choice.entry.key for choice in routed.choices]


def test_the_routes_right_stands_for_the_callers() -> None:
    known = routes(RouteSpec(name="smart", targets=("prod/large", "prod/tuned", "team/gone", "team/chat")))
    routed = find(known, "smart")
    assert routed is not None
    assert [(choice.entry.key, choice.model_name, choice.place) for choice in routed.choices] == [
        (("prod", "large"), "org/base", 0),
        (("prod", "large"), "tuned", 1),
        (("team", "chat"), "chat", 3),
    ]
    assert find(known, "large") is None
    assert known.names(Caller("team")) == ["smart", "chat"]


def test_a_route_is_found_by_those_it_is_for_alone() -> None:
    known = routes(RouteSpec(name="smart", targets=("prod/large",), tenants=("other",)))
    assert find(known, "smart") is None
    assert not known.knows(Caller("team"), "smart")
    assert known.names(Caller("team")) == ["chat"]
    assert known.names(Caller("other")) == ["smart", "x"]


def test_a_route_stands_before_an_endpoint_of_its_name_and_without_endpoints_is_none() -> None:
    known = routes(RouteSpec(name="chat", targets=("prod/large",)), RouteSpec(name="empty", targets=("prod/gone",)))
    assert keys(find(known, "chat")) == [("prod", "large")]
    assert not known.knows(Caller("team"), "empty")
    assert known.names(Caller("team")) == ["chat"]


VERSIONED = RouteSpec(
    name="smart", targets=("prod/large",), versions=(VersionSpec(version="v2", targets=("team/chat",)),)
)


def test_a_version_by_header_or_by_path() -> None:
    known = routes(VERSIONED)
    assert keys(find(known, "smart", version="v2")) == [("team", "chat")]
    path = "/v2/models/smart/versions/v2/infer"
    place = Place("POST", f"{path}?a=1", path, "/v2/models/m/versions/v2/infer", "r", "smart")
    routed = find(known, "smart", place=place)
    assert keys(routed) == [("team", "chat")]
    assert routed is not None
    plain = "/v2/models/smart/infer"
    assert routed.place == Place("POST", f"{plain}?a=1", plain, "/v2/models/m/infer", "r", "smart")


def test_it_says_what_it_depends_on_and_nothing_else() -> None:
    headers = (HeaderMatch(name="x-tier", values=("gold",)), HeaderMatch(name="x-none", prefix="a"))
    rule = RuleSpec(targets=("team/chat",), headers=headers)
    known = routes(msgspec.structs.replace(VERSIONED, rules=(rule,)))
    context = RequestContext("r", {"x-tier": "tin", "x-other": "1", "x-model-version": "v2"}, b"{}")
    routed = known.find(Caller("team"), "smart", CHAT, context)
    assert routed is not None
    assert routed.said == {"": "v2", "x-tier": "tin"}
    path = "/v2/models/smart/versions/v2/infer"
    by_path = find(known, "smart", place=Place("POST", path, path, path, "r", "smart"))
    assert by_path is not None
    assert by_path.said == {"": "v2"}
    plain = find(known, "smart")
    assert plain is not None
    assert plain.said == {}


def test_a_version_that_there_is_not_names_no_other() -> None:
    with pytest.raises(ModelNotFound, match=r"^The model 'smart' has no version 'v3'; GET"):
        find(routes(VERSIONED), "smart", version="v3")


def test_the_canarys_fallback_is_the_routes_own_and_counts_as_that() -> None:
    known = routes(RouteSpec(name="s", targets=("prod/large",), canary=CanarySpec(targets=("team/chat",), percent=100)))
    routed = find(known, "s")
    assert keys(routed) == [("team", "chat"), ("prod", "large")]
    assert routed is not None
    assert [choice.why for choice in routed.choices] == ["canary", "target"]


async def test_an_admin_sees_all_routes_and_how_canaries_do() -> None:
    smart = RouteSpec(name="smart", targets=("prod/large",))
    known = routes(smart, RouteSpec(name="s", targets=("a/b",), canary=CanarySpec(targets=("a/c",), percent=5)))
    (route,) = RouteList(known).routes()
    context = RequestContext("r1", {})
    with pytest.raises(Forbidden):
        await route.handler(context, Caller("team"))
    reply = await route.handler(context, Caller("team", role="admin"))
    assert isinstance(reply, Reply)
    told = json.loads(reply.body)
    assert [each["route"]["name"] for each in told["routes"]] == ["smart", "s"]
    assert told["routes"][1]["canary"] == {"percent": 5.0}
    context.query_string = b"name=s"
    reply = await route.handler(context, Caller("team", role="admin"))
    assert isinstance(reply, Reply)
    assert [each["route"]["name"] for each in json.loads(reply.body)["routes"]] == ["s"]


def test_an_endpoint_without_a_route_is_not_waited_for_longer_than_its_client_waits() -> None:
    world, place = Warmth(), entry("chat")
    known = routes(world=world)
    context = RequestContext("r1", {"x-request-timeout": "3"})
    keep_time(context)
    world.cold = {"chat"}
    known.check_time(place, context)  # nobody knows how long it takes
    known._waits.started(place, 12.0)
    with pytest.raises(Unavailable, match=r"it takes 12\.0 s to start") as refused:
        known.check_time(place, context)
    assert (refused.value.retry_after_header, world.woken) == ("12", ["chat"])
    known.check_time(place, RequestContext("r1", {}))
    world.warm_after_s = 0.1  # as it turns out for who was refused
    with pytest.raises(Unavailable):
        known.check_time(place, context)
    known.check_time(place, context)
    world.cold, world.queues = set(), {"chat": 9.0}
    known.check_time(place, context)  # whose turn it is is the queue's affair


@pytest.mark.parametrize(
    ("starts_s", "timeout", "is_refused"),
    [
        ((0.2, 0.2, 0.2, 45.0), "5", False),  # the next may be a swap again
        ((45.0, 0.2), "5", False),
        ((45.0, 45.0), "5", True),
        ((0.2, *[45.0] * 7), "5", False),
        ((0.2, *[45.0] * 8), "5", True),
        ((0.2, 45.0), "0.1", True),
    ],
)
def test_who_may_be_answered_in_time_is_not_refused_for_one_slow_start(
    starts_s: tuple[float, ...], timeout: str, is_refused: bool
) -> None:
    world, place = Warmth(), entry("chat")
    known = routes(RouteSpec(name="s", targets=("team/chat",)), world=world)
    world.cold = {"chat"}
    for took_s in starts_s:
        known._waits.started(place, took_s)
    context = RequestContext("r1", {"x-request-timeout": timeout})
    keep_time(context)
    refused = pytest.raises(Unavailable) if is_refused else contextlib.nullcontext()
    with refused:
        known.check_time(place, context)
    with refused:
        assert keys(find(known, "s", timeout=timeout)) == [("team", "chat")]


@pytest.mark.parametrize(
    ("phases", "start_s"),
    [
        ({"gateway": 1.0, "queue": 5.0, "prefill": 70.0}, 0.0),
        ({"lease": 100.0, "boot": 4000.0, "prefill": 70.0}, 4.1),
        ({"lease": 100.0, "stop": 50.0, "swap": 150.0}, 0.3),
        ({'activate;desc="transformer"': 900.0, 'activate;desc="predictor"': 600.0, "lease": 10.0}, 1.51),
    ],
)
def test_what_of_an_answers_time_was_its_start(phases: dict[str, float], start_s: float) -> None:
    place = Place("POST", "/", "/", "/", "/", None)
    context = RequestContext("r1", {}, server_timing=phases)
    request = GatewayRequest(context, place, Asked("chat"), Caller("team"), entry("chat"), "chat")
    assert start_s_of(request) == pytest.approx(start_s)


async def test_a_target_that_is_cold_for_longer_than_patience_is_woken_and_another_answers() -> None:
    world = Warmth()
    known = routes(RouteSpec(name="s", targets=("prod/large", "team/chat"), patience_s=2.0), world=world)
    world.cold = {"large"}
    routed = find(known, "s")
    assert keys(routed) == [("prod", "large"), ("team", "chat")]  # nothing is known of its start
    assert routed is not None
    assert routed.choices[0].is_cold
    routed.observe(Attempted(routed.choices[0], failed=False, start_s=12.0))
    routed = find(known, "s")
    assert keys(routed) == [("team", "chat"), ("prod", "large")]
    assert routed is not None
    assert (routed.note, world.woken) == ("cold 12.0 s", ["large"])
    world.queues["chat"] = 30.0
    assert keys(find(known, "s")) == [("prod", "large"), ("team", "chat")]
    world.cold, world.queues = set(), {"large": 5.0}
    routed = find(known, "s")
    assert routed is not None
    assert (routed.choices[0].entry.name, routed.note, world.woken) == ("chat", "queue 5.0 s", ["large"])


def test_when_the_first_cannot_those_in_time_are_asked_before_those_too_late() -> None:
    world = Warmth()
    known = routes(RouteSpec(name="s", targets=("team/chat", "prod/large", "other/x")), world=world)
    known._waits.started(entry("large", "prod"), 40.0)
    routed = find(known, "s", timeout="5")
    assert routed is not None
    assert [choice.entry.name for choice in routed.choices] == ["chat", "large", "x"]
    world.cold = {"large"}  # by now
    behind = routed.behind(routed.choices[1:])
    assert [(choice.entry.name, choice.is_cold) for choice in behind] == [("x", False), ("large", True)]


def test_where_all_are_too_late_the_client_is_told_when_and_the_soonest_is_woken() -> None:
    world = Warmth()
    known = routes(RouteSpec(name="s", targets=("prod/large", "team/chat")), world=world)
    world.cold = {"large", "chat"}
    routed = find(known, "s")
    assert routed is not None
    for choice, start_s in zip(routed.choices, (40.0, 8.0), strict=True):
        routed.observe(Attempted(choice, failed=False, start_s=start_s))
    with pytest.raises(Unavailable, match=r"within 5 s: it takes 8\.0 s to start") as refused:
        find(known, "s", timeout="5")
    assert (refused.value.retry_after_header, world.woken) == ("8", ["chat"])
    assert keys(find(known, "s", timeout="10")) == [("team", "chat"), ("prod", "large")]
    assert keys(find(known, "s", timeout="soon")) == [("prod", "large"), ("team", "chat")]


def test_what_the_pool_says_of_a_start_counts_until_then() -> None:
    world = Warmth()
    known = routes(RouteSpec(name="s", targets=("prod/large", "team/chat"), patience_s=2.0), world=world)
    world.cold = {"large"}
    routed = find(known, "s")
    assert routed is not None
    routed.observe(Attempted(routed.choices[0], failed=True, eta_s=20.0))
    assert keys(find(known, "s")) == [("team", "chat"), ("prod", "large")]
