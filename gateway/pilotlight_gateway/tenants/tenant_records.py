"""What is stored of a tenant and of a key, and what state a key is in. Pure.

active ──rotated──▶ rotated, usable until its grace period is over ──▶ expired
  ├──time──▶ expired
  └──revoked──▶ revoked, from every state
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from pilotlight_gateway.limits.limit_terms import UNLIMITED, LimitTerms
from pilotlight_gateway.request_steps import PriorityClass, Role
from pilotlight_protocol.errors import InvalidInput

Quota = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None
KeyState = Literal["active", "rotated", "revoked", "expired"]
TENANT_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_is_name = re.compile(TENANT_NAME).fullmatch


class TenantSettings(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`models`: the names its keys may ask for, empty for all. `namespaces`: whose endpoints it may use beside its own,
    the first one's by short names, too. `priority`: the highest its requests may have. `max_endpoints`: on demand, and
    `max_replicas`: of each, where not as many as anybody's."""

    priority: PriorityClass = "normal"
    models: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    limits: LimitTerms = UNLIMITED
    max_endpoints: Quota = None
    max_replicas: Quota = None


class TenantRecord(msgspec.Struct, frozen=True):
    """A tenant's name is the namespace of its endpoints. Whoever was deleted is remembered (`deleted_s`)."""

    name: str
    created_s: float
    settings: TenantSettings = TenantSettings()
    deleted_s: float | None = None


class KeyRecord(msgspec.Struct, frozen=True):
    """`digest`: of the whole key. `models`: what it may ask for, fewer than the tenant's, empty for as many; what the
    tenant keeps is all its keys'. `successor`: the id of the key that it was rotated to."""

    id: str
    tenant: str
    digest: bytes
    created_s: float
    label: str = ""
    role: Role = "tenant"
    models: tuple[str, ...] = ()
    expires_s: float | None = None
    revoked_s: float | None = None
    successor: str | None = None

    def state(self, now_s: float) -> KeyState:
        if self.revoked_s is not None:
            return "revoked"
        if self.expires_s is not None and self.expires_s <= now_s:
            return "expired"
        return "active" if self.successor is None else "rotated"

    def __repr__(self) -> str:
        return f"KeyRecord({self.id} of {self.tenant})"


def checked_name(name: str) -> str:
    """Raises InvalidInput for what cannot be a namespace."""
    if _is_name(name) is None:
        raise InvalidInput(
            f"{name[:80]!r} cannot be a tenant: take up to 63 lower-case letters, digits and hyphens", param="name"
        )
    return name
