"""The administration of tenants and keys over HTTP, for callers whose key is an admin's.

    GET, POST      /v1/tenants                                  DELETE  /v1/tenants/{tenant}
    POST           /v1/tenants/{tenant}/settings
    GET, POST      /v1/tenants/{tenant}/keys                    DELETE  /v1/tenants/{tenant}/keys/{key}
    POST           /v1/tenants/{tenant}/keys/{key}/rotate

A key is in the answer to the request that made it, and nowhere else. What may be done is `tenant_orders`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import msgspec

from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.request_steps import Caller, Role
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.api_keys import ApiKey
from pilotlight_gateway.tenants.tenant_orders import GRACE_PERIOD_S
from pilotlight_gateway.tenants.tenant_records import KeyRecord, KeyState, TenantRecord, TenantSettings
from pilotlight_gateway.tenants.tenant_store import Change, Decide, TenantStore
from pilotlight_protocol.errors import Forbidden
from pilotlight_protocol.json_bodies import read_json
from pilotlight_wire.handlers import Reply, RequestContext

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=10 * 365 * 86_400.0)]
_Body = TypeVar("_Body")


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    settings: TenantSettings = TenantSettings()


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`models`: fewer than the tenant's, empty for as many. `expires_in_s`: None for never."""

    label: Annotated[str, msgspec.Meta(max_length=128)] = ""
    role: Role = "tenant"
    models: tuple[str, ...] = ()
    expires_in_s: Seconds | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`grace_period_s`: how long the old key goes on."""

    grace_period_s: Seconds = GRACE_PERIOD_S


class ShownTenant(msgspec.Struct, frozen=True):
    name: str
    created_s: float
    settings: TenantSettings


class ShownKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """`key` is all of it, told once."""

    id: str
    state: KeyState
    created_s: float
    label: str
    role: Role
    models: tuple[str, ...]
    expires_s: float | None = None
    successor: str | None = None
    key: str = ""


class TenantList(msgspec.Struct, frozen=True):
    tenants: list[ShownTenant]


class KeyList(msgspec.Struct, frozen=True):
    keys: list[ShownKey]


class Deleted(msgspec.Struct, frozen=True):
    deleted: bool


class Revoked(msgspec.Struct, frozen=True):
    revoked: bool


_new_tenants = msgspec.json.Decoder(NewTenant)
_settings = msgspec.json.Decoder(TenantSettings)
_new_keys = msgspec.json.Decoder(NewKey)
_rotations = msgspec.json.Decoder(Rotation)


class TenantAdministration:
    """`changed`: called after each change, so that this process knows it at once."""

    def __init__(
        self,
        store: TenantStore,
        new_key: Callable[[], ApiKey],
        wall_s: Callable[[], float],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._new_key = new_key
        self._wall_s = wall_s
        self._changed = changed

    def routes(self) -> list[OwnRoute]:
        tenant = "/v1/tenants/{tenant}"
        key = f"{tenant}/keys/{{key}}"
        routes = (
            OwnRoute("GET", "/v1/tenants", self._list),
            OwnRoute("POST", "/v1/tenants", self._create),
            OwnRoute("DELETE", tenant, self._delete),
            OwnRoute("POST", f"{tenant}/settings", self._change_settings),
            OwnRoute("GET", f"{tenant}/keys", self._list_keys),
            OwnRoute("POST", f"{tenant}/keys", self._create_key),
            OwnRoute("POST", f"{key}/rotate", self._rotate_key),
            OwnRoute("DELETE", key, self._revoke_key),
        )
        # Who administers raises the limit that he is held to.
        return [replace(route, is_free=True) for route in routes]

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        tenants = await asyncio.to_thread(self._store.tenants)
        return _json(TenantList([_shown_tenant(tenant) for tenant in tenants if tenant.deleted_s is None]))

    async def _create(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        asked = read_json(_new_tenants, context.body, "a tenant")
        change = await self._change(asked.name, tenant_orders.create_tenant(asked.name, asked.settings, self._wall_s()))
        assert change.tenant is not None
        return _json(_shown_tenant(change.tenant), 201)

    async def _delete(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        name = context.path_parameters["tenant"]
        await self._change(name, tenant_orders.delete_tenant(name, self._wall_s()))
        return _json(Deleted(deleted=True))

    async def _change_settings(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        name = context.path_parameters["tenant"]
        asked = read_json(_settings, context.body, "a tenant's settings")
        change = await self._change(name, tenant_orders.change_settings(name, asked))
        assert change.tenant is not None
        return _json(_shown_tenant(change.tenant))

    async def _list_keys(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        keys = await asyncio.to_thread(self._store.keys, context.path_parameters["tenant"])
        return _json(KeyList([self._shown(key) for key in keys]))

    async def _create_key(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        name, key, now_s = context.path_parameters["tenant"], self._new_key(), self._wall_s()
        asked = _optional(_new_keys, context.body, "a key", NewKey())
        decide = tenant_orders.create_key(
            name,
            key,
            now_s,
            role=asked.role,
            label=asked.label,
            models=asked.models,
            expires_s=None if asked.expires_in_s is None else now_s + asked.expires_in_s,
        )
        return self._made(await self._change(name, decide), key)

    async def _rotate_key(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        name, successor = context.path_parameters["tenant"], self._new_key()
        asked = _optional(_rotations, context.body, "a rotation", Rotation())
        key_id = context.path_parameters["key"]
        decide = tenant_orders.rotate_key(name, key_id, successor, asked.grace_period_s, self._wall_s())
        return self._made(await self._change(name, decide), successor)

    async def _revoke_key(self, context: RequestContext, caller: Caller) -> Reply:
        _check_admin(caller)
        name = context.path_parameters["tenant"]
        await self._change(name, tenant_orders.revoke_key(name, context.path_parameters["key"], self._wall_s()))
        return _json(Revoked(revoked=True))

    async def _change(self, tenant: str, decide: Decide) -> Change:
        change = await asyncio.to_thread(self._store.change, tenant, decide)
        await self._changed()
        return change

    def _made(self, change: Change, key: ApiKey) -> Reply:
        (record,) = (each for each in change.keys if each.id == key.id)
        return _json(msgspec.structs.replace(self._shown(record), key=key.shown), 201)

    def _shown(self, key: KeyRecord) -> ShownKey:
        return ShownKey(
            key.id,
            key.state(self._wall_s()),
            key.created_s,
            key.label,
            key.role,
            key.models,
            key.expires_s,
            key.successor,
        )


def _check_admin(caller: Caller) -> None:
    if caller.role != "admin":
        raise Forbidden("this needs an admin's key; `pilotlight key create TENANT --role admin` makes one")


def _optional(decoder: msgspec.json.Decoder[_Body], body: bytes, what: str, default: _Body) -> _Body:
    return read_json(decoder, body, what) if body.strip() else default


def _shown_tenant(tenant: TenantRecord) -> ShownTenant:
    return ShownTenant(tenant.name, tenant.created_s, tenant.settings)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(value), status)
