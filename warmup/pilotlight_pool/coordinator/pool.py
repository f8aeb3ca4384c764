"""The pool's one state and every step that changes it, so that ledger, queue, charges and holders never disagree.

Belongs to one event loop. It does not choose (dispatch does) and does not act (slot drivers do); every step
ends with `_changed`, which says which slots are concerned: their drivers, and nobody else's, look again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.model_history import ModelHistory
from pilotlight_pool.coordinator.warm_orders import WarmOrders
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_pool.policy.leases import ledger, resync
from pilotlight_pool.policy.leases.access import Caller
from pilotlight_pool.policy.leases.lease_lifecycle import ENDED, LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Lease
from pilotlight_pool.policy.leases.slot_lifecycle import SlotEvent
from pilotlight_pool.policy.placement import boot_backoff, fairness, placement
from pilotlight_pool.policy.placement.eviction_rules import EvictionSpec
from pilotlight_pool.policy.placement.fairness import FairnessSpec
from pilotlight_pool.policy.placement.placement import PlacementSpec
from pilotlight_pool.policy.placement.prediction import PredictionSpec
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_protocol.leases import LeaseState

log = logging.getLogger(__name__)
MOST_TRIES = 3
_MOST_GIVEN_BACK = 4096


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """`expires_s`: a lease whose holder has been silent for so long ends. `keep_ended_s`: for answering 410."""

    fairness: FairnessSpec = field(default_factory=FairnessSpec)
    eviction: EvictionSpec = field(default_factory=lambda: EvictionSpec(PlacementSpec(PredictionSpec())))
    back_off: BackOff = boot_backoff.ENGINES
    expires_s: float = 15.0
    keep_ended_s: float = 60.0

    @property
    def prediction(self) -> PredictionSpec:
        return self.eviction.placement.prediction


class Pool:
    """`on_change` callbacks are called after every step with the ids of the slots that have changed, or have another
    lease; in the loop, and they must not block or change the pool.

    `absent`: slots that cannot be used now, with the reason. `largest_slot_bytes`: of all that an agent ever had; what
    would fit there is not too large only because that agent is away.
    """

    def __init__(self, policy: PoolPolicy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.now_s = clock
        self.ledger = ledger.empty_ledger((), clock())
        self.fair = fairness.FairnessState()
        self.models = ModelHistory(policy.prediction, policy.back_off, clock)
        self.warm_orders = WarmOrders(policy.back_off)
        self.records: dict[str, LeaseRecord] = {}
        self.slots: dict[str, SlotFacts] = {}
        self.absent: dict[str, str] = {}
        self.largest_slot_bytes = 0
        self.on_change: list[Callable[[Sequence[str]], None]] = []
        self._given_back: dict[str, Caller] = {}

    def unplace(self, slot_id: str, error: PilotlightError, *, again: bool = True) -> None:
        """The slot cannot serve the lease that was being placed on it, which waits again, or is told so."""
        self.resynced(resync.unplace(self.ledger, [slot_id], self.now_s()), error, again=again)

    def note_given_back(self, lease_id: str, caller: Caller) -> None:
        """Its holder is done with a lease that no agent has reported yet."""
        self._given_back[lease_id] = caller
        if len(self._given_back) > _MOST_GIVEN_BACK:
            del self._given_back[next(iter(self._given_back))]

    def is_given_back(self, lease: Lease) -> bool:
        caller = self._given_back.get(lease.wish.lease_id)
        return caller is not None and caller.owns(lease.wish.tenant)

    def resynced(self, after: resync.Resync, error: PilotlightError, *, again: bool = True) -> None:
        """Ledger and slots are what `resync` made of them; `error`: for those that lost their slot by it."""
        slots = {**self.ledger.slots, **after.ledger.slots}
        self.ledger = after.ledger
        for lease_id, before in after.lost:
            self._slot_lost(lease_id, before, error, again=again)
        for slot_id in self.ledger.slots:
            self._charge_holder(slot_id)
        self._changed(*slots)

    def _charge_holder(self, slot_id: str | None) -> None:
        """A slot is charged once, however many share it: in equal parts to the tenants that do, to the first lease of
        each, and after that to the one that follows it."""
        slot = self.ledger.slots[slot_id] if slot_id is not None else None
        if slot is None:
            return
        charged: dict[str, LeaseWish] = {}
        for lease_id in slot.lease_ids:
            wish = self.ledger.leases[lease_id].wish
            if charged.setdefault(wish.tenant, wish) is not wish:
                self.fair = fairness.shares(self.policy.fairness, self.fair, lease_id, self.now_s())
        for wish in charged.values():
            self.fair = fairness.adopt(self.policy.fairness, self.fair, wish, self.now_s(), 1.0 / len(charged))

    def admit(self, record: LeaseRecord) -> None:
        """Queue a lease. Raises Unavailable when the queue, or its tenant's part of it, is full."""
        now_s = self.now_s()
        refusal, self.fair = fairness.enqueue(self.policy.fairness, self.fair, record.wish, now_s)
        if refusal is not None:
            raise Unavailable(refusal, retry_after_s=self._next_turn_s(record.wish.tenant))
        self.ledger = ledger.admit(self.ledger, record.wish, now_s + self.policy.expires_s, now_s)
        self.records[record.wish.lease_id] = record
        self._changed()

    def renew(self, lease_id: str) -> None:
        self.ledger = ledger.heartbeat(self.ledger, lease_id, self.now_s() + self.policy.expires_s)

    def reserve(self, lease_id: str, chosen: placement.Candidate) -> None:
        """Bind a waiting lease to the slot that placement chose; the slot's driver does the rest."""
        now_s = self.now_s()
        self.ledger = ledger.reserve(self.ledger, lease_id, chosen.slot_id, now_s)
        self.fair = fairness.started(self.policy.fairness, self.fair, lease_id, now_s)
        self._placed(lease_id, chosen.path)

    def share(self, lease_id: str, slot_id: str, path: str = "share") -> None:
        """Bind a waiting lease to a slot beside those that hold it; the slot's driver has it let in."""
        self.ledger = ledger.share(self.ledger, lease_id, slot_id, self.now_s())
        self._charge_holder(slot_id)
        self._placed(lease_id, path)

    def _placed(self, lease_id: str, path: str) -> None:
        record = self.records[lease_id]
        record.path = path
        record.phases_s["queue"] = self.now_s() - record.asked_s - record.phases_s.get("prefetch", 0.0)
        self._tell(lease_id)

    def displace(self, lease_id: str) -> None:
        """A lease on its way loses its slot to a more urgent one, and waits again with its place in the queue."""
        now_s = self.now_s()
        lease = self.ledger.leases[lease_id]
        self.ledger = ledger.lease_event(self.ledger, lease_id, LeaseEvent.DISPLACE, now_s)
        self.fair = fairness.slot_lost(self.policy.fairness, self.fair, lease_id, now_s)
        self._charge_holder(lease.slot_id)
        refusal, self.fair = fairness.enqueue(self.policy.fairness, self.fair, lease.wish, now_s, lease.queued_at_s)
        if refusal is not None:
            self.end(lease_id, LeaseEvent.REFUSE, Unavailable(refusal, retry_after_s=1.0))
        self._tell(lease_id, lease.slot_id)

    def begin(self, slot_id: str, event: SlotEvent, order: EngineOrder, wish: LeaseWish) -> None:
        """BOOT or SWAP: from now on the slot is on its way to this engine, for whoever wishes it."""
        # Where tenants are apart, a fresh process is its tenant's before it has served anybody.
        tenant = wish.tenant if wish.isolation != "shared" else ""
        engine = ledger.Engine(order.facts.key, order.facts.fingerprint, tenant, wish.isolation, wish.tenant)
        self._slot(slot_id, event, engine)

    def begin_wake(self, slot_id: str, engine: ledger.Engine) -> None:
        """WAKE: from now on the slot is on its way to this engine, which sleeps there."""
        self._slot(slot_id, SlotEvent.WAKE, engine)

    def swap_refused(self, slot_id: str, engine: ledger.Engine) -> None:
        """SWAP_REFUSED: the slot has `engine`, which it had before, and its lease waits for another way."""
        self._slot(slot_id, SlotEvent.SWAP_REFUSED, engine)

    def discard_sleeper(self, slot_id: str, engine: ledger.Engine) -> None:
        """A sleeping engine is gone, or about to be ended."""
        self.ledger = ledger.discard_sleeper(self.ledger, slot_id, engine)
        self._changed(slot_id)

    def slot_event(self, slot_id: str, event: SlotEvent) -> None:
        """Any event that takes the slot from no lease."""
        self._slot(slot_id, event)

    def engine_lost(self, slot_id: str, event: SlotEvent, error: PilotlightError, *, again: bool) -> None:
        """DIED or SWAP_FAILED. A lease that was being placed queues again unless not `again` or out of tries; one that
        had its engine has lost it, and its holder decides what to do."""
        before = {lease_id: self.ledger.leases[lease_id].state for lease_id in self.ledger.slots[slot_id].lease_ids}
        self._slot(slot_id, event)
        for lease_id, state in before.items():
            self._slot_lost(lease_id, state, error, again=again)

    def _slot_lost(self, lease_id: str, before: LeaseState, error: PilotlightError, *, again: bool) -> None:
        now_s = self.now_s()
        self.fair = fairness.slot_lost(self.policy.fairness, self.fair, lease_id, now_s)
        lease = self.ledger.leases[lease_id]
        if before is LeaseState.PLACING and again and lease.tries < MOST_TRIES:
            refusal, self.fair = fairness.enqueue(self.policy.fairness, self.fair, lease.wish, now_s, lease.queued_at_s)
            if refusal is None:
                log.info("lease %s waits again after try %d: %s", lease_id, lease.tries, error.message)
                self._tell(lease_id)
                return
        self.records[lease_id].error = error
        if lease.state is LeaseState.QUEUED:
            self.end(lease_id, LeaseEvent.REFUSE, error)
        else:
            self._tell(lease_id)

    def grant(self, slot_id: str, endpoint: str, fingerprint: str) -> LeaseRecord:
        """The slot's engine, of this fingerprint on its node, serves the lease it was reserved for."""
        now_s = self.now_s()
        lease_id = self.ledger.slots[slot_id].lease_id
        self.ledger = ledger.grant(self.ledger, slot_id, now_s, fingerprint)
        assert lease_id is not None  # ledger.grant raised otherwise
        self.models.worked(self.records[lease_id].wish.model)
        return self._serves(lease_id, endpoint)

    def grant_sharer(self, lease_id: str, endpoint: str) -> None:
        """The engine serves this lease too. Where it is at work, its end will be told, and its beginning never was."""
        self.ledger = ledger.admit_sharer(self.ledger, lease_id, self.now_s())
        slot = self.ledger.slots[self.ledger.leases[lease_id].slot_id or ""]
        self._serves(lease_id, endpoint).worked = any(
            self.records[other].worked and self.ledger.leases[other].state is LeaseState.ACTIVE
            for other in slot.lease_ids if other != lease_id
        )  # fmt: skip

    def _serves(self, lease_id: str, endpoint: str) -> LeaseRecord:
        record, now_s = self.records[lease_id], self.now_s()
        record.endpoint, record.eta_s, record.granted_s = endpoint, 0.0, now_s
        if record.promise is not None:
            at_s, eta_s = record.promise.at_s, record.promise.eta_s
            self.models.learn_promise(record.queued, eta_s, now_s - at_s)
        self.renew(lease_id)
        self.models.used(record.order.facts)
        self._tell(lease_id)
        return record

    def end(self, lease_id: str, event: LeaseEvent, error: PilotlightError | None = None) -> None:
        """RELEASE, EXPIRE, REFUSE or PREEMPT; its slot, place in the queue and charge are given back."""
        record = self.records[lease_id]
        now_s, spec = self.now_s(), self.policy.fairness
        before = self.ledger.leases[lease_id]
        cut_short = event is LeaseEvent.PREEMPT and before.state is LeaseState.ACTIVE
        self.ledger = ledger.lease_event(self.ledger, lease_id, event, now_s)
        self.fair = fairness.withdraw(spec, self.fair, lease_id, now_s)
        self.fair = (fairness.slot_lost if cut_short else fairness.ended)(spec, self.fair, lease_id, now_s)
        self._charge_holder(before.slot_id)
        record.error = error or record.error
        self._tell(lease_id, before.slot_id)

    def work(self, lease_id: str, event: LeaseEvent) -> None:
        """WORK_BEGAN or WORK_ENDED, where it changes anything."""
        lease = self.ledger.leases.get(lease_id)
        if lease is not None and event is LeaseEvent.WORK_BEGAN:
            self.records[lease_id].worked = True
        wanted = LeaseState.IDLE if event is LeaseEvent.WORK_BEGAN else LeaseState.ACTIVE
        if lease is not None and lease.state is wanted:
            self.ledger = ledger.lease_event(self.ledger, lease_id, event, self.now_s())
            self._changed()

    def expire(self) -> tuple[str, ...]:
        """End every lease whose holder is silent; returns their ids."""
        now_s, before = self.now_s(), self.ledger.leases
        self.ledger, late = ledger.expire(self.ledger, now_s)
        for lease_id in late:
            self.fair = fairness.withdraw(self.policy.fairness, self.fair, lease_id, now_s)
            self.fair = fairness.ended(self.policy.fairness, self.fair, lease_id, now_s)
            self._tell(lease_id, before[lease_id].slot_id)
        for lease_id in late:
            self._charge_holder(before[lease_id].slot_id)
        return late

    def sweep(self) -> None:
        """Forget what ended a while ago, so that nothing here grows without bound."""
        now_s = self.now_s()
        self.ledger = ledger.sweep(self.ledger, now_s, self.policy.keep_ended_s)
        self.records = {key: record for key, record in self.records.items() if key in self.ledger.leases}
        self.fair = fairness.forget_idle_tenants(self.policy.fairness, self.fair, now_s)

    def is_over(self, lease_id: str) -> bool:
        lease = self.ledger.leases.get(lease_id)
        return lease is None or lease.state in ENDED or lease.state is LeaseState.PREEMPTED

    def _next_turn_s(self, tenant: str) -> float:
        """When the tenant's queue is expected to be shorter by one: the least Retry-After that is of any use."""
        waiting = [key for key, entry in self.fair.waiting.items() if entry.tenant == tenant] or self.fair.waiting
        expected = [eta_s for lease_id in waiting if (eta_s := self.records[lease_id].eta_s) is not None]
        return max(1.0, min(expected, default=5.0))

    def _slot(self, slot_id: str, event: SlotEvent, engine: ledger.Engine | None = None) -> None:
        before = self.ledger.slots[slot_id].state
        self.ledger = ledger.slot_event(self.ledger, slot_id, event, self.now_s(), engine)
        log.debug("slot %s: %s -> %s (%s)", slot_id, before, self.ledger.slots[slot_id].state, event)
        self._changed(slot_id)

    def _tell(self, lease_id: str, had_slot_id: str | None = None) -> None:
        """Its holder hears of it, and the slot that it has, or had, looks again."""
        record = self.records.get(lease_id)
        if record is not None:
            record.changed.set()
            record.changed = asyncio.Event()
        slot_ids = (self.ledger.leases[lease_id].slot_id, had_slot_id)
        self._changed(*(slot_id for slot_id in slot_ids if slot_id is not None))

    def _changed(self, *slot_ids: str) -> None:
        for callback in self.on_change:
            callback(slot_ids)
