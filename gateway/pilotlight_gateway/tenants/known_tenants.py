"""All tenants and keys as one process knows them, in memory: whose key is this? Pure.

Nothing on the way of a request asks the store, and a key that nobody has costs two hashes and no memory. It takes as
long as one whose id is there.
"""

from __future__ import annotations

import hashlib
import math

from pilotlight_gateway.limits.limit_terms import UNLIMITED, LimitTerms
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.api_keys import parse_key
from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantRecord
from pilotlight_gateway.tenants.tenant_store import Changes
from pilotlight_protocol.errors import Unauthorized

MOST_SHOWN = 4096
_NEVER: tuple[float, Caller | None] = (0.0, None)
_UNKNOWN = "this API key is not known here; check that it is whole, or ask who runs this server for one"


class KnownTenants:
    """`upto`: the change that it is at."""

    def __init__(self) -> None:
        self.upto = 0
        self._tenants: dict[str, TenantRecord] = {}
        self._keys: dict[str, KeyRecord] = {}
        self._shown: dict[bytes, tuple[float, Caller]] = {}
        """Of keys that were shown and found good, by the digest of the key: until when, and whose."""

    @property
    def ever_had_one(self) -> bool:
        """From the first tenant on keys are asked for, also when the last one is gone."""
        return bool(self._tenants)

    def apply(self, changes: Changes) -> None:
        self.upto = changes.upto
        self._shown.clear()
        for tenant in changes.tenants:
            self._tenants[tenant.name] = tenant
        for key in changes.keys:
            if key.revoked_s is None:
                self._keys[key.id] = key
            else:
                self._keys.pop(key.id, None)

    def limits_of(self, tenant: str) -> LimitTerms:
        known = self._tenants.get(tenant)
        return UNLIMITED if known is None else known.settings.limits

    def tenant(self, name: str) -> TenantRecord | None:
        known = self._tenants.get(name)
        return None if known is None or known.deleted_s is not None else known

    def caller_of(self, text: str, now_s: float) -> Caller:
        """Raises Unauthorized; why a key is valid no more is told to who has all of it."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        until_s, known = self._shown.get(digest, _NEVER)
        if known is not None and now_s < until_s:
            return known
        key = parse_key(text)
        if key is None:
            raise Unauthorized(_UNKNOWN)
        record = self._keys.get(key.id)
        if not key.is_of(None if record is None else record.digest) or record is None:
            raise Unauthorized(_UNKNOWN)
        if record.state(now_s) == "expired":
            raise Unauthorized(f"the API key {key.id} has expired; use the one after it, or ask for one")
        tenant = self.tenant(record.tenant)
        if tenant is None:
            raise Unauthorized(_UNKNOWN)
        if len(self._shown) >= MOST_SHOWN:
            self._shown.clear()
        caller = caller_for(tenant, record)
        self._shown[digest] = (math.inf if record.expires_s is None else record.expires_s, caller)
        return caller

    def caller_again(self, tenant: str, key_id: str, now_s: float) -> Caller:
        """Of a key that was good once: it or the one it was rotated to must be good now. Raises Unauthorized."""
        record, known = self._keys.get(key_id), self.tenant(tenant)
        while record is not None and record.state(now_s) == "expired":
            record = None if record.successor is None else self._keys.get(record.successor)
        if record is None or known is None or record.tenant != tenant:
            raise Unauthorized("the API key that asked for this is not valid any more; ask again with another one")
        return caller_for(known, record)


def caller_for(tenant: TenantRecord, key: KeyRecord) -> Caller:
    settings = tenant.settings
    allowed: frozenset[str] | None = frozenset(settings.models) or None
    if key.models:
        allowed = frozenset(key.models) if allowed is None else allowed.intersection(key.models)
    return Caller(tenant.name, key.id, key.role, settings.priority, settings.namespaces, allowed)
