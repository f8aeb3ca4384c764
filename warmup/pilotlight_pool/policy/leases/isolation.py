"""Which tenant may use which engine: the one rule behind `shared`, `reset` and `dedicated`.

An engine process remembers whom it served: "" nobody yet, one tenant, or `SEVERAL`. Pure.
"""

from __future__ import annotations

from pilotlight_pool.policy.leases.lease_terms import ISOLATION_RANK, LeaseWish
from pilotlight_protocol.leases import Isolation

SEVERAL = "*"


def may_reuse(engine_tenant: str, engine_isolation: Isolation, wish: LeaseWish) -> bool:
    """True if the process may serve the wish, by a swap or as it is. Otherwise only a fresh process will do."""
    if engine_tenant in {"", wish.tenant}:
        return True
    return engine_isolation == "shared" and wish.isolation == "shared"


def after_serving(engine_tenant: str, engine_isolation: Isolation, wish: LeaseWish) -> tuple[str, Isolation]:
    """What the process remembers once it serves the wish: its tenant, and the strictest mode it was held under."""
    tenant = wish.tenant if engine_tenant in {"", wish.tenant} else SEVERAL
    return tenant, max(engine_isolation, wish.isolation, key=ISOLATION_RANK.__getitem__)
