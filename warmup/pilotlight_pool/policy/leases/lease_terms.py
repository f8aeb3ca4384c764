"""What a holder asks for, as every policy sees it, and the order of its priorities and isolations."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_protocol.leases import Isolation, Priority

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
