"""Who is next and where: goes through the waiting leases in fair order and places each that can be placed.

Shows `policy` the pool and carries out what it decides on the state; engines are the slot drivers' business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import msgspec
from pilotlight_protocol.errors import PayloadTooLarge, PilotlightError, Unavailable

from pilotlight_warmup.agent_port import EngineOrder, ModelFacts
from pilotlight_warmup.coordinator.pool import Pool
from pilotlight_warmup.policy import fairness, placement, preemption
from pilotlight_warmup.policy.lease_lifecycle import LeaseEvent, LeaseState
from pilotlight_warmup.policy.lease_terms import LeaseWish
from pilotlight_warmup.policy.ledger import Slot
from pilotlight_warmup.policy.slot_lifecycle import SlotState

log = logging.getLogger(__name__)
# A holder needs a moment to connect; taking its slot before that gains nothing and costs two swaps.
_LEAST_HOLD_S = 0.25


class SlotOutlook(Protocol):
    """What only a slot's driver knows."""

    agent_name: str

    def busy_left_s(self, now_s: float) -> float: ...

    def kick(self) -> None: ...


class Dispatch:
    """`outlooks`: a driver per slot. `held_warm`: model keys that a prewarm keeps where they are, if it can."""

    def __init__(self, pool: Pool, outlooks: Mapping[str, SlotOutlook], held_warm: Mapping[str, float]) -> None:
        self._pool = pool
        self._outlooks = outlooks
        self._held_warm = held_warm

    def run(self) -> None:
        """Place what can be placed, refuse what never can. Wishes that look alike share one refusal to place."""
        pool = self._pool
        hopeless: dict[tuple[object, ...], tuple[float | None, tuple[str, ...]]] = {}
        for lease_id in fairness.order(pool.policy.fairness, pool.fair, pool.now_s()):
            wish = pool.ledger.leases[lease_id].wish
            kind = (wish.tenant, wish.priority, wish.isolation, wish.model)
            record = pool.records[lease_id]
            if kind in hopeless and not _is_late(wish, hopeless[kind][0], pool.now_s()):
                record.eta_s, record.reasons = hopeless[kind]
                continue
            decision = self._place(lease_id, wish)
            record.eta_s, record.reasons = decision.eta_s, decision.reasons
            if decision.verdict == "queue":
                hopeless[kind] = (decision.eta_s, decision.reasons)

    def would_place(self, wish: LeaseWish, order: EngineOrder) -> placement.Placement:
        """What placement says about a wish that preempts nobody; nothing is changed (prewarm asks)."""
        pool = self._pool
        views = [self._view(slot, {}, order.facts, {}) for slot in pool.ledger.slots.values()]
        return placement.place(pool.policy.placement, wish, views, pool.predictions, pool.now_s())

    def _place(self, lease_id: str, wish: LeaseWish) -> placement.Placement:
        pool, now_s = self._pool, self._pool.now_s()
        tenants = self._tenants(now_s)
        victims = [
            victim
            for victim in preemption.victims(wish, self._held(), tenants, now_s)
            if victim.lease.slot_id not in pool.absent and self._has_had_its_moment(victim.lease, now_s)
        ]
        chosen = {victim.lease.slot_id: victim for victim in victims if victim.order == victims[0].order}
        record = pool.records[lease_id]
        views = [self._view(slot, chosen, record.order.facts, record.on_agents) for slot in pool.ledger.slots.values()]
        decision = placement.place(pool.policy.placement, wish, views, pool.predictions, now_s)
        decision = _readable(decision, wish)
        if decision.verdict == "refuse":
            log.info("lease %s of %s is refused: %s", lease_id, wish.tenant, "; ".join(decision.reasons))
            pool.end(lease_id, LeaseEvent.REFUSE, _refusal(wish, decision, views, now_s))
        if decision.verdict != "place" or decision.chosen is None:
            return decision
        if decision.chosen.preempts is not None:
            why = f"preempted for {wish.tenant}: {decision.reasons[0]}"
            log.info("lease %s is %s", decision.chosen.preempts, why)
            pool.end(decision.chosen.preempts, LeaseEvent.PREEMPT, Unavailable(f"the lease was {why}"))
        record.granted_priority, why = preemption.granted_priority(wish, tenants[wish.tenant])
        log.info(
            "lease %s of %s goes to %s by %s in %.2f s (%s; %s)", lease_id, wish.tenant, decision.chosen.slot_id,
            decision.chosen.path, decision.chosen.eta_s, why, "; ".join(decision.reasons),
        )  # fmt: skip
        pool.reserve(lease_id, decision.chosen)
        self._outlooks[decision.chosen.slot_id].kick()
        return decision

    def _has_had_its_moment(self, lease: preemption.HeldLease, now_s: float) -> bool:
        record = self._pool.records[lease.lease_id]
        return (lease.idle and record.worked) or now_s - record.granted_s >= _LEAST_HOLD_S

    def _held(self) -> list[preemption.HeldLease]:
        pool = self._pool
        found: list[preemption.HeldLease] = []
        for slot in pool.ledger.slots.values():
            lease = pool.ledger.leases[slot.lease_id] if slot.lease_id is not None else None
            if lease is not None and lease.state in {LeaseState.ACTIVE, LeaseState.IDLE}:
                wish, priority = lease.wish, pool.records[lease.wish.lease_id].granted_priority
                idle = lease.state is LeaseState.IDLE
                found.append(
                    preemption.HeldLease(wish.lease_id, slot.slot_id, wish.tenant, priority, idle, lease.since_s)
                )
        return found

    def _tenants(self, now_s: float) -> dict[str, preemption.TenantUse]:
        pool, spec = self._pool, self._pool.policy.fairness
        present = {lease.wish.tenant for lease in pool.ledger.leases.values()} | set(pool.fair.means)
        weights = {tenant: spec.weight(tenant) for tenant in present}
        means = {tenant: fairness.mean_slots(spec, pool.fair, tenant, now_s) for tenant in present}
        return preemption.uses(weights, self._held(), means, len(pool.ledger.slots))

    def _view(
        self,
        slot: Slot,
        chosen: Mapping[str, preemption.Victim],
        facts: ModelFacts,
        on_agents: Mapping[str, ModelFacts | None],
    ) -> placement.SlotView:
        pool, now_s = self._pool, self._pool.now_s()
        outlook = self._outlooks[slot.slot_id]
        absent = pool.absent.get(slot.slot_id, "")
        if on_agents:
            there = on_agents.get(outlook.agent_name, msgspec.structs.replace(facts, tier="remote"))
            absent = absent or ("" if there is not None else "the model cannot be had on its node")
            facts = there or facts
        model = slot.engine.model if slot.engine is not None else ""
        worth = pool.worth.entries.get(model)
        view = placement.SlotView(
            slot.slot_id,
            slot.state,
            slot.engine,
            slot.sleeping,
            tier=facts.tier,
            memory_bytes=pool.slots[slot.slot_id].memory_bytes,
            free=slot.lease_id is None,
            free_in_s=self._free_in_s(slot, now_s),
            busy_left_s=outlook.busy_left_s(now_s),
            swappable=facts.swappable,
            absent=absent,
            fingerprint=facts.fingerprint,
            keep_value=float("inf") if model in self._held_warm else worth.priority if worth is not None else 0.0,
        )
        victim = chosen.get(slot.slot_id)
        if victim is None:
            return view
        return replace(view, preempts=victim.lease.lease_id, preempt_reason=victim.reason)

    def _free_in_s(self, slot: Slot, now_s: float) -> float | None:
        """The rest of a lease at work, from what its tenant's leases usually take; None where nothing was learned.

        One that has outlived the usual is expected to last as long again: nobody waits for ever for a slot that
        "must be free any moment" beside an empty one.
        """
        lease = self._pool.ledger.leases[slot.lease_id] if slot.lease_id is not None else None
        if lease is None or slot.state is not SlotState.LEASED:
            return None
        usual_s = self._pool.fair.usual_cost_s.get(lease.wish.tenant)
        held_s = now_s - lease.since_s
        return None if usual_s is None else max(usual_s - held_s, held_s)


def _readable(decision: placement.Placement, wish: LeaseWish) -> placement.Placement:
    """Model keys are 64 digits; a person needs the first of them."""
    return replace(decision, reasons=tuple(reason.replace(wish.model, wish.model[:12]) for reason in decision.reasons))


def _is_late(wish: LeaseWish, eta_s: float | None, now_s: float) -> bool:
    return wish.deadline_at_s is not None and now_s + (eta_s or 0.0) > wish.deadline_at_s


def _refusal(
    wish: LeaseWish, decision: placement.Placement, views: list[placement.SlotView], now_s: float
) -> PilotlightError:
    reasons = "; ".join(decision.reasons)
    if all(view.memory_bytes < wish.memory_bytes for view in views) and views:
        return PayloadTooLarge(f"{reasons}; give a slot more memory (--slot cpu:0=8GiB) or take a smaller model")
    left_s = max(0.0, wish.deadline_at_s - now_s) if wish.deadline_at_s is not None else 0.0
    retry_after_s = max(1.0, (decision.eta_s or 0.0) - left_s)
    return Unavailable(f"the lease cannot be ready in time: {reasons}", retry_after_s=retry_after_s)
