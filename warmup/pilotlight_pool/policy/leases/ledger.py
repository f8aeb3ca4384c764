"""Who holds what: every lease and every slot of the pool, as one immutable value.

The only place that moves leases and slots together, so that these hold after every step (the tests' `ledger_check`):
- a lease in `HOLDS_SLOT` names exactly one slot and that slot names it back; any other lease names none;
- a slot has one holder (`lease_id`) and may have sharers beside it, each pair of which may share; while it is leased
  its holder is active or idle, and while it is not, none of them is;
- a lease that was admitted stays until it has ended and was swept.

Pure. It never chooses (placement, fairness and preemption do) and never talks to an agent. A step that the tables do
not allow raises LifeCycleViolation and leaves the old ledger as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pilotlight_pool.policy.leases.isolation import after_serving, may_reuse
from pilotlight_pool.policy.leases.lease_lifecycle import ENDED, HOLDS_SLOT, LeaseEvent
from pilotlight_pool.policy.leases.lease_lifecycle import next_state as next_lease_state
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.slot_lifecycle import LifeCycleViolation, SlotEvent, SlotState
from pilotlight_pool.policy.leases.slot_lifecycle import next_state as next_slot_state
from pilotlight_protocol.leases import SERVING, Isolation, LeaseState


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine process in a slot. `tenant` and `isolation`: whom it has served since it booted (see isolation.py).

    `owner`: whose weights it holds, i.e. the tenant that had it last or for whom it was warmed. `booted_s`: since when
    it lives.
    """

    model: str
    fingerprint: str
    tenant: str = ""
    isolation: Isolation = "shared"
    owner: str = ""
    booted_s: float = 0.0

    @property
    def kind(self) -> tuple[str, str]:
        """Engines of one kind answer alike: the same weights, booted with the same arguments."""
        return self.model, self.fingerprint


@dataclass(frozen=True, slots=True)
class Slot:
    """A device share. `lease_id` is the lease it serves or is being made ready for, which is charged; `sharers` are
    served beside it, the next holder first. `sleeping` are CUDA's sleepers."""

    slot_id: str
    state: SlotState = SlotState.EMPTY
    since_s: float = 0.0
    engine: Engine | None = None
    lease_id: str | None = None
    sleeping: tuple[Engine, ...] = ()
    sharers: tuple[str, ...] = ()

    @property
    def lease_ids(self) -> tuple[str, ...]:
        return self.sharers if self.lease_id is None else (self.lease_id, *self.sharers)


@dataclass(frozen=True, slots=True)
class Lease:
    """A wish and what became of it. `tries` counts engines lost under it."""

    wish: LeaseWish
    state: LeaseState
    since_s: float
    queued_at_s: float
    expires_at_s: float
    slot_id: str | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    leases: Mapping[str, Lease]
    slots: Mapping[str, Slot]


def empty_ledger(slot_ids: Iterable[str], now_s: float) -> Ledger:
    """A pool without leases; every slot empty."""
    return Ledger({}, {slot_id: Slot(slot_id, since_s=now_s) for slot_id in slot_ids})


def admit(ledger: Ledger, wish: LeaseWish, expires_at_s: float, now_s: float) -> Ledger:
    """Queue a new lease. The same lease id again changes nothing but its expiry, so a retried call doubles nothing."""
    known = ledger.leases.get(wish.lease_id)
    if known is not None:
        return heartbeat(ledger, wish.lease_id, expires_at_s)
    return _with_lease(ledger, Lease(wish, LeaseState.QUEUED, now_s, now_s, expires_at_s))


def heartbeat(ledger: Ledger, lease_id: str, expires_at_s: float) -> Ledger:
    """Put the expiry off; a lease that has ended stays ended."""
    lease = ledger.leases[lease_id]
    if lease.state in ENDED:
        return ledger
    return _with_lease(ledger, replace(lease, expires_at_s=max(lease.expires_at_s, expires_at_s)))


def reserve(ledger: Ledger, lease_id: str, slot_id: str, now_s: float) -> Ledger:
    """Bind a queued lease to a slot that nobody holds; the slot is then made ready for it."""
    lease, slot = ledger.leases[lease_id], ledger.slots[slot_id]
    if slot.lease_id is not None:
        raise LifeCycleViolation(f"slot {slot_id}", f"held by lease {slot.lease_id}", "reserve", "its release")
    placed = replace(_lease_after(lease, LeaseEvent.PLACE, now_s), slot_id=slot_id)
    return _with_slot(_with_lease(ledger, placed), replace(slot, lease_id=lease_id))


def share(ledger: Ledger, lease_id: str, slot_id: str, now_s: float) -> Ledger:
    """Bind a queued lease to a slot that others hold with which it may share: it is let in beside them."""
    lease, slot = ledger.leases[lease_id], ledger.slots[slot_id]
    if not may_be_beside(ledger, slot, lease.wish):
        raise LifeCycleViolation(f"slot {slot_id}", f"held by lease {slot.lease_id}", "share", "by its endpoint's own")
    placed = replace(_lease_after(lease, LeaseEvent.PLACE, now_s), slot_id=slot_id)
    return _with_slot(_with_lease(ledger, placed), replace(slot, sharers=(*slot.sharers, lease_id)))


def may_be_beside(ledger: Ledger, slot: Slot, wish: LeaseWish) -> bool:
    """Whether those that hold the slot may share it with the wish: another tenant's only where the engine that is there
    has served nobody who wanted to be apart."""
    engine = slot.engine
    if slot.lease_id is None:
        return False
    if wish.adapter and engine is not None and engine.model == wish.model:
        apart = not may_reuse(engine.tenant, engine.isolation, wish)
        if apart:
            return False
    return all(ledger.leases[lease_id].wish.may_share_with(wish) for lease_id in slot.lease_ids)


def admit_sharer(ledger: Ledger, lease_id: str, now_s: float) -> Ledger:
    """The engine has let a sharer in: from now on it serves that lease too."""
    lease = ledger.leases[lease_id]
    slot = ledger.slots[lease.slot_id] if lease.slot_id is not None else None
    if slot is None or lease_id not in slot.sharers or slot.state is not SlotState.LEASED:
        raise LifeCycleViolation(f"lease {lease_id}", lease.state, LeaseEvent.READY, "share() first")
    if (engine := slot.engine) is not None:
        tenant, isolation = after_serving(engine.tenant, engine.isolation, lease.wish)
        ledger = _with_slot(ledger, replace(slot, engine=replace(engine, tenant=tenant, isolation=isolation)))
    return _with_lease(ledger, _lease_after(lease, LeaseEvent.READY, now_s))


def slot_event(ledger: Ledger, slot_id: str, event: SlotEvent, now_s: float, engine: Engine | None = None) -> Ledger:
    """Move a slot. `engine` is the one that BOOT, WAKE or SWAP is about to bring, or that SWAP_REFUSED has kept.

    A slot that dies or fails a swap takes its leases' slot away: they queue again (or are preempted if they were
    idle). STOP and SLEEP keep a reservation, since the slot makes room for it. LEASE is `grant`'s
    alone, and DRAIN `lease_event`'s: a slot drains because its lease leaves it, never under a lease that stays.
    """
    slot = ledger.slots[slot_id]
    if event in {SlotEvent.LEASE, SlotEvent.DRAIN}:
        raise LifeCycleViolation(f"slot {slot_id}", slot.state, event, "grant() or lease_event()")
    state = next_slot_state(slot.state, event, slot_id)
    if event in {SlotEvent.DIED, SlotEvent.SWAP_FAILED}:
        for lease_id in slot.lease_ids:
            ledger = _take_slot(ledger, lease_id, LeaseEvent.ENGINE_LOST, now_s)
        slot = ledger.slots[slot_id]
    return _with_slot(ledger, _slot_after(slot, event, state, engine, now_s))


def discard_sleeper(ledger: Ledger, slot_id: str, engine: Engine) -> Ledger:
    """A sleeping engine of the slot is gone; one that does not sleep there (any more) changes nothing."""
    slot = ledger.slots[slot_id]
    return _with_slot(ledger, replace(slot, sleeping=_without(slot.sleeping, engine)))


def grant(ledger: Ledger, slot_id: str, now_s: float, fingerprint: str | None = None) -> Ledger:
    """The slot is idle with the engine of the lease it was reserved for: from now on it serves that lease.

    `fingerprint`: what the slot's node calls the wish's (it contains vLLM's version); None where that is its own.
    """
    slot = ledger.slots[slot_id]
    if slot.lease_id is None or slot.engine is None:
        raise LifeCycleViolation(f"slot {slot_id}", slot.state, SlotEvent.LEASE, "reserve() first")
    lease = ledger.leases[slot.lease_id]
    if slot.engine.model != lease.wish.model:
        raise LifeCycleViolation(f"slot {slot_id}", f"loaded with {slot.engine.model}", SlotEvent.LEASE, "swap")
    if slot.engine.fingerprint != (lease.wish.fingerprint if fingerprint is None else fingerprint):
        was = f"booted as {slot.engine.fingerprint}"
        raise LifeCycleViolation(f"slot {slot_id}", was, SlotEvent.LEASE, "stop and boot")
    if not may_reuse(slot.engine.tenant, slot.engine.isolation, lease.wish):
        raise LifeCycleViolation(f"slot {slot_id}", f"used by {slot.engine.tenant}", SlotEvent.LEASE, "stop and boot")
    tenant, isolation = after_serving(slot.engine.tenant, slot.engine.isolation, lease.wish)
    engine = replace(slot.engine, tenant=tenant, isolation=isolation, owner=lease.wish.tenant)
    state = next_slot_state(slot.state, SlotEvent.LEASE, slot_id)
    ledger = _with_lease(ledger, _lease_after(lease, LeaseEvent.READY, now_s))
    return _with_slot(ledger, replace(slot, state=state, since_s=now_s, engine=engine))


def lease_event(ledger: Ledger, lease_id: str, event: LeaseEvent, now_s: float) -> Ledger:
    """Move a lease. Where it loses its slot by that, a sharer follows it as the holder; a slot that serves nobody any
    more starts to drain, and one that was reserved is free again.

    PLACE is `reserve`'s, READY is `grant`'s and ENGINE_LOST is `slot_event`'s alone.
    """
    lease = ledger.leases[lease_id]
    if event in {LeaseEvent.PLACE, LeaseEvent.READY, LeaseEvent.ENGINE_LOST}:
        raise LifeCycleViolation(f"lease {lease_id}", lease.state, event, "reserve(), grant() or slot_event()")
    if next_lease_state(lease.state, event, lease_id) in HOLDS_SLOT or lease.slot_id is None:
        return _with_lease(ledger, _lease_after(lease, event, now_s))
    ledger = _take_slot(ledger, lease_id, event, now_s)
    slot = ledger.slots[lease.slot_id]
    if slot.state is not SlotState.LEASED or is_served(ledger, slot):
        return ledger
    return _with_slot(ledger, replace(slot, state=next_slot_state(slot.state, SlotEvent.DRAIN), since_s=now_s))


def is_served(ledger: Ledger, slot: Slot) -> bool:
    """Whether the slot's engine answers its holder."""
    return slot.lease_id is not None and ledger.leases[slot.lease_id].state in SERVING


def is_served_elsewhere(ledger: Ledger, lease_id: str) -> bool:
    """Whether the lease has no engine yet, and another one of its endpoint has."""
    lease = ledger.leases[lease_id]
    return lease.state not in SERVING and any(
        other.state in SERVING and other.wish.sharing_terms == lease.wish.sharing_terms
        for slot in ledger.slots.values() if is_served(ledger, slot)
        for other in (ledger.leases[lease_id] for lease_id in slot.lease_ids)
    )  # fmt: skip


def expire(ledger: Ledger, now_s: float) -> tuple[Ledger, tuple[str, ...]]:
    """End every lease whose heartbeats stopped; returns the ids, oldest expiry first."""
    late = sorted(
        (lease.expires_at_s, lease_id)
        for lease_id, lease in ledger.leases.items()
        if lease.state not in ENDED and lease.expires_at_s <= now_s
    )
    for _, lease_id in late:
        ledger = lease_event(ledger, lease_id, LeaseEvent.EXPIRE, now_s)
    return ledger, tuple(lease_id for _, lease_id in late)


def sweep(ledger: Ledger, now_s: float, keep_s: float) -> Ledger:
    """Forget leases that ended more than `keep_s` ago, so that the ledger stays bounded."""
    kept = {
        lease_id: lease
        for lease_id, lease in ledger.leases.items()
        if lease.state not in ENDED or now_s - lease.since_s <= keep_s
    }
    return replace(ledger, leases=kept)


def _lease_after(lease: Lease, event: LeaseEvent, now_s: float) -> Lease:
    state = next_lease_state(lease.state, event, lease.wish.lease_id)
    tries = lease.tries + (event is LeaseEvent.ENGINE_LOST)
    slot_id = lease.slot_id if state in HOLDS_SLOT else None
    return replace(lease, state=state, since_s=now_s, slot_id=slot_id, tries=tries)


def _take_slot(ledger: Ledger, lease_id: str, event: LeaseEvent, now_s: float) -> Ledger:
    lease = ledger.leases[lease_id]
    after = _lease_after(lease, event, now_s)
    if lease.slot_id is not None:
        ledger = _with_slot(ledger, without_lease(ledger.leases, ledger.slots[lease.slot_id], lease_id))
    return _with_lease(ledger, after)


def without_lease(leases: Mapping[str, Lease], slot: Slot, lease_id: str) -> Slot:
    """The slot without this lease; a sharer that is served follows its holder before one that is not yet."""
    sharers = tuple(other for other in slot.sharers if other != lease_id)
    if slot.lease_id != lease_id:
        return replace(slot, sharers=sharers)
    served = (other for other in sharers if leases[other].state in SERVING)
    following = next(served, sharers[0] if sharers else None)
    return replace(slot, lease_id=following, sharers=tuple(other for other in sharers if other != following))


def _slot_after(slot: Slot, event: SlotEvent, state: SlotState, engine: Engine | None, now_s: float) -> Slot:
    after = replace(slot, state=state, since_s=now_s)
    if event is SlotEvent.SWAP_REFUSED:
        return replace(after, engine=engine)
    if event in {SlotEvent.BOOT, SlotEvent.WAKE, SlotEvent.SWAP}:
        if engine is None:
            raise LifeCycleViolation(f"slot {slot.slot_id}", slot.state, event, "with the engine it brings")
        sleeping = slot.sleeping
        if event is SlotEvent.WAKE:
            if engine not in sleeping:
                raise LifeCycleViolation(f"slot {slot.slot_id}", slot.state, event, "an engine that sleeps here")
            sleeping = _without(sleeping, engine)
        if event is SlotEvent.SWAP and slot.engine is not None:
            # New weights, same process: what the process remembers of its tenants stays.
            old = slot.engine
            engine = replace(engine, tenant=old.tenant, isolation=old.isolation, booted_s=old.booted_s)
        if event is SlotEvent.BOOT:
            engine = replace(engine, booted_s=now_s)
        return replace(after, engine=engine, sleeping=sleeping)
    if event is SlotEvent.BOOTED and slot.engine is not None:
        return replace(after, engine=replace(slot.engine, booted_s=now_s))
    if event is SlotEvent.SLEPT and slot.engine is not None:
        return replace(after, engine=None, sleeping=(*slot.sleeping, slot.engine))
    if event is SlotEvent.STOPPED:
        return replace(after, engine=None)
    return after


def _without(sleeping: tuple[Engine, ...], engine: Engine) -> tuple[Engine, ...]:
    # Two that look alike may sleep in one slot: an engine that was swapped to a sleeper's model went to sleep itself.
    first = sleeping.index(engine) if engine in sleeping else len(sleeping)
    return sleeping[:first] + sleeping[first + 1 :]


def _with_lease(ledger: Ledger, lease: Lease) -> Ledger:
    return replace(ledger, leases={**ledger.leases, lease.wish.lease_id: lease})


def _with_slot(ledger: Ledger, slot: Slot) -> Ledger:
    return replace(ledger, slots={**ledger.slots, slot.slot_id: slot})
