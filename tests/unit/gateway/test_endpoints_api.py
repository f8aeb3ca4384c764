"""Endpoints on demand over HTTP: whose they are, once and again, together, and in the tenant's words."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from typing import Any

import pytest
from memory_platform import MemoryPlatform

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.endpoints.cold_starts import ColdStarts
from pilotlight_gateway.endpoints.endpoint_orders import EndpointOrders
from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.endpoints.endpoints_api import EndpointsApi
from pilotlight_gateway.endpoints.news_waiter import NewsWaiter
from pilotlight_gateway.endpoints.order_rate import MOST_A_MINUTE
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.usage.usage_report import EndpointUsage, shown_amounts
from pilotlight_gateway.usage.usage_rows import Amounts
from pilotlight_protocol.endpoint_orders import NewsPlace, Refusal
from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable
from pilotlight_serving.http_app import RouteTable, route_of
from pilotlight_wire.handlers import Reply, RequestContext, Route

ACME, OTHER, ADMIN = Caller("acme", "k1"), Caller("other", "k2"), Caller("ops", "k3", role="admin")
CHAT = {"name": "chat", "model": "hf://org/name"}


class Api:
    def __init__(self, rules: EndpointRules = EndpointRules(most_endpoints=2, most_replicas=4)) -> None:  # noqa: B008
        self.table = EndpointTable()
        self.platform = MemoryPlatform(self.table)
        orders = EndpointOrders(
            self.platform, NewsWaiter(self.table, patience_s=1.0), lambda tenant: rules, self.table.holder_of
        )
        self.cold_starts = ColdStarts(lambda: 7.0)
        made = EndpointsApi(orders, self.table, self.cold_starts, self.usage_of)
        self.routes = {(route.method, route.path): route for route in made.routes()}

    async def usage_of(self, tenant: str, name: str) -> EndpointUsage:
        counts = shown_amounts(Amounts(requests=len(tenant), prompt_tokens=len(name)))
        return EndpointUsage(since=date(2026, 11, 1), **counts, currency="USD")

    async def reply(
        self, method: str, path: str, body: Any = None, caller: Caller = ACME, **headers: str
    ) -> tuple[Reply, Any]:
        async def unused(context: RequestContext) -> Reply:
            raise AssertionError

        table = RouteTable([Route(route.method, route.path, unused) for route in self.routes.values()])
        path, _, query = path.partition("?")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        context = RequestContext(
            "r", {"host": "door:8000", **named}, b"" if body is None else json.dumps(body).encode()
        )
        context.query_string = query.encode()
        match = table.find(method, path)
        found = route_of(match, context)
        assert match is not None
        context.path_parameters = match.parameters
        reply = await self.routes[found.method, found.path].handler(context, caller)
        assert isinstance(reply, Reply)
        return reply, json.loads(reply.body)

    async def ask(self, method: str, path: str, body: Any = None, caller: Caller = ACME, **headers: str) -> Any:
        return (await self.reply(method, path, body, caller, **headers))[1]

    async def refused(self, *args: Any, **kwargs: Any) -> PilotlightError:
        with pytest.raises(PilotlightError) as refused:
            await self.ask(*args, **kwargs)
        return refused.value


async def test_an_endpoints_life() -> None:
    api = Api()
    made, shown = await api.reply("POST", "/v1/endpoints", CHAT)
    assert (made.status, made.headers["etag"], made.headers["location"]) == (201, '"1"', "/v1/endpoints/chat")
    assert (shown["url"], shown["model"], shown["tenant"]) == ("http://door:8000/v1", "chat", "acme")
    assert shown["spec"] == CHAT
    found = api.table.find(ACME, "chat")
    assert found is not None
    assert found.entry.namespace == "acme"
    again, same = await api.reply("POST", "/v1/endpoints", {**CHAT, "quantization": "auto"})
    assert (again.status, same) == (200, shown)
    assert len(api.platform.manifests) == 1
    changed, shown = await api.reply("PATCH", "/v1/endpoints/chat", {"max_replicas": 3}, if_match='"1"')
    assert (changed.headers["etag"], shown["spec"]["max_replicas"]) == ('"2"', 3)
    one = await api.ask("GET", "/v1/endpoints/chat")
    assert one == {
        **shown,
        "usage": {"since": "2026-11-01", **shown_amounts(Amounts(4, 4)), "currency": "USD"},
    }
    assert (await api.ask("GET", "/v1/endpoints"))["endpoints"] == [shown]
    assert (await api.ask("DELETE", "/v1/endpoints/chat"))["deleted"] is True
    assert api.table.find(ACME, "chat") is None
    assert (await api.ask("DELETE", "/v1/endpoints/chat"))["deleted"] is False
    assert (await api.refused("GET", "/v1/endpoints/chat")).http_status == 404


async def test_the_same_name_with_another_spec_is_refused_and_says_what_differs() -> None:
    api = Api()
    await api.ask("POST", "/v1/endpoints", CHAT)
    error = await api.refused("POST", "/v1/endpoints", {**CHAT, "model": "hf://org/other"})
    assert (error.http_status, error.param) == (409, "model")


async def test_a_generation_that_is_gone_changes_and_deletes_nothing() -> None:
    api = Api()
    await api.ask("POST", "/v1/endpoints", CHAT)
    await api.ask("PATCH", "/v1/endpoints/chat", {"max_replicas": 2})
    for method, body in (("PATCH", {"max_replicas": 3}), ("DELETE", None)):
        assert (await api.refused(method, "/v1/endpoints/chat", body, if_match='"1"')).http_status == 412
    assert (await api.refused("PATCH", "/v1/endpoints/chat", {"max_replicas": 3}, if_match="one")).http_status == 400
    assert (await api.ask("DELETE", "/v1/endpoints/chat", if_match='"2"'))["deleted"] is True


async def test_many_at_once_make_one_endpoint_and_stay_below_the_quota() -> None:
    api = Api()
    replies = await asyncio.gather(*(api.reply("POST", "/v1/endpoints", CHAT) for _ in range(8)))
    assert sorted(reply.status for reply, _ in replies) == [200] * 7 + [201]
    asked = [api.ask("POST", "/v1/endpoints", {**CHAT, "name": f"e{number}"}) for number in range(5)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, PilotlightError)]
    assert [(error.http_status, error.code) for error in refused] == [(403, "endpoint_quota_reached")] * 4
    await api.ask("POST", "/v1/endpoints", CHAT, OTHER)
    assert (await api.refused("POST", "/v1/endpoints", {**CHAT, "name": "x", "max_replicas": 5}, OTHER)).param == (
        "max_replicas"
    )
    assert (await api.refused("PATCH", "/v1/endpoints/chat", {"max_replicas": 5}, OTHER)).param == "max_replicas"


async def test_another_tenants_endpoint_is_told_from_none_in_nothing() -> None:
    api = Api()
    await api.ask("POST", "/v1/endpoints", CHAT)
    assert (await api.ask("GET", "/v1/endpoints", caller=OTHER)) == {"endpoints": []}
    for method, body in (("GET", None), ("PATCH", {"max_replicas": 2})):
        of_others, of_nobody = [
            await api.refused(method, f"/v1/endpoints/{name}", body, OTHER) for name in ("chat", "none")
        ]
        assert of_others.message == of_nobody.message.replace("none", "chat")
        assert type(of_others) is type(of_nobody)
    assert (await api.ask("DELETE", "/v1/endpoints/chat", caller=OTHER))["deleted"] is False
    assert (await api.reply("POST", "/v1/endpoints", {**CHAT, "model": "hf://org/other"}, OTHER))[0].status == 201
    assert (await api.ask("GET", "/v1/endpoints/chat"))["spec"] == CHAT


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_only_an_admin_names_a_tenant(method: str) -> None:
    api = Api()
    await api.ask("POST", "/v1/endpoints?tenant=acme", CHAT, ADMIN)
    path = "/v1/endpoints" if method == "POST" else "/v1/endpoints/chat"
    assert (await api.refused(method, f"{path}?tenant=acme", CHAT, OTHER)).http_status == 403
    assert (await api.refused(method, f"{path}?tenant=../acme", CHAT, ADMIN)).http_status == 400
    assert await api.ask(method, f"{path}?tenant=acme", {**CHAT}, ADMIN)
    everybodys = await api.ask("GET", "/v1/endpoints", caller=ADMIN)
    assert len(everybodys["endpoints"]) == (0 if method == "DELETE" else 1)


async def test_a_key_for_some_models_manages_these() -> None:
    api, some = Api(), Caller("acme", "k4", allowed_models=frozenset({"chat", "acme/mail"}))
    await api.ask("POST", "/v1/endpoints", {**CHAT, "name": "code"})
    await api.ask("POST", "/v1/endpoints", CHAT, some)
    assert (await api.refused("POST", "/v1/endpoints", {**CHAT, "name": "x"}, some)).http_status == 403
    assert [each["name"] for each in (await api.ask("GET", "/v1/endpoints", caller=some))["endpoints"]] == ["chat"]
    for method in ("GET", "PATCH"):
        assert (await api.refused(method, "/v1/endpoints/code", {}, some)).http_status == 404
    assert (await api.refused("DELETE", "/v1/endpoints/code", None, some)).http_status == 403


async def test_what_a_file_brought_is_shown_and_left_alone() -> None:
    api = Api()
    api.platform.by_file("acme", "chat")
    shown = await api.ask("GET", "/v1/endpoints/chat")
    assert (shown["made_by"], "generation" in shown) == ("file", False)
    for method, path in (("POST", ""), ("PATCH", "/chat"), ("DELETE", "/chat")):
        body = {**CHAT, "max_replicas": 2}
        assert (await api.refused(method, f"/v1/endpoints{path}", body)).http_status == 409
    assert ("acme", "chat") in api.platform.endpoints


@pytest.mark.parametrize(
    ("path", "reason", "param", "message"),
    [
        ("spec.predictor.containers[0].args[1]", "there is no bundled model x", "model", "'model': there is no"),
        (
            "spec.predictor.containers[0].args[0]",
            "pilotlight_predictor refuses them: argument --model_name: too long",
            "name",
            "'name': too long",
        ),
        ("spec.transformer.maxReplicas", "too many", "max_replicas", "'max_replicas': too many"),
        ("spec.predictor.containers[0].command", "no such program", None, "the endpoint cannot start: no such program"),
    ],
)
async def test_what_the_platform_finds_wrong_names_the_field(
    path: str, reason: str, param: str | None, message: str
) -> None:
    api = Api()
    api.platform.refuses = (Refusal(path, reason),)
    error = await api.refused("POST", "/v1/endpoints", CHAT)
    assert isinstance(error, InvalidInput)
    assert (error.param, error.message[: len(message)]) == (param, message)


@pytest.mark.looptime
async def test_orders_have_a_rate_of_each_tenant() -> None:
    api = Api()
    await api.ask("POST", "/v1/endpoints", CHAT)
    for number in range(MOST_A_MINUTE - 1):
        await api.ask("PATCH", "/v1/endpoints/chat", {"max_replicas": 2 + number % 2})
    error = await api.refused("PATCH", "/v1/endpoints/chat", {"timeout_s": 9})
    assert (error.http_status, error.retry_after_header) == (429, "60")
    same = {**CHAT, "max_replicas": 2}
    assert (await api.reply("POST", "/v1/endpoints", same))[0].status == 200, "what changes nothing is no order"
    await api.ask("POST", "/v1/endpoints", CHAT, OTHER)
    await asyncio.sleep(61)
    await api.ask("PATCH", "/v1/endpoints/chat", {"timeout_s": 9})


@pytest.mark.looptime
async def test_news_that_do_not_come_are_not_waited_for_for_ever() -> None:
    table = EndpointTable()
    waiter = NewsWaiter(table, patience_s=1.0)
    with pytest.raises(Unavailable):
        await waiter.heard(NewsPlace("e1", 1))
