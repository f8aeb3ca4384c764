"""What the claims of a token that was found good mean here: whose it is, and what it may. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from pilotlight_gateway.request_steps import Caller, PriorityClass
from pilotlight_gateway.tenants.identity_section import IdentityProvider
from pilotlight_gateway.tenants.tenant_records import TenantRecord
from pilotlight_protocol.errors import Forbidden, Unauthorized

_ORDER: tuple[PriorityClass, ...] = ("low", "normal", "high")


def valid_until_s(claims: Mapping[str, Any], provider: IdentityProvider, now_s: float) -> float:
    """Until when the token is good. Raises Unauthorized where it is not good now."""
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise Unauthorized("the token does not say when it expires (exp)")
    if now_s >= expires_s + provider.leeway_s:
        raise Unauthorized("the token has expired; get a new one")
    if expires_s - now_s > provider.longest_life_s + provider.leeway_s:
        raise Unauthorized(f"the token is valid for longer than the {provider.longest_life_s:g} s that are taken here")
    for name in ("nbf", "iat"):
        starts_s = _time(claims, name)
        if starts_s is not None and starts_s > now_s + provider.leeway_s:
            raise Unauthorized(f"the token is not valid yet ({name})")
    return expires_s + provider.leeway_s


def tenant_named(claims: Mapping[str, Any], provider: IdentityProvider) -> str:
    """Raises Forbidden where the claims name none, or several."""
    values = claim_values(claims, provider.tenant_claim)
    named = {provider.tenants.get(value, "") if provider.tenants else value for value in values} - {""}
    if len(named) != 1:
        raise Forbidden(f"the token's claim '{provider.tenant_claim}' names no tenant that is known here")
    return named.pop()


def caller_of(claims: Mapping[str, Any], provider: IdentityProvider, tenant: TenantRecord) -> Caller:
    settings = tenant.settings
    is_admin = bool(provider.role_claim) and not set(provider.admin_values).isdisjoint(
        claim_values(claims, provider.role_claim)
    )
    return Caller(
        tenant.name,
        key_id=_subject(claims, provider),
        role="admin" if is_admin else "tenant",
        priority=_capped(claims, provider, settings.priority),
        namespaces=settings.namespaces,
        allowed_models=frozenset(settings.models) or None,
    )


def _subject(claims: Mapping[str, Any], provider: IdentityProvider) -> str:
    """Stands for the user as a key's id does for a key, and tells nobody who it is."""
    return hashlib.sha256(f"{provider.issuer}\n{claims.get('sub', '')}".encode("utf-8", "replace")).hexdigest()[:24]


def _capped(claims: Mapping[str, Any], provider: IdentityProvider, of_tenant: PriorityClass) -> PriorityClass:
    if not provider.priority_claim:
        return of_tenant
    told = [
        provider.priorities[each]
        for each in claim_values(claims, provider.priority_claim)
        if each in provider.priorities
    ]
    highest = max(told, key=_ORDER.index, default=of_tenant)
    return min(highest, of_tenant, key=_ORDER.index)


def claim_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a claim, or of the list that it is. A claim of just that name comes before a way to one."""
    value: Any = claims.get(name)
    if value is None:
        value = claims
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
    found = value if isinstance(value, list) else [value]
    return [each for each in found if isinstance(each, str) and each]


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthorized(f"the token's '{name}' is no time")
    return float(value)
