"""What a page in somebody's browser gets of the gateway's own routes, by whose door and whose page it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest
from endpoint_entries import entry, whole

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.gateway_app import GatewayRouter, OwnRoute
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.request_steps import Authenticator, Caller, GatewayRequest, NoLimits, OpenDoor
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.routing.target_waits import EndpointFacts, TargetWaits
from pilotlight_gateway.ways import ChosenWay
from pilotlight_protocol.errors import Forbidden
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.http_app import RouteTable
from pilotlight_wire.handlers import Reply, RequestContext, Route, Stream

HOST = "127.0.0.1:8080"
METHODS: tuple[Literal["GET", "POST", "PATCH", "DELETE"], ...] = ("GET", "POST", "PATCH", "DELETE")


class KeyedDoor:
    async def caller(self, headers: Mapping[str, str]) -> Caller:
        return Caller("acme", "key-1")


class AnyWay:
    def choose(self, request: GatewayRequest) -> ChosenWay:
        return ChosenWay("short", "a test", wakes_pods=False)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        return Reply(b"{}")

    async def close(self) -> None:
        return


async def nothing(context: RequestContext) -> Reply:
    raise AssertionError("the pipeline answers")


async def asked(door: Authenticator, method: str, path: str, **headers: str) -> Reply | Stream:
    async def kept(context: RequestContext, caller: Caller) -> Reply:
        return Reply(b"what is kept")

    table, way = EndpointTable(), AnyWay()
    table.apply(whole(entry("chat", "default")))
    facts = EndpointFacts(lambda key: True, lambda key: 0.0, lambda entry, way, woken: None)
    routes = Routes(table, Mirrors(lambda: False), Rollouts(), TargetWaits(facts))
    pipeline = Pipeline(Steps(door, table, NoLimits(), AnswersOnce(), way, {"short": way}, lambda entry: None))
    of_endpoints = RouteTable([Route("POST", "/v1/chat/completions", nothing)])
    own = [OwnRoute(each, "/v1/kept/{name}", kept) for each in METHODS]
    router = GatewayRouter(pipeline, table, routes, of_endpoints, ConcurrencyLimiter(8), own)
    context = RequestContext("r1", {"host": HOST, **headers}, b'{"model": "chat"}')
    route = router.route({"type": "http", "method": method, "raw_path": path.encode()}, context)
    return await route.handler(context)


PAGES = (
    "https://evil.example",
    "null",
    "",
    "http://127.0.0.1:3000",
    "http://localhost:8080",
    f"http://{HOST}.evil.example",
    f"http://evil.example@{HOST}",
    "http://evil.example:8080",
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("origin", PAGES)
async def test_a_page_gets_nothing_that_is_kept_behind_an_open_door(method: str, origin: str) -> None:
    looks_like_keys: tuple[dict[str, str], ...] = ({}, {"authorization": "Bearer plk_x"}, {"x-api-key": "plk_x"})
    for shown in looks_like_keys:
        with pytest.raises(Forbidden, match="door is open"):
            await asked(OpenDoor(), method, "/v1/kept/x", origin=origin, **shown)


async def test_a_name_that_is_made_to_point_here_is_not_the_gateways_own() -> None:
    with pytest.raises(Forbidden):
        await asked(OpenDoor(), "POST", "/v1/kept/x", origin="http://evil.example:8080", host="evil.example:8080")


@pytest.mark.parametrize("method", METHODS)
async def test_who_is_no_foreign_page_or_has_a_key_gets_it(method: str) -> None:
    for answer in (
        await asked(OpenDoor(), method, "/v1/kept/x"),
        await asked(OpenDoor(), method, "/v1/kept/x", origin=f"http://{HOST}"),
        await asked(KeyedDoor(), method, "/v1/kept/x", origin="https://app.example"),
    ):
        assert isinstance(answer, Reply)
        assert answer.body == b"what is kept"


async def test_a_page_may_ask_a_model() -> None:
    answer = await asked(OpenDoor(), "POST", "/v1/chat/completions", origin="https://app.example")
    assert isinstance(answer, Reply)
    assert answer.status == 200
