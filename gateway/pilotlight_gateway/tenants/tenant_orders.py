"""What may be done to tenants and keys. Pure: each is a `Decide`, given the time and the key that was made for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pilotlight_gateway.request_steps import Role
from pilotlight_gateway.tenants.api_keys import ApiKey
from pilotlight_gateway.tenants.errors import KeyNotFound, TenantNotFound
from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantRecord, TenantSettings, checked_name
from pilotlight_gateway.tenants.tenant_store import Change, Decide
from pilotlight_protocol.errors import Conflict

GRACE_PERIOD_S = 86_400.0
"""How long a rotated key goes on beside its successor."""


def create_tenant(name: str, settings: TenantSettings, now_s: float) -> Decide:
    checked_name(name)

    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        if tenant is not None and tenant.deleted_s is not None:
            # Endpoints, jobs, files, answers, usage and budgets are kept under the name, and go on being the old one's.
            raise Conflict(f"there was a tenant {name}, whose name is not given again; take another one", param="name")
        if tenant is not None:
            raise Conflict(f"there is a tenant {name} already", param="name")
        return Change(TenantRecord(name, now_s, settings))

    return decide


def change_settings(name: str, settings: TenantSettings) -> Decide:
    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        return Change(msgspec.structs.replace(_there(name, tenant), settings=settings))

    return decide


def delete_tenant(name: str, now_s: float) -> Decide:
    """Its keys are revoked with it."""

    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        gone = msgspec.structs.replace(_there(name, tenant), deleted_s=now_s)
        return Change(gone, tuple(_revoked(key, now_s) for key in keys if key.revoked_s is None))

    return decide


def create_key(
    tenant_name: str,
    key: ApiKey,
    now_s: float,
    *,
    role: Role = "tenant",
    label: str = "",
    models: tuple[str, ...] = (),
    expires_s: float | None = None,
) -> Decide:
    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        _there(tenant_name, tenant)
        return Change(None, (KeyRecord(key.id, tenant_name, key.digest, now_s, label, role, models, expires_s),))

    return decide


def rotate_key(tenant_name: str, key_id: str, successor: ApiKey, grace_period_s: float, now_s: float) -> Decide:
    """The successor may do what the old one may, for as long as that was to be valid."""

    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        _there(tenant_name, tenant)
        old = _key(tenant_name, key_id, keys)
        if old.state(now_s) != "active":
            raise Conflict(f"the key {key_id} is {old.state(now_s)}; rotate the one that is active, or create one")
        end_s = now_s + grace_period_s
        kept = msgspec.structs.replace(
            old, successor=successor.id, expires_s=end_s if old.expires_s is None else min(old.expires_s, end_s)
        )
        new = msgspec.structs.replace(old, id=successor.id, digest=successor.digest, created_s=now_s)
        return Change(None, (kept, new))

    return decide


def revoke_key(tenant_name: str, key_id: str, now_s: float) -> Decide:
    """Once more does no harm."""

    def decide(tenant: TenantRecord | None, keys: Sequence[KeyRecord]) -> Change:
        key = _key(tenant_name, key_id, keys)
        return Change(None, () if key.revoked_s is not None else (_revoked(key, now_s),))

    return decide


def _there(name: str, tenant: TenantRecord | None) -> TenantRecord:
    if tenant is None or tenant.deleted_s is not None:
        raise TenantNotFound(f"there is no tenant {name}", param="tenant")
    return tenant


def _key(tenant_name: str, key_id: str, keys: Sequence[KeyRecord]) -> KeyRecord:
    for key in keys:
        if key.id == key_id:
            return key
    raise KeyNotFound(f"the tenant {tenant_name} has no key {key_id}", param="key")


def _revoked(key: KeyRecord, now_s: float) -> KeyRecord:
    return msgspec.structs.replace(key, revoked_s=now_s)
