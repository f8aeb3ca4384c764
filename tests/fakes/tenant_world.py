"""Tenants in a real store, a clock that the test turns, and keys as their owners have them."""

from __future__ import annotations

import secrets
from pathlib import Path

from pilotlight_gateway.request_steps import Role
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.api_keys import ID_BYTES, SECRET_BYTES, ApiKey, new_key
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_gateway.tenants.tenant_watch import TenantWatch

START_S = 1_795_000_000.0


class TenantWorld:
    def __init__(self, folder: Path) -> None:
        self.now_s = START_S
        self.path = folder / FILE_NAME
        self.store = SqliteTenants(self.path)
        self.watch = TenantWatch(self.store, now_s=self.clock, wall_s=self.clock)

    def clock(self) -> float:
        return self.now_s

    def tenant(self, name: str, settings: TenantSettings = TenantSettings()) -> None:  # noqa: B008 - it is frozen
        self.store.change(name, tenant_orders.create_tenant(name, settings, self.now_s))

    def key(
        self, tenant: str, role: Role = "tenant", models: tuple[str, ...] = (), expires_s: float | None = None
    ) -> ApiKey:
        key = made_key()
        order = tenant_orders.create_key(tenant, key, self.now_s, role=role, models=models, expires_s=expires_s)
        self.store.change(tenant, order)
        return key


def made_key() -> ApiKey:
    return new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
