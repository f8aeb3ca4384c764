"""Leases that compete for slots, in virtual time, decided by the policies that the coordinator runs.

Shows what a coordinator does with them: at every event, go through the waiting leases in fair order and place each
that can be placed. Work that is preempted queues again at once and goes on where it was. Every slot starts with an
engine of the one fingerprint, so what is measured is waiting and swapping, not booting.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilotlight_pool.policy.leases import ledger
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent, LeaseState
from pilotlight_pool.policy.leases.lease_terms import LeaseWish, Priority
from pilotlight_pool.policy.leases.slot_lifecycle import SlotEvent, SlotState
from pilotlight_pool.policy.placement import eviction_rules, fairness, placement, preemption
from pilotlight_pool.policy.placement.prediction import PredictionState
from pilotlight_pool.policy.placement.queue_round import QueueRound

FINGERPRINT = "f"
_AT_REST = frozenset({SlotState.IDLE, SlotState.EMPTY})
_DONE = {SlotEvent.BOOT: "booted", SlotEvent.SWAP: "swapped", SlotEvent.STOP: "stopped"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A lease that is wanted at `at_s` for `work_s` seconds of work, then released."""

    at_s: float
    lease_id: str
    tenant: str
    model: str
    work_s: float
    priority: Priority = "normal"
    fingerprint: str = FINGERPRINT


@dataclass(frozen=True, slots=True)
class Pool:
    """`drain_s` is what a preempted or released engine needs until it is free."""

    slot_count: int
    fairness: fairness.FairnessSpec
    contest: eviction_rules.ContestSpec
    drain_s: float = 0.05


@dataclass
class Outcome:
    """`waits_s`: per lease, from wanting to ready (queue, drain, swap); `first_eta_s`: what had been predicted for it
    when it came. `busy_slot_s`: time at work by tenant, `idle_slot_s`: of free slots while leases
    waited. `refused`: with the sentence that said why."""

    waits_s: dict[str, float] = field(default_factory=dict)
    first_eta_s: dict[str, float | None] = field(default_factory=dict)
    preemptions: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    busy_slot_s: dict[str, float] = field(default_factory=dict)
    idle_slot_s: float = 0.0
    finished_at_s: dict[str, float] = field(default_factory=dict)


def simulate(pool: Pool, arrivals: Sequence[Arrival], until_s: float) -> Outcome:
    """Run the arrivals until `until_s`."""
    run = _Run(pool)
    for arrival in arrivals:
        run.at(arrival.at_s, "arrive", arrival.lease_id)
        run.wanted[arrival.lease_id] = arrival
    while run.events and run.events[0][0] <= until_s:
        now_s, _, kind, subject, stamp = heapq.heappop(run.events)
        run.outcome.idle_slot_s += run.idle_slots() * (now_s - run.now_s)
        run.now_s = now_s
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
        self.seen: set[str] = set()
        self.now_s = 0.0
        self.busy_until_s: dict[str, float] = {}
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
        elif kind in {"swapped", "booted"}:
            self.book = ledger.slot_event(self.book, subject, SlotEvent(kind), now_s)
            self.prepare(subject, now_s)
        elif kind == "stopped":
            self.book = ledger.slot_event(self.book, subject, SlotEvent.STOPPED, now_s)
            self.prepare(subject, now_s)
        elif kind == "done" and stamp == self.stamps.get(subject, 0):
            self.leave(subject, LeaseEvent.RELEASE, now_s)
            self.outcome.finished_at_s[subject] = now_s
        self.dispatch(now_s)

    def idle_slots(self) -> int:
        """Slots that nobody has while somebody waits."""
        if not self.fair.waiting:
            return 0
        return sum(slot.lease_id is None and slot.state in _AT_REST for slot in self.book.slots.values())

    def arrive(self, arrival: Arrival, now_s: float) -> None:
        wish = LeaseWish(arrival.lease_id, arrival.tenant, arrival.model, arrival.fingerprint, arrival.priority)
        refusal, self.fair = fairness.enqueue(self.pool.fairness, self.fair, wish, now_s)
        if refusal is not None:
            self.outcome.refused[arrival.lease_id] = refusal
            return
        self.seen.add(arrival.tenant)
        self.left_s[arrival.lease_id] = arrival.work_s
        self.book = ledger.admit(self.book, wish, float("inf"), now_s)

    def dispatch(self, now_s: float) -> None:
        """One round over the queue; every arrival is told once when it can expect its engine."""
        this_round = QueueRound(self.pool.contest, PredictionState(), now_s)
        for lease_id in fairness.order(self.pool.fairness, self.fair, now_s):
            wish = self.book.leases[lease_id].wish
            hold_s = fairness.usual_hold_s(self.fair, wish.tenant)
            kind = (wish.tenant, wish.priority, wish.fingerprint)
            decision = this_round.known(kind, wish, hold_s)
            if decision is None:
                others = [self.book.leases[other].wish for other in self.fair.waiting if other != lease_id]
                wanted = frozenset(name for other in others for name in (other.fingerprint, other.model))
                now = eviction_rules.Contest(self.held(), self.tenants(now_s), wanted)
                views = [self.view(slot, now_s) for slot in self.book.slots.values()]
                decision = this_round.decide(kind, wish, views, now, hold_s)
            self.outcome.first_eta_s.setdefault(lease_id, decision.eta_s)
            self.carry_out(wish, decision, now_s)

    def carry_out(self, wish: LeaseWish, decision: placement.Placement, now_s: float) -> None:
        if decision.verdict != "place" or decision.chosen is None:
            return
        slot_id = decision.chosen.slot_id
        if decision.chosen.preempts is not None:
            self.give_way(decision.chosen.preempts, now_s)
        self.book = ledger.reserve(self.book, wish.lease_id, slot_id, now_s)
        self.fair = fairness.started(self.pool.fairness, self.fair, wish.lease_id, now_s)
        if self.book.slots[slot_id].state is SlotState.IDLE:
            self.prepare(slot_id, now_s)

    def prepare(self, slot_id: str, now_s: float) -> None:
        """The slot is idle: swap to what its lease needs, or grant."""
        slot = self.book.slots[slot_id]
        if slot.lease_id is None:
            return
        wish = self.book.leases[slot.lease_id].wish
        engine = ledger.Engine(wish.model, wish.fingerprint)
        took_s = self.pool.contest.placement.prediction.process_s
        if slot.engine is None:
            self.move(slot_id, SlotEvent.BOOT, now_s, now_s + took_s["fork"], engine)
            return
        if slot.engine.fingerprint != wish.fingerprint:
            self.move(slot_id, SlotEvent.STOP, now_s, now_s + self.pool.contest.placement.stop_s)
            return
        if slot.engine.model != wish.model:
            self.move(slot_id, SlotEvent.SWAP, now_s, now_s + took_s["swap"], engine)
            return
        self.book = ledger.grant(self.book, slot_id, now_s)
        lease_id = slot.lease_id
        self.outcome.waits_s.setdefault(lease_id, now_s - self.wanted[lease_id].at_s)
        self.began_s[lease_id] = now_s
        self.stamps[lease_id] = self.stamps.get(lease_id, 0) + 1
        self.at(now_s + self.left_s[lease_id], "done", lease_id)

    def move(
        self, slot_id: str, event: SlotEvent, now_s: float, until_s: float, engine: ledger.Engine | None = None
    ) -> None:
        """A step that takes time; what comes after it is the event's other half."""
        self.book = ledger.slot_event(self.book, slot_id, event, now_s, engine)
        self.busy_until_s[slot_id] = until_s
        self.at(until_s, _DONE[event], slot_id)

    def give_way(self, lease_id: str, now_s: float) -> None:
        lease = self.book.leases[lease_id]
        self.outcome.preemptions[lease_id] = self.outcome.preemptions.get(lease_id, 0) + 1
        if lease.state is LeaseState.PLACING:
            self.book = ledger.lease_event(self.book, lease_id, LeaseEvent.DISPLACE, now_s)
            self.fair = fairness.unseated(self.pool.fairness, self.fair, lease_id, now_s)
            _, self.fair = fairness.enqueue(self.pool.fairness, self.fair, lease.wish, now_s, lease.queued_at_s)
            return
        self.left_s[lease_id] -= now_s - self.began_s[lease_id]
        self.stamps[lease_id] += 1
        self.leave(lease_id, LeaseEvent.PREEMPT, now_s)
        self.book = ledger.lease_event(self.book, lease_id, LeaseEvent.ACQUIRE, now_s)
        _, self.fair = fairness.enqueue(self.pool.fairness, self.fair, self.book.leases[lease_id].wish, now_s)

    def leave(self, lease_id: str, event: LeaseEvent, now_s: float) -> None:
        slot_id = self.book.leases[lease_id].slot_id
        self.book = ledger.lease_event(self.book, lease_id, event, now_s)
        ending = fairness.ended if event is LeaseEvent.RELEASE else fairness.unseated
        self.fair = ending(self.pool.fairness, self.fair, lease_id, now_s)
        tenant, busy_slot_s = self.wanted[lease_id].tenant, self.outcome.busy_slot_s
        busy_slot_s[tenant] = busy_slot_s.get(tenant, 0.0) + now_s - self.began_s[lease_id]
        if slot_id is not None:
            self.busy_until_s[slot_id] = now_s + self.pool.drain_s
            self.at(now_s + self.pool.drain_s, "drained", slot_id)
        if event is LeaseEvent.RELEASE:
            self.book = ledger.sweep(self.book, now_s, keep_s=-1.0)

    def held(self) -> list[preemption.HeldLease]:
        found = []
        for slot in self.book.slots.values():
            if slot.lease_id is None:
                continue
            lease = self.book.leases[slot.lease_id]
            placing = lease.state is LeaseState.PLACING
            wish = lease.wish
            found.append(
                preemption.HeldLease(
                    wish.lease_id, slot.slot_id, wish.tenant, wish.priority, placing, False, lease.since_s
                )
            )
        return found

    def tenants(self, now_s: float) -> dict[str, preemption.TenantUse]:
        weights = {tenant: self.pool.fairness.weight(tenant) for tenant in self.seen}
        means = fairness.mean_slots(self.pool.fairness, self.fair, now_s)
        return preemption.uses(weights, self.held(), means, self.pool.slot_count)

    def view(self, slot: ledger.Slot, now_s: float) -> placement.SlotView:
        return placement.SlotView(
            slot.slot_id,
            slot.state,
            slot.engine,
            slot.sleeping,
            tier="ram",
            memory_bytes=1,
            free=slot.lease_id is None,
            since_s=slot.since_s,
            free_in_s=fairness.lease_rest_s(self.fair, slot.lease_id or "", now_s),
            busy_left_s=max(0.0, self.busy_until_s.get(slot.slot_id, 0.0) - now_s),
        )
