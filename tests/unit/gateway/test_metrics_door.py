"""Who reads `/metrics`: what all tenants together do is no tenant's to know, and who reads it may do nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from asgi_client import ask

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.gateway_app import GatewayRouter, OwnRoute
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.request_steps import Authenticator, Caller, NoLimits, OpenDoor, Role
from pilotlight_gateway.short_way.endpoint_routes import any_endpoints_routes
from pilotlight_protocol.errors import Unauthorized
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.http_app import HttpApp
from pilotlight_serving.settings import ServerSettings
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_wire.handlers import Reply, RequestContext

NOBODY: Any = None


class KeyedDoor:
    async def caller(self, headers: Mapping[str, str]) -> Caller:
        roles: dict[str, Role] = {"a": "admin", "t": "tenant", "m": "metrics"}
        role = roles.get(headers.get("x-api-key", ""))
        if role is None:
            raise Unauthorized("no such key")
        return Caller("acme", "key-1", role)


def app(door: Authenticator) -> HttpApp:
    async def kept(context: RequestContext, caller: Caller) -> Reply:
        return Reply(b"{}")

    steps = Steps(door, EndpointTable(), NoLimits(), AnswersOnce(), NOBODY, {}, lambda entry: None)
    limiter, own = ConcurrencyLimiter(8), [OwnRoute("GET", "/v1/kept", kept, is_free=True)]
    paths = any_endpoints_routes(KeptHere())
    router = GatewayRouter(Pipeline(steps), steps.table, NOBODY, paths, limiter, own)
    return HttpApp(router, limiter, ServerSettings(), lambda seconds: None)


@pytest.mark.parametrize(("key", "status"), [("a", 200), ("m", 200), ("t", 403), ("x", 401), ("", 401)])
async def test_metrics_are_for_who_may_know_what_everybody_does(key: str, status: int) -> None:
    answer = await ask(app(KeyedDoor()), "GET", "/metrics", headers={"x-api-key": key})
    assert answer.status == status
    assert (b"pilotlight_gateway_ways" in answer.body) == (status == 200)


async def test_an_open_door_is_its_owners_but_no_pages() -> None:
    door = app(OpenDoor())
    assert (await ask(door, "GET", "/metrics")).status == 200
    assert (await ask(door, "GET", "/metrics", headers={"origin": "https://evil.example"})).status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/chat"),
        ("GET", "/v2/models"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/kept"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v2/models/chat/infer"),
    ],
)
async def test_who_reads_them_may_do_nothing_else(method: str, path: str) -> None:
    answer = await ask(app(KeyedDoor()), method, path, headers={"x-api-key": "m"}, body=b'{"model":"chat"}')
    assert answer.status == 403
    assert b"/metrics and nothing else" in answer.body
