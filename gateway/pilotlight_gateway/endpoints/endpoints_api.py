"""Endpoints on demand over HTTP: a tenant's own, or of any tenant for an admin who names it (`?tenant=`).

    GET, POST              /v1/endpoints
    GET, PATCH, DELETE     /v1/endpoints/{name}      If-Match: "generation", of the ETag

What may be ordered is `endpoint_orders`'; here stands who may.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.endpoints.cold_starts import ColdStarts
from pilotlight_gateway.endpoints.endpoint_orders import EndpointOrders, not_found
from pilotlight_gateway.endpoints.endpoint_spec import changed_spec, read_spec
from pilotlight_gateway.endpoints.shown_endpoint import DeletedEndpoint, ShownEndpoint, ShownEndpoints, base_url, shown
from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.tenant_records import checked_name
from pilotlight_gateway.usage.usage_report import EndpointUsage
from pilotlight_protocol.endpoint_orders import HeldEndpoint
from pilotlight_protocol.errors import Forbidden, InvalidInput
from pilotlight_wire.handlers import Reply, RequestContext

_NAME_CHARS = 100


class EndpointsApi:
    """`usage_of`: what a tenant has taken of its endpoint, by both names."""

    def __init__(
        self,
        orders: EndpointOrders,
        table: EndpointTable,
        cold_starts: ColdStarts,
        usage_of: Callable[[str, str], Awaitable[EndpointUsage | None]],
    ) -> None:
        self._orders = orders
        self._table = table
        self._cold_starts = cold_starts
        self._usage_of = usage_of

    def routes(self) -> list[OwnRoute]:
        one = "/v1/endpoints/{name}"
        return [
            OwnRoute("GET", "/v1/endpoints", self._list),
            OwnRoute("POST", "/v1/endpoints", self._create),
            OwnRoute("GET", one, self._get),
            OwnRoute("PATCH", one, self._change),
            OwnRoute("DELETE", one, self._delete),
        ]

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        everybodys = caller.role == "admin" and "tenant" not in context.query
        held = await self._orders.held(None if everybodys else _namespace(context, caller))
        return _json(ShownEndpoints([self._shown(each, context) for each in held if _may_name(caller, each.name)]))

    async def _create(self, context: RequestContext, caller: Caller) -> Reply:
        namespace = _namespace(context, caller)
        spec = read_spec(context.body, self._orders.rules_of(namespace))
        _check_may_name(caller, spec.name)
        held, is_new = await self._orders.create(namespace, spec)
        return self._answer(held, context, 201 if is_new else 200)

    async def _get(self, context: RequestContext, caller: Caller) -> Reply:
        namespace, name = _namespace(context, caller), _name(context, caller)
        held = await self._orders.get(namespace, name)
        told = msgspec.structs.replace(
            self._shown(held, context),
            cold_starts=self._cold_starts.of(namespace, name),
            usage=await self._usage_of(namespace, name),
        )
        return _json(told, headers=_etag(held))

    async def _change(self, context: RequestContext, caller: Caller) -> Reply:
        namespace, name = _namespace(context, caller), _name(context, caller)
        rules = self._orders.rules_of(namespace)
        generation = _if_match(context)
        held = await self._orders.change(
            namespace, name, generation, lambda spec: changed_spec(spec, context.body, rules)
        )
        return self._answer(held, context)

    async def _delete(self, context: RequestContext, caller: Caller) -> Reply:
        """Once more does no harm."""
        namespace, name = _namespace(context, caller), context.path_parameters["name"]
        _check_may_name(caller, name)
        deleted = await self._orders.delete(namespace, name, _if_match(context))
        return _json(DeletedEndpoint(name[:_NAME_CHARS], deleted.deleted, deleted.running))

    def _answer(self, held: HeldEndpoint, context: RequestContext, status: int = 200) -> Reply:
        headers = _etag(held)
        if status == 201:
            headers["location"] = f"/v1/endpoints/{held.name}"
        return _json(self._shown(held, context), status, headers)

    def _shown(self, held: HeldEndpoint, context: RequestContext) -> ShownEndpoint:
        url = base_url(self._orders.rules_of(held.namespace).public_url, context.headers)
        key = held.namespace, held.name
        return shown(held, self._table.get(key), self._table.held_by_others(key), url)


def _etag(held: HeldEndpoint) -> dict[str, str]:
    return {} if held.generation is None else {"etag": f'"{held.generation}"'}


async def no_usage(tenant: str, name: str) -> None:
    """Of a gateway that keeps none."""
    return


def _namespace(context: RequestContext, caller: Caller) -> str:
    named = context.query.get("tenant", caller.tenant)
    if named != caller.tenant and caller.role != "admin":
        raise Forbidden("this needs an admin's key; without `tenant` it is about your own endpoints")
    return checked_name(named)


def _name(context: RequestContext, caller: Caller) -> str:
    """A name that the key may not use is told from none in nothing."""
    name = context.path_parameters["name"]
    if not _may_name(caller, name):
        raise not_found(name)
    return name


def _may_name(caller: Caller, name: str) -> bool:
    allowed = caller.allowed_models
    return allowed is None or name in allowed or f"{caller.tenant}/{name}" in allowed


def _check_may_name(caller: Caller, name: str) -> None:
    if not _may_name(caller, name):
        raise Forbidden(f"this key may not use a model '{name[:_NAME_CHARS]}'; ask for one that may")


def _if_match(context: RequestContext) -> int | None:
    given = context.headers.get("if-match", "*").strip()
    if given == "*":
        return None
    number = given.removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise InvalidInput('If-Match must be the endpoint\'s ETag, as "3"', param="if-match")
    return int(number)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(msgspec.json.encode(value), status, headers=headers or {})
