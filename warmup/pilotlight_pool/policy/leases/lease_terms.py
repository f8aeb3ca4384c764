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
    `model_name` what its holder calls the model. `adapter`: the adapter that it brings to its engine, "" without one.
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
    adapter: str = ""

    @property
    def sharing_terms(self) -> tuple[str, ...]:
        """Leases that agree in these are of one endpoint, as far as an engine can tell: one may serve them all."""
        return (
            self.tenant, self.model, self.fingerprint, self.model_name, self.priority, self.isolation, self.adapter,
        )  # fmt: skip

    def may_share_with(self, other: LeaseWish) -> bool:
        """Whether one engine may serve both at once: leases of one endpoint, or of any two that bring an adapter each
        to the same base, where neither wants to be apart."""
        if self.sharing_terms == other.sharing_terms:
            return True
        kind = (self.model, self.fingerprint, "shared")
        both = (self, other)
        return all(wish.adapter and kind == (wish.model, wish.fingerprint, wish.isolation) for wish in both)
