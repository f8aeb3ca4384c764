"""Leases that compete for slots, in virtual time, decided by the policies that the coordinator runs.

Shows what a coordinator does with them: at every event, go through the waiting leases in fair order and place each
that can be placed. Work that is preempted queues again at once and goes on where it was. Every slot starts with an
engine of the one fingerprint, so what is measured is waiting and swapping, not booting.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..policy import fairness, ledger, placement, preemption
from ..policy.lease_lifecycle import LeaseEvent, LeaseState
from ..policy.lease_terms import LeaseWish, Priority
from ..policy.prediction import PredictionState
from ..policy.slot_lifecycle import SlotEvent, SlotState

FINGERPRINT = "f"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A lease that is wanted at `at_s` for `work_s` seconds of work, then released."""

    at_s: float
    lease_id: str
    tenant: str
    model: str
    work_s: float
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True)
class Pool:
    """`drain_s` is what a preempted or released engine needs until it is free."""

    slot_count: int
    fairness: fairness.FairnessSpec
    placement: placement.PlacementSpec
    drain_s: float = 0.05


@dataclass
class Outcome:
    """`waits_s`: per lease, from wanting to ready (queue, drain, swap). `refused`: with the sentence that said why."""

    waits_s: dict[str, float] = field(default_factory=dict)
    preemptions: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    busy_slot_s: float = 0.0
    finished_at_s: dict[str, float] = field(default_factory=dict)


def simulate(pool: Pool, arrivals: Sequence[Arrival], until_s: float) -> Outcome:
    """Run the arrivals until `until_s`."""
    run = _Run(pool)
    for arrival in arrivals:
        run.at(arrival.at_s, "arrive", arrival.lease_id)
        run.wanted[arrival.lease_id] = arrival
    while run.events and run.events[0][0] <= until_s:
        now_s, _, kind, subject, stamp = heapq.heappop(run.events)
        run.step(kind, subject, stamp, now_s)
    return run.outcome


class _Run:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.events: list[tuple[float, int, str, str, int]] = []
        self.sequence = 0
        self.wanted: dict[str, Arrival] = {}
        self.left_s: dict[str, float] = {}
        self.began_s: dict[str, float] = {}
        self.stamps: dict[str, int] = {}
        self.granted: dict[str, Priority] = {}
        self.seen: set[str] = set()
        self.fair = fairness.FairnessState()
        self.outcome = Outcome()
        book = ledger.empty_ledger([f"slot:{n}" for n in range(pool.slot_count)], 0.0)
        for slot_id in book.slots:
            book = ledger.slot_event(book, slot_id, SlotEvent.BOOT, 0.0, ledger.Engine("", FINGERPRINT))
            book = ledger.slot_event(book, slot_id, SlotEvent.BOOTED, 0.0)
        self.book = book

    def at(self, when_s: float, kind: str, subject: str) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when_s, self.sequence, kind, subject, self.stamps.get(subject, 0)))

    def step(self, kind: str, subject: str, stamp: int, now_s: float) -> None:
        if kind == "arrive":
            self.arrive(self.wanted[subject], now_s)
        elif kind == "drained":
            self.book = ledger.slot_event(self.book, subject, SlotEvent.DRAINED, now_s)
            self.prepare(subject, now_s)
        elif kind == "swapped":
            self.book = ledger.slot_event(self.book, subject, SlotEvent.SWAPPED, now_s)
            self.prepare(subject, now_s)
        elif kind == "done" and stamp == self.stamps.get(subject, 0):
            self.leave(subject, LeaseEvent.RELEASE, now_s)
            self.outcome.finished_at_s[subject] = now_s
        self.dispatch(now_s)

    def arrive(self, arrival: Arrival, now_s: float) -> None:
        wish = LeaseWish(arrival.lease_id, arrival.tenant, arrival.model, FINGERPRINT, arrival.priority)
        refusal, self.fair = fairness.enqueue(self.pool.fairness, self.fair, wish, now_s)
        if refusal is not None:
            self.outcome.refused[arrival.lease_id] = refusal
            return
        self.seen.add(arrival.tenant)
        self.left_s[arrival.lease_id] = arrival.work_s
        self.book = ledger.admit(self.book, wish, float("inf"), now_s)

    def dispatch(self, now_s: float) -> None:
        """Fair order, first that fits. One tenant's wishes look alike here, so one refusal speaks for the rest."""
        blocked: set[tuple[str, Priority]] = set()
        for lease_id in fairness.order(self.pool.fairness, self.fair, now_s):
            wish = self.book.leases[lease_id].wish
            if (wish.tenant, wish.priority) in blocked:
                continue
            if not self.place(wish, now_s):
                blocked.add((wish.tenant, wish.priority))

    def place(self, wish: LeaseWish, now_s: float) -> bool:
        tenants = self.tenants(now_s)
        victims = preemption.victims(wish, self.held(), tenants, now_s)
        chosen = {victim.lease.slot_id: victim for victim in victims if victim.order == victims[0].order}
        views = [self.view(slot, chosen) for slot in self.book.slots.values()]
        decision = placement.place(self.pool.placement, wish, views, PredictionState(), now_s)
        if decision.verdict != "place" or decision.chosen is None:
            return False
        slot_id = decision.chosen.slot_id
        if decision.chosen.preempts is not None:
            self.preempt(decision.chosen.preempts, now_s)
        self.granted[wish.lease_id], _ = preemption.granted_priority(wish, tenants[wish.tenant])
        self.book = ledger.reserve(self.book, wish.lease_id, slot_id, now_s)
        self.fair = fairness.started(self.pool.fairness, self.fair, wish.lease_id, now_s)
        if self.book.slots[slot_id].state is SlotState.IDLE:
            self.prepare(slot_id, now_s)
        return True

    def prepare(self, slot_id: str, now_s: float) -> None:
        """The slot is idle: swap to what its lease needs, or grant."""
        slot = self.book.slots[slot_id]
        if slot.lease_id is None or slot.engine is None:
            return
        model = self.book.leases[slot.lease_id].wish.model
        if slot.engine.model != model:
            self.book = ledger.slot_event(self.book, slot_id, SlotEvent.SWAP, now_s, ledger.Engine(model, FINGERPRINT))
            self.at(now_s + self.pool.placement.prediction.process_s["swap"], "swapped", slot_id)
            return
        self.book = ledger.grant(self.book, slot_id, now_s)
        lease_id = slot.lease_id
        self.outcome.waits_s.setdefault(lease_id, now_s - self.wanted[lease_id].at_s)
        self.began_s[lease_id] = now_s
        self.stamps[lease_id] = self.stamps.get(lease_id, 0) + 1
        self.at(now_s + self.left_s[lease_id], "done", lease_id)

    def preempt(self, lease_id: str, now_s: float) -> None:
        self.left_s[lease_id] -= now_s - self.began_s[lease_id]
        self.outcome.preemptions[lease_id] = self.outcome.preemptions.get(lease_id, 0) + 1
        self.stamps[lease_id] += 1
        self.leave(lease_id, LeaseEvent.PREEMPT, now_s)
        self.book = ledger.lease_event(self.book, lease_id, LeaseEvent.ACQUIRE, now_s)
        _, self.fair = fairness.enqueue(self.pool.fairness, self.fair, self.book.leases[lease_id].wish, now_s)

    def leave(self, lease_id: str, event: LeaseEvent, now_s: float) -> None:
        slot_id = self.book.leases[lease_id].slot_id
        self.book = ledger.lease_event(self.book, lease_id, event, now_s)
        self.fair = fairness.ended(self.pool.fairness, self.fair, lease_id, now_s)
        self.outcome.busy_slot_s += now_s - self.began_s[lease_id]
        if slot_id is not None:
            self.at(now_s + self.pool.drain_s, "drained", slot_id)
        if event is LeaseEvent.RELEASE:
            self.book = ledger.sweep(self.book, now_s, keep_s=-1.0)

    def held(self) -> list[preemption.HeldLease]:
        found = []
        for slot in self.book.slots.values():
            if slot.lease_id is None:
                continue
            lease = self.book.leases[slot.lease_id]
            if lease.state is LeaseState.ACTIVE:
                found.append(
                    preemption.HeldLease(
                        slot.lease_id,
                        slot.slot_id,
                        lease.wish.tenant,
                        self.granted[slot.lease_id],
                        False,
                        lease.since_s,
                    )
                )
        return found

    def tenants(self, now_s: float) -> dict[str, preemption.TenantUse]:
        weights = {tenant: self.pool.fairness.weight(tenant) for tenant in self.seen}
        means = {tenant: fairness.mean_slots(self.pool.fairness, self.fair, tenant, now_s) for tenant in self.seen}
        return preemption.uses(weights, self.held(), means, self.pool.slot_count)

    def view(self, slot: ledger.Slot, chosen: Mapping[str, preemption.Victim]) -> placement.SlotView:
        victim = chosen.get(slot.slot_id)
        view = placement.SlotView(
            slot.slot_id, slot.state, slot.engine, slot.sleeping, tier="ram", memory_bytes=1, free=slot.lease_id is None
        )
        busy_left_s = self.pool.drain_s if slot.state is SlotState.DRAINING else 0.0
        if victim is None:
            return replace(view, busy_left_s=busy_left_s)
        return replace(view, preempts=victim.lease.lease_id, preempt_reason=victim.reason)
