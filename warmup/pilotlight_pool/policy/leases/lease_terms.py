"""The words of a lease that every policy shares: priorities, tenant isolation, and what a holder asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Priority = Literal["interactive", "normal", "batch"]
"""`interactive` is never preempted, `normal` only where it was lent beyond its tenant's share, `batch` always may."""

Isolation = Literal["shared", "reset", "dedicated"]
"""`shared`: engines are swapped across tenants. `reset`: a change of tenant gets a fresh process. `dedicated`: the
tenant's process never serves anybody else. That promises a process, not a slot: parked, it may be stopped for another
tenant like any engine, and its memory ends with it."""

PRIORITY_RANK: dict[Priority, int] = {"interactive": 0, "normal": 1, "batch": 2}
ISOLATION_RANK: dict[Isolation, int] = {"shared": 0, "reset": 1, "dedicated": 2}


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """One lease as its holder asks for it. `deadline_at_s` is on the caller's clock; None waits as long as it takes.

    `memory_bytes` is what the engine needs on the device (weights and KV cache), `weights_bytes` what must be moved,
    `model_name` what its holder calls the model.
    """

    lease_id: str
    tenant: str
    model: str
    fingerprint: str
    priority: Priority = "normal"
    isolation: Isolation = "shared"
    weights_bytes: int = 0
    memory_bytes: int = 0
    deadline_at_s: float | None = None
    model_name: str = ""

    @property
    def sharing_terms(self) -> tuple[str, ...]:
        """Leases that agree in these are of one endpoint, as far as an engine can tell: one may serve them all."""
        return self.tenant, self.model, self.fingerprint, self.model_name, self.priority, self.isolation
