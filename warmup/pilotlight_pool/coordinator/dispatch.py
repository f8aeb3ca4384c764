"""Who is next and where: goes through the waiting leases in fair order and places each that can be placed.

Shows `policy` the pool and carries out what it decides on the state; engines are the slot drivers' business.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.engine_orders import EngineOrder, ModelFacts
from pilotlight_pool.policy.leases import ledger
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Slot
from pilotlight_pool.policy.placement import fairness, placement, preemption
from pilotlight_pool.policy.placement.eviction_rules import Contention, choose_ahead
from pilotlight_pool.policy.placement.queue_round import QueueRound
from pilotlight_protocol.adapters import AT_ONCE
from pilotlight_protocol.errors import PayloadTooLarge, PilotlightError, Unavailable
from pilotlight_protocol.leases import LeaseState

log = logging.getLogger(__name__)
# An agent that was cut off, or has a new coordinator, dials again within seconds.
_AGENT_BACK_S = 5.0
# Connections to one engine host, beside its holder's.
_MOST_SHARERS = 15


class SlotOutlook(Protocol):
    """What only a slot's driver knows."""

    agent_name: str

    def busy_left_s(self, now_s: float) -> float: ...

    def kick(self) -> None: ...


class Dispatch:
    """`outlooks`: a driver per slot. `settled_at_s`: until then agents with larger slots may have yet to register."""

    def __init__(self, pool: Pool, outlooks: Mapping[str, SlotOutlook], settled_at_s: float = 0.0) -> None:
        self._pool = pool
        self._outlooks = outlooks
        self._settled_at_s = settled_at_s
        self._shared: dict[tuple[str, ...], list[Slot]] = {}
        self._shared_as_of: Mapping[str, Slot] | None = None

    def run(self) -> None:
        """Place what can be placed, refuse what never can, and predict when the others will be ready."""
        pool, now_s = self._pool, self._pool.now_s()
        this_round = QueueRound(pool.policy.eviction, pool.models.predictions, now_s)
        for lease_id in fairness.order(pool.policy.fairness, pool.fair, now_s):
            record = pool.records[lease_id]
            if (refusal := pool.models.refusal_of(record.order.facts)) is not None:
                pool.end(lease_id, LeaseEvent.REFUSE, refusal)
                continue
            # Whosever turn is first: it takes no slot from anybody, and what is lent of this one is taken back.
            shared = self._shareable(record.wish) if not record.wish.adapter else None
            failing_s = pool.models.wait_s(record.wish.model)
            if failing_s > 0:
                decision = _backing_off(record.wish, failing_s, now_s)
            else:
                decision = self._decide(this_round, lease_id, now_s, can_share=shared is not None)
            if shared is not None and not decision.is_own_now:
                self._share(lease_id, shared)
            else:
                self._carry_out(lease_id, _readable(decision, record.wish), now_s)

    def _decide(self, this_round: QueueRound, lease_id: str, now_s: float, *, can_share: bool) -> placement.Placement:
        pool, record = self._pool, self._pool.records[lease_id]
        hold_s, kind = fairness.usual_hold_s(pool.fair, record.wish.tenant), _kind(record)
        decision = None if can_share else this_round.known(kind, record.wish, hold_s)
        if decision is not None:
            return decision
        facts, there = record.order.facts, record.on_agents
        views = [self._view(slot, facts, there, now_s) for slot in pool.ledger.slots.values()]
        if record.wish.adapter:
            views = [replace(view, beside=self._takes_beside(view.slot_id, record)) for view in views]
        contention = self._contention(lease_id, now_s)
        return this_round.decide(kind, record.wish, views, contention, hold_s, can_share=can_share)

    def would_place(self, wish: LeaseWish, order: EngineOrder) -> placement.Placement:
        """Where an engine could be held ahead of any lease; nothing is changed (prewarm asks)."""
        pool, now_s = self._pool, self._pool.now_s()
        views = [self._view(slot, order.facts, {}, now_s) for slot in pool.ledger.slots.values()]
        contention = self._contention(wish.lease_id, now_s)
        return choose_ahead(pool.policy.eviction, wish, views, contention, pool.models.predictions, now_s)

    def share_slots(self, tenants: Iterable[str], now_s: float) -> dict[str, float]:
        """What is theirs by right, beside the tenants that lease now or did lately."""
        return {tenant: use.share_slots for tenant, use in self._uses((), tenants, now_s).items()}

    def _carry_out(self, lease_id: str, decision: placement.Placement, now_s: float) -> None:
        pool, record = self._pool, self._pool.records[lease_id]
        wish = record.wish
        record.reasons = decision.reasons
        record.queued = record.queued or decision.verdict == "queue"
        record.predict(decision.eta_s, now_s)
        if decision.verdict == "refuse":
            log.info("lease %s of %s is refused: %s", lease_id, wish.tenant, "; ".join(decision.reasons))
            pool.end(lease_id, LeaseEvent.REFUSE, self._refusal(wish, decision, now_s))
        if decision.verdict != "place" or decision.chosen is None:
            return
        chosen = decision.chosen
        if chosen.preempts is not None:
            self._take(chosen, wish)
        log.info(
            "lease %s of %s goes to %s by %s in %.2f s (asked for %s; %s)", lease_id, wish.tenant, chosen.slot_id,
            chosen.path, chosen.eta_s, wish.priority, "; ".join(decision.reasons),
        )  # fmt: skip
        if chosen.beside:
            pool.share(lease_id, chosen.slot_id, chosen.path)
        else:
            pool.reserve(lease_id, chosen)
        self._outlooks[chosen.slot_id].kick()

    def _take(self, chosen: placement.Candidate, wish: LeaseWish) -> None:
        log.info("lease %s is preempted for %s: %s", chosen.preempts, wish.tenant, chosen.preempt_detail)
        # The holder last, so that nobody follows it.
        for lease_id in reversed(self._pool.ledger.slots[chosen.slot_id].lease_ids):
            if self._pool.ledger.leases[lease_id].state is LeaseState.PLACING:
                self._pool.displace(lease_id)
            else:
                why = f"the lease was preempted: {chosen.preempt_reason}"
                self._pool.end(lease_id, LeaseEvent.PREEMPT, Unavailable(why))

    def _takes_beside(self, slot_id: str, record: LeaseRecord) -> bool:
        """Whether those that hold the slot, and its engine, have room for this lease's adapter; none while its agent is
        away."""
        pool, wish = self._pool, record.wish
        slot = pool.ledger.slots[slot_id]
        if slot_id in pool.absent or len(slot.sharers) >= _MOST_SHARERS:
            return False
        there = {(other.tenant, other.adapter) for other in (pool.records[each].wish for each in slot.lease_ids)}
        fits = len({*there, (wish.tenant, wish.adapter)}) <= AT_ONCE[record.order.facts.adapter_rank]
        return fits and ledger.may_be_beside(pool.ledger, slot, wish)

    def _shareable(self, wish: LeaseWish) -> Slot | None:
        """The slot that others of the same terms hold, and fewest; one whose agent is away lets nobody in."""
        pool = self._pool
        if self._shared_as_of is not pool.ledger.slots:
            self._shared_as_of, self._shared = pool.ledger.slots, {}
            for slot in pool.ledger.slots.values():
                if slot.lease_id is not None:
                    self._shared.setdefault(pool.ledger.leases[slot.lease_id].wish.sharing_terms, []).append(slot)
        found = [
            slot for slot in self._shared.get(wish.sharing_terms, ())
            if len(slot.sharers) < _MOST_SHARERS and slot.slot_id not in pool.absent
        ]  # fmt: skip
        return min(found, key=lambda slot: (len(slot.sharers), slot.slot_id), default=None)

    def _share(self, lease_id: str, slot: Slot) -> None:
        record = self._pool.records[lease_id]
        log.info("lease %s of %s shares %s with %s", lease_id, record.wish.tenant, slot.slot_id, slot.lease_id)
        record.reasons = (f"{slot.slot_id}: shared with others of its endpoint",)
        self._pool.share(lease_id, slot.slot_id)
        self._outlooks[slot.slot_id].kick()

    def _contention(self, lease_id: str, now_s: float) -> Contention:
        pool = self._pool
        held = [
            held
            for slot in pool.ledger.slots.values()
            for held in preemption.held_on([pool.ledger.leases[lease_id] for lease_id in slot.lease_ids])
        ]
        others = [pool.records[other].wish for other in pool.fair.waiting if other != lease_id]
        wanted = frozenset(name for wish in others for name in (wish.fingerprint, wish.model))
        return Contention(held, self._uses(held, (), now_s), wanted)

    def _uses(
        self, held: Sequence[preemption.HeldLease], tenants: Iterable[str], now_s: float
    ) -> dict[str, preemption.TenantUse]:
        pool, spec = self._pool, self._pool.policy.fairness
        present = {lease.wish.tenant for lease in pool.ledger.leases.values()}.union(pool.fair.used_s, tenants)
        weights = {tenant: spec.weight(tenant) for tenant in present}
        means = fairness.mean_slots(spec, pool.fair, now_s)
        return preemption.uses(weights, held, means, len(pool.ledger.slots))

    def _view(
        self, slot: Slot, facts: ModelFacts, on_agents: Mapping[str, ModelFacts | None], now_s: float
    ) -> placement.SlotView:
        pool, outlook = self._pool, self._outlooks[slot.slot_id]
        absent = pool.absent.get(slot.slot_id, "")
        if on_agents:
            there = on_agents.get(outlook.agent_name, msgspec.structs.replace(facts, tier="remote"))
            absent = absent or ("" if there is not None else "the model cannot be had on its node")
            facts = there or facts
        used_s = pool.models.last_used_s(slot.engine.model) if slot.engine is not None else 0.0
        held_warm = slot.engine is not None and pool.warm_orders.is_held(slot.engine)
        return placement.SlotView(
            slot.slot_id,
            slot.state,
            slot.engine,
            slot.sleeping,
            tier=facts.tier,
            memory_bytes=pool.slots[slot.slot_id].memory_bytes,
            free=slot.lease_id is None,
            since_s=slot.since_s,
            free_in_s=fairness.lease_rest_s(pool.fair, slot.lease_id, now_s) if slot.lease_id is not None else None,
            busy_left_s=outlook.busy_left_s(now_s),
            swappable=facts.swappable,
            absent=absent,
            fingerprint=facts.fingerprint,
            way_back="wake" if pool.slots[slot.slot_id].sleepers else "fork",
            used_s=float("inf") if held_warm else used_s,
        )

    def _refusal(self, wish: LeaseWish, decision: placement.Placement, now_s: float) -> PilotlightError:
        reasons = "; ".join(decision.reasons)
        slots = self._pool.slots.values()
        if slots and all(facts.memory_bytes < wish.memory_bytes for facts in slots):
            if now_s < self._settled_at_s or wish.memory_bytes <= self._pool.largest_slot_bytes:
                why = f"{reasons}; an agent with a larger slot may be away, try again"
                return Unavailable(why, retry_after_s=_AGENT_BACK_S)
            return PayloadTooLarge(f"{reasons}; give a slot more memory (--slot cpu:0=8GiB) or take a smaller model")
        left_s = max(0.0, wish.deadline_at_s - now_s) if wish.deadline_at_s is not None else 0.0
        retry_after_s = max(1.0, (decision.eta_s or 0.0) - left_s)
        return Unavailable(f"the lease cannot be ready in time: {reasons}", retry_after_s=retry_after_s)


def _backing_off(wish: LeaseWish, failing_s: float, now_s: float) -> placement.Placement:
    why = f"engines for this model keep failing, the next is tried in {failing_s:.1f} s"
    late = placement.too_late(wish, failing_s, now_s)
    if late is not None:
        return placement.Placement("refuse", None, failing_s, (), (late, why))
    return placement.Placement("queue", None, failing_s, (), (why,))


def _kind(record: LeaseRecord) -> tuple[object, ...]:
    """Leases of one kind can get the same slots; among them the model decides only what getting one ready takes.

    Where swaps are not proven, or nodes differ in what they can have, it decides more.
    """
    wish, apart = record.wish, not record.order.facts.swappable or len(record.on_agents) > 1
    common = (wish.tenant, wish.priority, wish.isolation, wish.fingerprint, wish.memory_bytes, wish.adapter)
    return (*common, wish.model) if apart else common


def _readable(decision: placement.Placement, wish: LeaseWish) -> placement.Placement:
    """Model keys are 64 digits; a person needs the first of them."""
    if not any(wish.model in reason for reason in decision.reasons):
        return decision
    return replace(decision, reasons=tuple(reason.replace(wish.model, wish.model[:12]) for reason in decision.reasons))
