"""What the coordinator knows of a lease beside the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from pilotlight_pool.engine_orders import EngineOrder, ModelFacts
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_protocol.errors import PilotlightError


@dataclass(frozen=True, slots=True)
class Promise:
    """What the holder was told when it asked: at `at_s` (pool's clock), ready in `eta_s`."""

    at_s: float
    eta_s: float


@dataclass
class LeaseRecord:
    """What the ledger does not know of a lease: what to load, and what to answer its holder.

    `eta_s` is the present prediction, `promise` the first one. `queued`: it had to wait for a slot.
    `on_agents`: what single agents say of the model, None where it cannot be had; an agent that is not in it would have
    to fetch it first. `order.facts` are those of the agent that was asked first.
    """

    wish: LeaseWish
    order: EngineOrder
    secret_sha256: str
    asked_s: float
    phases_s: dict[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    path: str = ""
    eta_s: float | None = None
    promise: Promise | None = None
    queued: bool = False
    granted_s: float = 0.0
    worked: bool = False
    endpoint: str = ""
    error: PilotlightError | None = None
    on_agents: dict[str, ModelFacts | None] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def order_on(self, agent_name: str) -> EngineOrder | None:
        """The order with what this agent says of the model; None before it has said anything."""
        facts = self.on_agents.get(agent_name)
        return msgspec.structs.replace(self.order, facts=facts) if facts is not None else None

    def predict(self, eta_s: float | None, now_s: float) -> None:
        """What is expected now; the first that is known becomes the promise."""
        self.eta_s = eta_s
        if self.promise is None and eta_s is not None:
            self.promise = Promise(now_s, eta_s)
