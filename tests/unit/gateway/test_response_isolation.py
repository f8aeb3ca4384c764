"""A stored response at the gateway is its tenant's: another's real id is told from one that nobody has in nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from asgi_client import Answered, ask

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.gateway_app import GatewayRouter
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.request_steps import Caller, NoLimits
from pilotlight_gateway.short_way.endpoint_routes import any_endpoints_routes
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.http_app import HttpApp
from pilotlight_serving.settings import ServerSettings
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.responses_api.stored_responses import StoredResponse, StoredResponses

NOBODY: Any = None
ACMES, NOBODYS = "resp_0123456789abcdef", "resp_0123456789abcdee"
ROUTES = [("GET", ""), ("HEAD", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]


class Door:
    async def caller(self, headers: Mapping[str, str]) -> Caller:
        return Caller(headers["x-api-key"], "key-1")


class World:
    def __init__(self) -> None:
        stored = StoredResponses()
        stored.put(StoredResponse("acme", "m", ACMES, None, b"[]", b"[]", b'{"id":"secret"}'), time.time())
        steps = Steps(Door(), EndpointTable(), NoLimits(), AnswersOnce(), NOBODY, {}, lambda entry: None)
        limiter = ConcurrencyLimiter(8)
        router = GatewayRouter(Pipeline(steps), steps.table, NOBODY, any_endpoints_routes(KeptHere(stored)), limiter)
        self.app = HttpApp(router, limiter, ServerSettings(), lambda seconds: None)

    async def ask(self, tenant: str, method: str, target: str) -> Answered:
        headers = {"x-api-key": tenant, "x-request-id": "r", "content-type": "application/json"}
        return await ask(self.app, method, target, headers=headers)


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
@pytest.mark.parametrize(("method", "tail"), ROUTES)
async def test_anothers_is_told_from_nobodys_in_nothing(method: str, tail: str, prefix: str) -> None:
    world = World()
    theirs = await world.ask("other", method, f"{prefix}/responses/{ACMES}{tail}")
    nobodys = await world.ask("other", method, f"{prefix}/responses/{NOBODYS}{tail}")
    assert theirs.status == nobodys.status == 404
    assert theirs.body.replace(ACMES.encode(), b"ID") == nobodys.body.replace(NOBODYS.encode(), b"ID")
    assert theirs.headers == nobodys.headers
    still = await world.ask("acme", "GET", f"{prefix}/responses/{ACMES}")
    assert (still.status, still.body) == (200, b'{"id":"secret"}')


@pytest.mark.parametrize(("method", "tail"), ROUTES)
async def test_ones_own_is_found(method: str, tail: str) -> None:
    answer = await World().ask("acme", method, f"/v1/responses/{ACMES}{tail}")
    assert answer.status == (400 if tail == "/cancel" else 200), answer.body
