"""Tenants and keys over HTTP: for admins, shown once, and known to this process at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tenant_world import START_S, TenantWorld, made_key

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.admin_routes import TenantAdministration
from pilotlight_protocol.errors import Conflict, Forbidden, InvalidInput, PilotlightError, Unauthorized
from pilotlight_serving.http_app import RouteTable, route_of
from pilotlight_wire.handlers import Reply, RequestContext, Route

ADMIN = Caller("ops", role="admin")


class Api:
    def __init__(self, folder: Path) -> None:
        self.world = TenantWorld(folder)
        made = TenantAdministration(self.world.store, made_key, self.world.clock, self.world.watch.refresh)
        self.routes = {(route.method, route.path): route for route in made.routes()}

    async def ask(self, method: str, path: str, body: Any = None, caller: Caller = ADMIN) -> Any:
        async def unused(context: RequestContext) -> Reply:
            raise AssertionError

        table = RouteTable([Route(route.method, route.path, unused) for route in self.routes.values()])
        context = RequestContext("r", {}, b"" if body is None else json.dumps(body).encode())
        match = table.find(method, path)
        found = route_of(match, context)
        assert match is not None
        context.path_parameters = match.parameters
        reply = await self.routes[found.method, found.path].handler(context, caller)
        assert isinstance(reply, Reply)
        return json.loads(reply.body)


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


async def test_a_tenants_life(api: Api) -> None:
    settings = {"priority": "high", "limits": {"requests_per_minute": 3}}
    await api.ask("POST", "/v1/tenants", {"name": "acme", "settings": settings})
    with pytest.raises(Conflict):
        await api.ask("POST", "/v1/tenants", {"name": "acme"})
    (shown,) = (await api.ask("GET", "/v1/tenants"))["tenants"]
    assert (shown["name"], shown["settings"]) == ("acme", settings)
    made = await api.ask("POST", "/v1/tenants/acme/keys", {"label": "ci", "expires_in_s": 60})
    assert api.world.watch.caller_of(made["key"]).tenant == "acme"
    assert api.world.watch.limits_of("acme").requests_per_minute == 3
    await api.ask("POST", "/v1/tenants/acme/settings", {})
    assert api.world.watch.limits_of("acme").requests_per_minute is None
    (listed,) = (await api.ask("GET", "/v1/tenants/acme/keys"))["keys"]
    assert "key" not in listed
    assert (listed["id"], listed["label"], listed["expires_s"]) == (made["id"], "ci", START_S + 60)
    await api.ask("DELETE", "/v1/tenants/acme")
    assert await api.ask("GET", "/v1/tenants") == {"tenants": []}
    with pytest.raises(Unauthorized):
        api.world.watch.caller_of(made["key"])


async def test_a_key_is_rotated_and_revoked(api: Api) -> None:
    await api.ask("POST", "/v1/tenants", {"name": "acme"})
    old = await api.ask("POST", "/v1/tenants/acme/keys")
    new = await api.ask("POST", f"/v1/tenants/acme/keys/{old['id']}/rotate", {"grace_period_s": 10})
    assert old["key"] != new["key"]
    for key in (old, new):
        assert api.world.watch.caller_of(key["key"]).key_id == key["id"]
    api.world.now_s += 1
    await api.ask("DELETE", f"/v1/tenants/acme/keys/{new['id']}")
    with pytest.raises(Unauthorized):
        api.world.watch.caller_of(new["key"])
    states = {key["id"]: key["state"] for key in (await api.ask("GET", "/v1/tenants/acme/keys"))["keys"]}
    assert states == {old["id"]: "rotated", new["id"]: "revoked"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/tenants"),
        ("POST", "/v1/tenants"),
        ("DELETE", "/v1/tenants/acme"),
        ("POST", "/v1/tenants/acme/settings"),
        ("GET", "/v1/tenants/acme/keys"),
        ("POST", "/v1/tenants/acme/keys"),
        ("POST", "/v1/tenants/acme/keys/x/rotate"),
        ("DELETE", "/v1/tenants/acme/keys/x"),
    ],
)
async def test_nobody_else_may(api: Api, method: str, path: str) -> None:
    with pytest.raises(Forbidden):
        await api.ask(method, path, {}, Caller("acme"))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/tenants", {"name": "No Name"}, 400),
        ("/v1/tenants", {"name": "a", "settings": {"limits": {"requests_per_minute": 0}}}, 400),
        ("/v1/tenants", {"name": "a", "unheard": 1}, 400),
        ("/v1/tenants/acme/keys", {"role": "root"}, 400),
        ("/v1/tenants/acme/keys", {}, 404),
        ("/v1/tenants/acme/keys/x/rotate", {}, 404),
    ],
)
async def test_what_is_wrong_is_refused(api: Api, path: str, body: Any, status: int) -> None:
    with pytest.raises(PilotlightError) as refused:
        await api.ask("POST", path, body)
    assert refused.value.http_status == status
    assert isinstance(refused.value, InvalidInput) == (status == 400)
